//! The files a cell boots and names: a kernel hung, stripped, packed, mapped.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, Write as _};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object::elf::{EM_PPC64, PT_LOAD};
use object::{Endianness, Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind};

/// Where a kernel is put that firmware loads from a disk: above what firmware
/// needs below.
const DISK_BASE: u64 = 0x200_0000;

/// Fields of an ELF header that differ between word sizes, by offset.
struct Elf {
    wide: bool,
    big: bool,
}

impl Elf {
    fn of(image: &[u8]) -> Self {
        Self { wide: image[4] == 2, big: image[5] == 2 }
    }

    fn get(&self, image: &[u8], at: usize, len: usize) -> u64 {
        let bytes = &image[at..at + len];
        let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if self.big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }

    fn put(&self, image: &mut [u8], at: usize, len: usize, value: u64) {
        let bytes = value.to_be_bytes();
        let mut bytes = bytes[8 - len..].to_vec();
        if !self.big {
            bytes.reverse();
        }
        image[at..at + len].copy_from_slice(&bytes);
    }

    /// Where each program header is.
    fn headers(&self, image: &[u8]) -> Vec<usize> {
        let (table, size, count) = if self.wide { (32, 54, 56) } else { (28, 42, 44) };
        let table = self.get(image, table, if self.wide { 8 } else { 4 }) as usize;
        let size = self.get(image, size, 2) as usize;
        (0..self.get(image, count, 2) as usize).map(|n| table + n * size).collect()
    }
}

/// Take a kernel's symbols away: as strip(1) would, it has no sections left.
pub fn strip(image: &mut [u8]) {
    let elf = Elf::of(image);
    let (sections, length, count) = if elf.wide { (40, 8, 60) } else { (32, 4, 48) };
    elf.put(image, sections, length, 0);
    elf.put(image, count, 2, 0);
    elf.put(image, count + 2, 2, 0);
}

/// Wipe out what a kernel says of its types.
pub fn forget_types(image: &mut [u8]) {
    let file = object::File::parse(&*image).expect("an ELF file");
    let section = file.section_by_name(".BTF").expect("BTF");
    let (offset, size) = section.file_range().expect("bytes");
    image[offset as usize..(offset + size) as usize].fill(0);
}

/// A kernel's `System.map`, as `nm -n` and the kernel's build write it.
pub fn map(image: &[u8]) -> String {
    let file = object::File::parse(image).expect("an ELF file");
    let mut lines: Vec<(u64, char, String)> = file
        .symbols()
        .filter(|symbol| symbol.is_definition() || symbol.section_index().is_some())
        .filter_map(|symbol| {
            let name =
                symbol.name().ok().filter(|name| !name.is_empty() && !name.contains(".L"))?;
            let section = file.section_by_index(symbol.section_index()?).ok()?;
            let kind = match section.kind() {
                SectionKind::Text => 't',
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => 'r',
                SectionKind::UninitializedData => 'b',
                _ => 'd',
            };
            let kind = if symbol.is_global() { kind.to_ascii_uppercase() } else { kind };
            Some((symbol.address(), kind, name.to_owned()))
        })
        .collect();
    lines.sort();
    let digits = if file.is_64() { 16 } else { 8 };
    lines.iter().fold(String::new(), |mut map, (address, kind, name)| {
        let _ = writeln!(map, "{address:0digits$x} {kind} {name}");
        map
    })
}

/// What gzip(1) makes of something.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).expect("memory takes it");
    packer.finish().expect("memory takes it")
}

/// A kernel as U-Boot and QEMU load it: gzipped, without its ELF headers.
pub fn uimage(image: &[u8]) -> Vec<u8> {
    let elf = Elf::of(image);
    let mut flat = Vec::new();
    for header in elf.headers(image) {
        let word = |wide, narrow| match elf.wide {
            true => elf.get(image, header + wide, 8),
            false => elf.get(image, header + narrow, 4),
        };
        if elf.get(image, header, 4) == u64::from(PT_LOAD.0) {
            let (offset, real, size) =
                (word(8, 4) as usize, word(24, 12) as usize, word(32, 16) as usize);
            flat.resize(flat.len().max(real + size), 0);
            flat[real..real + size].copy_from_slice(&image[offset..offset + size]);
        }
    }
    let packed = gzip(&flat);
    let mut header = vec![0; 64];
    let mut put = |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0, 0x2705_1956);
    put(12, packed.len() as u32);
    // Linux, PowerPC, kernel, gzip.
    put(28, 0x0507_0201);
    header[32..39].copy_from_slice(b"Linux-x");
    [header, packed].concat()
}

