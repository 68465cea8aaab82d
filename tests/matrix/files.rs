//! The files a cell boots and names: a kernel hung, stripped, packed, mapped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use object::elf::{EM_PPC64, PT_LOAD};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind};

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

/// A disk whose PReP partition holds a kernel that firmware can load: linked
/// to where it is loaded, and entered by a function descriptor where the
/// kernel is a big-endian one.
pub fn disk(mut image: Vec<u8>) -> Vec<u8> {
    const SECTOR: usize = 512;
    const FIRST: usize = 2048;
    let elf = Elf::of(&image);
    assert!(elf.wide && elf.get(&image, 18, 2) == u64::from(EM_PPC64.0));
    let headers = elf.headers(&image);
    for &header in &headers {
        if elf.get(&image, header, 4) == u64::from(PT_LOAD.0) {
            let real = elf.get(&image, header + 24, 8) + DISK_BASE;
            elf.put(&mut image, header + 16, 8, real);
            elf.put(&mut image, header + 24, 8, real);
        }
    }
    let mut entry = DISK_BASE;
    if elf.big {
        entry -= 0x1000;
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
    }
    elf.put(&mut image, 24, 8, entry);
    let sectors = image.len().div_ceil(SECTOR);
    let mut disk = vec![0; (FIRST + sectors) * SECTOR];
    disk[FIRST * SECTOR..][..image.len()].copy_from_slice(&image);
    // Bootable, PReP, from sector to sector.
    disk[446] = 0x80;
    disk[450] = 0x41;
    disk[454..458].copy_from_slice(&(FIRST as u32).to_le_bytes());
    disk[458..462].copy_from_slice(&(sectors as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
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
