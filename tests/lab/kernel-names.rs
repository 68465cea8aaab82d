//! What a kernel file gives: `cargo run --release --example kernel-names --
//! FILE`. Prints the names found, what finding them cost, and what merely
//! reading `.symtab` and `.strtab` costs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{Endianness, ReadCache};
use qemu_logbuf::kernel::elf::Elf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = PathBuf::from(std::env::args_os().nth(1).ok_or("kernel-names FILE")?);
    let mut best = [Duration::MAX; 2];
    let mut names = None;
    let rounds = if std::env::var_os("ONCE").is_some() { 1 } else { 20 };
    for _ in 0..rounds {
        let start = Instant::now();
        names = Some(Elf::open(&path)?.names()?);
        best[0] = best[0].min(start.elapsed());
    }
    let peak = peak_resident()?;
    let names = names.ok_or("no round")?;
    for _ in 0..rounds {
        let start = Instant::now();
        let read = read_tables(&path)?;
        best[1] = best[1].min(start.elapsed());
        std::hint::black_box(read);
    }
    println!("{}: {:?}", names.source, names.arch);
    println!("{}", String::from_utf8_lossy(names.banner.as_deref().unwrap_or_default()));
    for (name, symbol) in &names.symbols {
        println!("{:#018x} {:8} {name}", symbol.address, symbol.size);
    }
    println!(
        "names {:?}, reading the two tables {:?}, ratio {:.2}",
        best[0],
        best[1],
        best[0].as_secs_f64() / best[1].as_secs_f64()
    );
    println!("peak resident memory {peak} kB");
    let start = Instant::now();
    let functions = Elf::open(&path)?.functions()?;
    println!("{functions:?} in {:?}, peak {} kB", start.elapsed(), peak_resident()?);
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
    let _: Option<ElfFile64<'_>> = None;
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