/// A kernel that firmware can load: linked to where it is loaded, and entered
/// by a function descriptor.
pub fn moved(mut image: Vec<u8>) -> Vec<u8> {
    let elf = Elf::of(&image);
    // A little-endian one is entered without a descriptor, and SLOF takes none.
    assert!(elf.wide && elf.big && elf.get(&image, 18, 2) == u64::from(EM_PPC64.0));
    let headers = elf.headers(&image);
    for &header in &headers {
        if elf.get(&image, header, 4) == u64::from(PT_LOAD.0) {
            let real = elf.get(&image, header + 24, 8) + DISK_BASE;
            elf.put(&mut image, header + 16, 8, real);
            elf.put(&mut image, header + 24, 8, real);
        }
    }
    let entry = DISK_BASE - 0x1000;
    let descriptor = image.len();
    image.extend_from_slice(&DISK_BASE.to_be_bytes());
    image.extend_from_slice(&[0; 16]);
    // In place of the notes.
    let header = *headers.last().expect("a program header");
    for (at, length, value) in [
        (0, 4, 1),
        (4, 4, 6),
        (8, 8, descriptor as u64),
        (16, 8, entry),
        (24, 8, entry),
        (32, 8, 24),
        (40, 8, 24),
        (48, 8, 8),
    ] {
        elf.put(&mut image, header + at, length, value);
    }
    elf.put(&mut image, 24, 8, entry);
    image
}

/// A disk whose PReP partition holds what firmware is to load, and that may
/// have a second one.
pub fn disk(first: Vec<u8>, second: Option<Vec<u8>>) -> Vec<u8> {
    const SECTOR: usize = 512;
    const FIRST: usize = 2048;
    let mut disk = vec![0; FIRST * SECTOR];
    // Bootable and PReP; Linux.
    for (entry, (kind, content)) in
        [(0x8000_0041_u32, Some(first)), (0x83, second)].into_iter().enumerate()
    {
        let Some(content) = content else { continue };
        let start = disk.len() / SECTOR;
        disk.extend(content);
        disk.resize(disk.len().next_multiple_of(SECTOR), 0);
        let entry = 446 + 16 * entry;
        disk[entry] = (kind >> 24) as u8;
        disk[entry + 4] = kind as u8;
        let sectors = disk.len() / SECTOR - start;
        disk[entry + 8..entry + 12].copy_from_slice(&(start as u32).to_le_bytes());
        disk[entry + 12..entry + 16].copy_from_slice(&(sectors as u32).to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// An archive with one file, which GRUB reads as a file system.
pub fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = [&header, content].concat();
    // Two empty records end it.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

/// A zImage with `kernel` in it: one built with the same, which differs in a
/// few instructions.
pub fn rewrapped(mut zimage: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
    let file = object::File::parse(&*zimage).expect("a zImage");
    let section = file.section_by_name(".kernel:vmlinux.strip").expect("a kernel in it");
    let (offset, size) = section.file_range().expect("bytes");
    let place = offset as usize..(offset + size) as usize;
    let mut inner = zimage[place.clone()].to_vec();
    // Not where all of it is packed once more, as for U-Boot.
    let is_packed = !inner.starts_with(b"\x7fELF");
    if is_packed {
        let packed = std::mem::take(&mut inner);
        GzDecoder::new(&*packed).read_to_end(&mut inner).expect("a gzipped kernel");
    }
    let mut end = 0;
    for (to, from) in loaded(&inner).into_iter().zip(loaded(kernel)) {
        end = end.max(to.end);
        inner[to].copy_from_slice(&kernel[from]);
    }
    let packed = if is_packed {
        // The wrapper has the packed length written in it: what nobody loads
        // makes room.
        strip(&mut inner);
        inner[end..].fill(0);
        gzip_best(&inner)
    } else {
        inner
    };
    assert!(packed.len() <= place.len(), "{} bytes do not fit {}", packed.len(), place.len());
    zimage[place.clone()].fill(0);
    zimage[place.start..place.start + packed.len()].copy_from_slice(&packed);
    zimage
}

/// Where the segments of an ELF file are in it.
fn loaded(image: &[u8]) -> Vec<Range<usize>> {
    let file = object::File::parse(image).expect("an ELF file");
    let ranges = file.segments().map(|segment| segment.file_range());
    ranges.map(|(start, size)| start as usize..(start + size) as usize).collect()
}

/// What the kernel's build makes of it, to the byte: `gzip -n -f -9`.
fn gzip_best(bytes: &[u8]) -> Vec<u8> {
    let mut input = tempfile::tempfile().expect("a file");
    input.write_all(bytes).and_then(|()| input.rewind()).expect("written");
    let output = Command::new("gzip").args(["-n", "-9"]).stdin(input).output();
    let output = output.expect("gzip runs");
    assert!(output.status.success());
    output.stdout
}

/// Whether a kernel is of the byte order and word size that `object` says.
pub fn arch(path: &Path) -> String {
    let image = std::fs::read(path).expect("a kernel");
    let file = object::File::parse(&*image).expect("an ELF file");
    match (file.is_64(), file.endianness()) {
        (true, Endianness::Little) => "ppc64le",
        (true, Endianness::Big) => "ppc64",
        (false, _) => "ppc",
    }
    .to_owned()
}
