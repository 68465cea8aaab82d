//! A kernel in whatever file it is started from.
//!
//! What `-kernel` names need not be a `vmlinux`: Power's zImage is an ELF
//! file too, of a small program that unpacks the kernel it carries in a
//! section of its own (`arch/powerpc/boot/wrapper`); a uImage has a header of
//! U-Boot's; either may hold the kernel packed or not, as a stripped ELF file
//! or as bare bytes. Some are nested (a uImage of a zImage: cuImage).

#![deny(clippy::indexing_slicing)]

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::banner;
use super::elf::Elf;
use super::error::SourceError;
use super::functions::Functions;
use super::input::Input;
use super::kallsyms::{self, Kallsyms};
use super::names::Names;
use super::unpack::{LARGEST, Packing};
use crate::arch::Word;
use crate::guest::{AddressRule, Image, Memory, ReadError};

/// How many layers are taken off: a cuImage has three.
const DEEPEST: u32 = 4;

/// How many places that look packed are tried where no header says which is.
const MOST_PLACES: usize = 64;

/// How many bytes are unpacked in all: of a kernel that is, the layers; each
/// of the places may hold as much as the largest, and again such places.
const MOST_UNPACKED: usize = 2 * LARGEST;

/// What is left of both, of all layers together.
struct Left {
    places: usize,
    unpacked: usize,
}

/// A kernel out of a file, unpacked as far as that was needed.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// An ELF file, the one given or one from within it.
    Elf(Box<Elf>),
    /// The bytes that are loaded, from the kernel's first on.
    Bare(Arc<Vec<u8>>, PathBuf),
}

impl Kernel {
    /// The kernel in a file; `path` is what it is called in reports.
    ///
    /// # Errors
    /// [`SourceError::Unknown`] where no kernel is found in it, else as
    /// unpacking or reading fails.
    pub fn open(input: Input, path: PathBuf) -> Result<Self, SourceError> {
        let mut left = Left { places: MOST_PLACES, unpacked: MOST_UNPACKED };
        Self::within(input, &path, DEEPEST, &mut left)
    }

