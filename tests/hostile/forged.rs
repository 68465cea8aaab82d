//! Liars about what leads to a log: a kernel's names, its types, the files
//! it is read from.
//!
//! Each makes more of itself than its bytes: a token stands for many, a place
//! looks like the beginning of as many others, a hole is read as memory.

use std::ops::ControlFlow;
use std::path::Path;

use qemu_logbuf::arch::Arch;
use qemu_logbuf::guest::{Memory, dump};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::kernel::{Resolve, kallsyms as names, scan as scans};
use qemu_logbuf::printk::craft::Sheet;

const BASE: u64 = 0xc000_0000_0000_0000;

/// Find a kernel's names and name some places; how many symbols there are.
pub fn kallsyms(memory: &dyn Memory, shown: &mut impl std::io::Write) -> usize {
    let Some(found) = names::find(memory).expect("it is read") else { return 0 };
    let places = found.resolve(&[BASE + 2, BASE + 6, BASE + 14, BASE + 500]).expect("it is read");
    for (name, _) in places.into_iter().flatten() {
        shown.write_all(name.as_bytes()).expect("counted");
    }
    let _ = found.guest_names();
    found.len()
}

/// Look for a log without names; whether there is any.
pub fn scan(memory: &dyn Memory) -> usize {
    let found = scans::scan(memory, &mut |_, _| ControlFlow::Continue(())).expect("it is read");
    usize::from(matches!(found.verdict, scans::Verdict::Live(_)))
}

/// Look for a log in the dump at `path`.
pub fn core(path: &Path) -> usize {
    scan(&dump::open(path, None).expect("a dump"))
}

/// Read the kernel at `path`; how many names it has.
pub fn elf(path: &Path) -> usize {
    Elf::open(path).and_then(|elf| elf.names()).map_or(0, |names| names.symbols.len())
}

fn memory(bytes: Vec<u8>) -> Sheet {
    Sheet { arch: Arch::PPC64LE, base: 0, bytes }
}

fn number(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_le_bytes());
}

/// A token table and its index: a digit stands for itself, token 1 for
/// `long`, the others for two letters.
fn tokens(bytes: &mut Vec<u8>, long: &[u8]) {
    let (start, mut index) = (bytes.len(), Vec::new());
    for token in 0..=255_u8 {
        index.push((bytes.len() - start) as u16);
        match token {
            1 => bytes.extend(long),
            0x20..0x7f => bytes.push(token),
            _ => bytes.extend(b"ab"),
        }
        bytes.push(0);
    }
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.extend(index.iter().flat_map(|at| at.to_le_bytes()));
}

/// A whole kallsyms, three of whose names are 490 MB long.
pub fn long_names() -> Sheet {
    const COUNT: u32 = 257;
    let (mut packed, mut marks) = (Vec::new(), Vec::new());
    for nth in 0..COUNT {
        if nth % 256 == 0 {
            marks.push(packed.len() as u32);
        }
        match nth {
            0 => packed.extend(b"\x06T_text"),
            1..=3 => {
                packed.extend([0xff, 0xff, b'T']);
                packed.extend([1; 0x7ffe]);
            }
            _ => packed.extend(b"\x02Tf"),
        }
    }
    let mut bytes = vec![0; 4096];
    number(&mut bytes, COUNT);
    number(&mut bytes, 0);
    bytes.extend(packed);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    marks.into_iter().for_each(|mark| number(&mut bytes, mark));
    tokens(&mut bytes, &[b'a'; 15_000]);
    (0..COUNT).for_each(|nth| number(&mut bytes, nth * 4));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(BASE.to_le_bytes());
    memory(bytes)
}

/// A word that is a name and the number of names, again and again: from each
/// of many places all markers are met, and the end is not.
pub fn repeated_word() -> Sheet {
    const COUNT: u32 = 4 << 20 | 3;
    let mut bytes = COUNT.to_le_bytes().repeat(COUNT as usize + (1 << 15) + 16);
    bytes.extend([0x7f; 12]);
    (0..COUNT.div_ceil(256)).for_each(|nth| number(&mut bytes, nth * 1024));
    tokens(&mut bytes, b"ab");
    memory(bytes)
}

/// A thousand runs of markers, from each of which names are looked for at
/// 32,768 places.
pub fn many_markers() -> Sheet {
    let mut bytes = Vec::new();
    for _ in 0..1 << 20 {
        [300, 0, 512].into_iter().for_each(|mark| number(&mut bytes, mark));
    }
    (0..16).for_each(|_| tokens(&mut bytes, b"ab"));
    memory(bytes)
}

