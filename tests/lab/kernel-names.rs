//! What a kernel file gives: `cargo run --release --example kernel-names --
//! FILE`. Prints the names found, what finding them cost, and what merely
//! reading `.symtab` and `.strtab` costs.

use std::path::PathBuf;
use std::time::Instant;

use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, ReadCache};
use qemu_logbuf::kernel::elf::Elf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = PathBuf::from(args.next().ok_or("kernel-names FILE [names|read|functions]")?);
    let only = args.next().unwrap_or_default();
    let rounds = args.next().and_then(|n| n.to_str()?.parse().ok()).unwrap_or(1);
    let start = Instant::now();
    for _ in 0..rounds {
        match only.to_str() {
            Some("read") => _ = std::hint::black_box(read_tables(&path)?),
            Some("functions") => _ = std::hint::black_box(Elf::open(&path)?.functions()?),
            _ => _ = std::hint::black_box(Elf::open(&path)?.names()?),
        }
    }
    let spent = start.elapsed();
    if only.is_empty() {
        let names = Elf::open(&path)?.names()?;
        println!("{}: {:?}", names.source, names.arch);
        println!("{}", String::from_utf8_lossy(names.banner.as_deref().unwrap_or_default()));
        for (name, symbol) in &names.symbols {
            println!("{:#018x} {:8} {name}", symbol.address, symbol.size);
        }
    }
    println!("{} us each, peak resident {} kB", spent.as_micros() / rounds, peak_resident()?);
    Ok(())
}

/// The plainest way: both tables into memory.
fn read_tables(path: &std::path::Path) -> Result<usize, Box<dyn std::error::Error>> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path)?;
    let cache = ReadCache::new(file.try_clone()?);
    let mut read = 0;
    let header = object::elf::FileHeader64::<Endianness>::parse(&cache)?;
    let endian = header.endian()?;
    for section in header.sections(endian, &cache)?.iter() {
        let kind = section.sh_type(endian);
        let symtab = kind == object::elf::SHT_SYMTAB;
        let strtab = kind == object::elf::SHT_STRTAB && section.sh_size(endian) > 100_000;
        if symtab || strtab {
            let mut bytes = vec![0; section.sh_size(endian) as usize];
            file.read_exact_at(&mut bytes, section.sh_offset(endian))?;
            read += std::hint::black_box(bytes).len();
        }
    }
    Ok(read)
}

fn peak_resident() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default())
}