    /// The GNU build id, where it has one.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        match self {
            Self::Elf(elf) => elf.build_id(),
            Self::Bare(..) => None,
        }
    }

    /// The banner.
    ///
    /// # Errors
    /// As reading fails.
    pub fn banner(&self) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            Self::Elf(elf) => elf.banner(),
            Self::Bare(bytes, _) => Ok(banner::in_stream(&mut bytes.as_slice())?),
        }
    }

    /// The names that lead to the log: from its symbol table, else from the
    /// kallsyms it carries.
    ///
    /// # Errors
    /// [`SourceError::NoKallsyms`] where it has neither, else as reading
    /// fails.
    pub fn names(&self) -> Result<Names, SourceError> {
        match self {
            Self::Elf(elf) => match elf.names() {
                Err(SourceError::NoSymbols { .. }) => {
                    Ok(self.kallsyms()?.image_names(elf.path().to_owned()))
                }
                other => other,
            },
            Self::Bare(_, path) => Ok(self.kallsyms()?.image_names(path.clone())),
        }
    }

    /// The functions, to name addresses in code.
    ///
    /// # Errors
    /// As [`Kernel::names`].
    pub fn functions(&self) -> Result<Functions, SourceError> {
        match self {
            Self::Elf(elf) => match elf.functions() {
                Err(SourceError::NoSymbols { .. }) => Ok(self.kallsyms()?.functions()),
                other => other,
            },
            Self::Bare(..) => Ok(self.kallsyms()?.functions()),
        }
    }

    /// The kernel's own symbol table.
    ///
    /// # Errors
    /// [`SourceError::NoKallsyms`] where it has none, else as reading fails.
    pub fn kallsyms(&self) -> Result<Kallsyms, SourceError> {
        let found = match self {
            Self::Elf(elf) => kallsyms::find(&Loaded::new(elf)),
            // Loaded to real address 0, where the kernel begins.
            Self::Bare(bytes, _) => kallsyms::find(&Image::new(0, bytes.to_vec())),
        };
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(SourceError::NoKallsyms { banner: self.banner()? }),
            Err(ReadError::Io(error)) => Err(error.into()),
            Err(_) => Err(SourceError::Malformed("its segments")),
        }
    }

    fn within(
        input: Input,
        path: &PathBuf,
        depth: u32,
        left: &mut Left,
    ) -> Result<Self, SourceError> {
        let depth = depth.checked_sub(1).ok_or(SourceError::Unknown)?;
        let mut head = [0; 64];
        let got = input.read_at(0, &mut head)?;
        let head = head.get(..got).unwrap_or_default();
        if head.starts_with(b"\x7fELF") {
            return Self::within_elf(Elf::parse(input, path.clone())?, path, depth, left);
        }
        if let Some(payload) = uimage(&input, head)? {
            return Self::part(&input, payload, path, depth, left);
        }
        if Packing::of(head).is_some() {
            return Self::part(&input, 0..input.len(), path, depth, left);
        }
        Self::within_bytes(input, path, depth, left)
    }

    fn within_elf(
        elf: Elf,
        path: &PathBuf,
        depth: u32,
        left: &mut Left,
    ) -> Result<Self, SourceError> {
        // The sections that arch/powerpc/boot/wrapper makes, the second for
        // the PlayStation 3.
        let names: [&[u8]; 2] = [b".kernel:vmlinux.strip", b".kernel:vmlinux.bin"];
        if let Some(section) = names.iter().find_map(|name| elf.section(name)) {
            let end = section.offset.saturating_add(section.size);
            return Self::part(elf.input(), section.offset..end, path, depth, left);
        }
        let is_kernel = match elf.names() {
            Ok(_) => true,
            Err(SourceError::NoSymbols { banner, .. }) => banner.is_some(),
            Err(SourceError::NotLinux) => elf.banner()?.is_some(),
            Err(other) => return Err(other),
        };
        if is_kernel {
            return Ok(Self::Elf(Box::new(elf)));
        }
        Self::within_bytes(elf.input().clone(), path, depth, left)
    }

    /// The kernel in a part of a file, which may be packed.
    fn part(
        input: &Input,
        part: Range<u64>,
        path: &PathBuf,
        depth: u32,
        left: &mut Left,
    ) -> Result<Self, SourceError> {
        let mut head = [0; 8];
        let got = input.read_at(part.start, &mut head)?;
        let stream = input.stream(part.start, part.end.saturating_sub(part.start));
        let most = LARGEST.min(left.unpacked);
        let mut bytes = Vec::new();
        let done = match Packing::of(head.get(..got).unwrap_or_default()) {
            Some(packing) => packing.unpack_into(stream, most, &mut bytes),
            None => {
                use std::io::Read as _;
                stream.take(most as u64).read_to_end(&mut bytes).map(|_| ()).map_err(Into::into)
            }
        };
        left.unpacked = left.unpacked.saturating_sub(bytes.len());
        done?;
        Self::within(Input::Bytes(Arc::new(bytes)), path, depth, left)
    }

    /// Bytes without a header: a bare kernel, or a program that unpacks one.
    fn within_bytes(
        input: Input,
        path: &PathBuf,
        depth: u32,
        left: &mut Left,
    ) -> Result<Self, SourceError> {
        if input.len() > LARGEST as u64 {
            return Err(SourceError::Unknown);
        }
        let bytes = match &input {
            Input::Bytes(bytes) => Arc::clone(bytes),
            Input::File(..) => {
                let mut bytes = vec![0; input.len() as usize];
                input.read_exact_at(0, &mut bytes)?;
                Arc::new(bytes)
            }
        };
        if banner::in_stream(&mut bytes.as_slice())?.is_some() {
            return Ok(Self::Bare(bytes, path.clone()));
        }
        let input = Input::Bytes(Arc::clone(&bytes));
        let elf = memchr::memmem::find_iter(&bytes, b"\x7fELF").filter(|place| *place > 0);
        let mut places: Vec<_> = Packing::places(&bytes).chain(elf).collect();
        places.sort_unstable();
        for place in places {
            if left.places == 0 || left.unpacked == 0 {
                break;
            }
            left.places -= 1;
            let found = Self::part(&input, place as u64..input.len(), path, depth, left);
            if found.is_ok() {
                return found;
            }
        }
        Err(SourceError::Unknown)
    }
}