/// Nothing but the digits that token tables are found by.
pub fn many_digits() -> Sheet {
    memory(b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0".repeat((16 << 20) / 20))
}

/// A type that is a structure of `members` (name, type, offset).
fn structure(bytes: &mut Vec<u8>, name: u32, members: &[[u32; 3]]) {
    [name, 4 << 24 | members.len() as u32, 16].into_iter().for_each(|n| number(bytes, n));
    members.iter().flatten().for_each(|n| number(bytes, *n));
}

fn types(types: &[u8], strings: &[u8]) -> Sheet {
    let mut bytes = vec![0; 4096];
    bytes.extend([0x9f, 0xeb, 1, 0]);
    let (len, strings_len) = (types.len() as u32, strings.len() as u32);
    [24, 0, len, len, strings_len].into_iter().for_each(|n| number(&mut bytes, n));
    bytes.extend(types);
    bytes.extend(strings);
    bytes.resize(bytes.len().next_multiple_of(65536), 0);
    memory(bytes)
}

/// A structure that holds itself, forty times and without a name.
pub fn unnamed_members() -> Sheet {
    let mut bytes = Vec::new();
    structure(&mut bytes, 1, &[[0, 1, 0]; 40]);
    types(&bytes, b"\0prb_data_block\0")
}

/// Half a million structures, whose names have no end.
pub fn endless_strings() -> Sheet {
    let mut bytes = Vec::new();
    (0..1 << 19).for_each(|nth| structure(&mut bytes, nth, &[]));
    types(&bytes, &vec![b'a'; 8 << 20])
}

/// Nothing but the words that BTF is found by.
pub fn many_headers() -> Sheet {
    memory([0x9f, 0xeb, 1, 0].repeat(4 << 20))
}

/// An ELF header and section headers (name, type, offset, size, link), of
/// which the last names them.
fn sections(sections: &[(u32, u32, u64, u64, u32)]) -> Sheet {
    let mut bytes = b"\x7fELF\x02\x01\x01\0".to_vec();
    bytes.resize(16, 0);
    number(&mut bytes, 21 << 16 | 2);
    number(&mut bytes, 1);
    bytes.extend([BASE, 0, 64].map(u64::to_le_bytes).concat());
    number(&mut bytes, 0);
    let count = sections.len() as u16;
    bytes.extend([64, 56, 0, 64, count, count - 1].map(u16::to_le_bytes).concat());
    for (name, kind, offset, size, link) in sections {
        [*name, *kind].into_iter().for_each(|n| number(&mut bytes, n));
        bytes.extend([0, 0, *offset, *size].map(u64::to_le_bytes).concat());
        [*link, 0].into_iter().for_each(|n| number(&mut bytes, n));
        bytes.extend([0; 16]);
    }
    memory(bytes)
}

/// Notes of 64 MiB each.
pub fn many_notes() -> Sheet {
    let notes: Vec<_> = (0..64).map(|nth| (0, 7, nth, 64 << 20, 0)).collect();
    sections(&notes)
}

/// Sections named by nearly all of a table of 1 MiB.
pub fn long_section_names() -> Sheet {
    let count = 10_000;
    let at = 64 + 64 * (u64::from(count) + 1);
    let mut headers: Vec<_> = (0..count).map(|nth| (nth, 1, 0, 0, 0)).collect();
    headers.push((0, 3, at, 1 << 20, 0));
    let mut sheet = sections(&headers);
    sheet.bytes.resize(at as usize, 0);
    sheet.bytes.resize(sheet.bytes.len() + (1 << 20), b'a');
    sheet
}

/// As many symbols and bytes of their names as are believed.
pub fn many_symbols() -> Sheet {
    sections(&[(0, 0, 0, 0, 0), (0, 2, 4096, 24 << 22, 2), (0, 3, 4096, 128 << 20, 0)])
}

/// A dump in 60,000 pieces, each of which may be a log.
pub fn many_pieces() -> Sheet {
    const COUNT: u64 = 60_000;
    let mut bytes = b"\x7fELF\x02\x01\x01\0".to_vec();
    bytes.resize(16, 0);
    number(&mut bytes, 21 << 16 | 4);
    number(&mut bytes, 1);
    bytes.extend([0, 64, 0].map(u64::to_le_bytes).concat());
    number(&mut bytes, 0);
    bytes.extend([64, 56, COUNT as u16, 64, 0, 0].map(u16::to_le_bytes).concat());
    for nth in 0..COUNT {
        [1, 6].into_iter().for_each(|n| number(&mut bytes, n));
        // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
        bytes.extend([0, 0, nth * 128, 64, 64, 0].map(u64::to_le_bytes).concat());
    }
    memory(bytes)
}