/// The payload of a uImage (`include/image.h` of U-Boot): a header of 64
/// bytes in big endian, and for the type "multi" a list of sizes ended by 0.
fn uimage(input: &Input, head: &[u8]) -> Result<Option<Range<u64>>, SourceError> {
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    if number(0) != Some(0x2705_1956) || head.len() < 64 {
        return Ok(None);
    }
    let size = number(12).unwrap_or_default().into();
    let kind = head.get(30).copied().unwrap_or_default();
    let packing = match head.get(31) {
        Some(2) => Some("bzip2"),
        Some(4) => Some("lzo"),
        _ => None,
    };
    if let Some(packing) = packing {
        return Err(SourceError::Packing(packing));
    }
    if kind != 4 {
        return Ok(Some(64..64 + u64::min(size, input.len())));
    }
    let mut sizes = [0; 4 * 16];
    let got = input.read_at(64, &mut sizes)?;
    let sizes = sizes.get(..got).unwrap_or_default().chunks_exact(4);
    let mut sizes = sizes.filter_map(|size| Some(u32::from_be_bytes(size.try_into().ok()?)));
    let first = sizes.next().unwrap_or_default();
    let list = 1 + sizes.position(|size| size == 0).unwrap_or_default() as u64;
    let start = 64 + 4 * (list + 1);
    Ok(Some(start..start + u64::from(first)))
}

/// What an ELF file puts into memory, by real address.
struct Loaded<'a> {
    elf: &'a Elf,
    /// Real address and offset in the file of each part, as in `ram`.
    offsets: Vec<u64>,
    ram: Vec<Range<u64>>,
}

impl<'a> Loaded<'a> {
    fn new(elf: &'a Elf) -> Self {
        let rule = rule(elf);
        let mut parts: Vec<_> = elf
            .segments()
            .iter()
            .filter_map(|segment| {
                let real = rule.real(segment.address)?;
                let left = elf.input().len().checked_sub(segment.offset)?;
                let end = real.checked_add(segment.size.min(left))?;
                Some((real, end, segment.offset))
            })
            .filter(|(real, end, _)| end > real)
            .collect();
        parts.sort_unstable();
        let (mut offsets, mut ram) = (Vec::new(), Vec::<Range<u64>>::new());
        for (real, end, offset) in parts {
            if ram.last().is_none_or(|last| last.end <= real) {
                ram.push(real..end);
                offsets.push(offset);
            }
        }
        Self { elf, offsets, ram }
    }
}

/// The rule by which the file's addresses are those of a kernel.
fn rule(elf: &Elf) -> AddressRule {
    match elf.arch().word {
        Word::W64 => AddressRule::Linear64,
        Word::W32 => {
            // `CONFIG_PAGE_OFFSET`, which has no more than four bits.
            let lowest = elf.segments().iter().map(|segment| segment.address).min();
            let lowest = u32::try_from(lowest.unwrap_or_default()).unwrap_or_default();
            AddressRule::Linear32 { page_offset: lowest & 0xf000_0000, memstart: 0 }
        }
    }
}

impl Memory for Loaded<'_> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        let at = self.ram.partition_point(|range| range.end <= real);
        let part = self.ram.get(at).zip(self.offsets.get(at));
        let part = part.filter(|(range, _)| range.start <= real && range.end - real >= len);
        let (range, offset) = part.ok_or(ReadError::NotRam { address: real, len })?;
        Ok(self.elf.input().read_exact_at(offset + (real - range.start), buf)?)
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::testing::{Era, Kernel as Made, Table};
    use super::*;
    use crate::arch::Arch;

    const BANNER: &str = "Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";

    /// A stripped kernel that carries kallsyms.
    fn stripped(arch: Arch, era: Era) -> Vec<u8> {
        let mut kernel = Made::new(arch).with_banner(BANNER);
        let banner = kernel.base + kernel.text.len() as u64;
        kernel.rodata.resize(kernel.rodata.len().next_multiple_of(8), 0);
        let table = Table::sample(kernel.arch, kernel.base, banner);
        let at = kernel.here();
        kernel.rodata.extend(table.encode(arch, era, at));
        kernel.stripped = true;
        kernel.build()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut packer = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
        packer.read_to_end(&mut packed).expect("packed");
        packed
    }

    fn zimage(payload: Vec<u8>) -> Vec<u8> {
        let mut wrapper = Made::new(Arch::PPC32);
        wrapper.function("_zimage_start", wrapper.base, 4);
        wrapper.extra = Some((".kernel:vmlinux.strip", payload));
        wrapper.build()
    }

    fn uimage(payload: &[u8], kind: u8, packing: u8) -> Vec<u8> {
        let mut header = vec![0; 64];
        header.splice(0..4, 0x2705_1956_u32.to_be_bytes());
        header.splice(12..16, (payload.len() as u32).to_be_bytes());
        header.splice(28..32, [5, 7, kind, packing]);
        [header, payload.to_vec()].concat()
    }

    fn names(bytes: Vec<u8>) -> Result<Names, SourceError> {
        Kernel::open(Input::Bytes(Arc::new(bytes)), PathBuf::from("zImage"))?.names()
    }

    fn check(bytes: Vec<u8>, what: &str) {
        let names = names(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(names.banner.as_deref(), Some(BANNER.as_bytes()), "{what}");
        assert!(names.address("prb").is_some(), "{what}");
        assert!(matches!(names.source, super::super::Source::ImageKallsyms(_)), "{what}");
    }

    #[test]
    fn a_kernel_is_found_in_every_wrapping() {
        let kernel = stripped(Arch::PPC64, Era::V6_4);
        check(kernel.clone(), "stripped vmlinux");
        check(gzip(&kernel), "vmlinux.gz");
        check(zimage(gzip(&kernel)), "zImage");
        check(zimage(kernel.clone()), "zImage, not packed");
        check(uimage(&gzip(&kernel), 2, 1), "uImage");
        check(uimage(&zimage(gzip(&kernel)), 2, 0), "cuImage");
        check(gzip(&uimage(&gzip(&kernel), 2, 1)), "uImage.gz");
        let list = [(gzip(&kernel).len() as u32).to_be_bytes(), 9_u32.to_be_bytes(), [0; 4]];
        let multi = [list.concat(), gzip(&kernel), b"initramfs".to_vec()].concat();
        check(uimage(&multi, 4, 1), "multi uImage");
        let bare = [vec![0x48; 5000], gzip(&kernel), vec![1; 99]].concat();
        check(bare, "a program that unpacks it");
    }

    #[test]
    fn a_bare_kernel_gives_its_names() {
        let mut kernel = Made::new(Arch::PPC32).with_banner(BANNER);
        kernel.rodata.resize(kernel.rodata.len().next_multiple_of(8), 0);
        let banner = kernel.base + kernel.text.len() as u64;
        let table = Table::sample(kernel.arch, kernel.base, banner);
        let table = table.encode(Arch::PPC32, Era::V4_20, kernel.here());
        let bare = [kernel.text.clone(), kernel.rodata.clone(), table].concat();
        check(bare.clone(), "vmlinux.bin");
        check(uimage(&gzip(&bare), 2, 1), "uImage of vmlinux.bin");
    }

    #[test]
    fn places_within_places_end() {
        // Each place of the outer layer holds as many again, and so on: told
        // apart by a byte, lest they pack to the same.
        let mut inner = vec![0; 16 << 20];
        for _ in 0..3 {
            let packed: Vec<u8> =
                (1..9).flat_map(|n| gzip(&[&[n; 9][..], &inner].concat())).collect();
            inner = [vec![0x48; 64], packed].concat();
        }
        let begun = std::time::Instant::now();
        assert!(matches!(names(inner), Err(SourceError::Unknown)));
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_no_kernel_is_told() {
        assert!(matches!(names(vec![7; 999]), Err(SourceError::Unknown)));
        assert!(matches!(names(Vec::new()), Err(SourceError::Unknown)));
        assert!(matches!(names(uimage(b"BZh", 2, 2)), Err(SourceError::Packing("bzip2"))));
        let mut without = Made::new(Arch::PPC64LE).with_banner(BANNER);
        without.stripped = true;
        assert!(matches!(
            names(gzip(&without.build())),
            Err(SourceError::NoKallsyms { banner: Some(_) })
        ));
        let mut nested = b"end".to_vec();
        for _ in 0..9 {
            nested = gzip(&nested);
        }
        assert!(matches!(names(nested), Err(SourceError::Unknown)));
    }

    proptest::proptest! {
        #[test]
        fn no_damage_makes_it_panic(
            changes in proptest::collection::vec((0..0x4000_usize, 0..=255_u8), 0..12),
            length in 0..0x8000_usize,
        ) {
            let mut bytes = uimage(&zimage(gzip(b"\x7fELF nothing")), 4, 0);
            bytes.truncate(length.max(80));
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes.splice(at..=at, [value]);
            }
            let _ = names(bytes);
        }
    }
}
