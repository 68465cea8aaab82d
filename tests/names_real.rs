//! Names of real kernels, each read in several ways that must agree.
//!
//! The kernels are too large to keep here. `QEMU_LOGBUF_KERNELS` names ELF
//! `vmlinux` files with symbols, and `QEMU_LOGBUF_DUMPS` pairs of a raw dump
//! of guest RAM from real address 0 and the kernel that ran, as
//! `DUMP=VMLINUX`; both lists are separated by colons. Without them these
//! tests say that they are skipped.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use object::{Object, ObjectSymbol, SymbolKind};
use qemu_logbuf::guest::{AddressRule, Image, Memory, ReadError};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::kernel::image::Kernel;
use qemu_logbuf::kernel::kallsyms::{self, Kallsyms};
use qemu_logbuf::kernel::{Identity, Input, identify, identity};

fn listed(variable: &str, what: &str) -> Vec<String> {
    let list = std::env::var(variable).unwrap_or_default();
    let list: Vec<_> = list.split(':').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    if list.is_empty() {
        println!("skipped: {variable} names no {what}");
    }
    list
}

fn kernels() -> Vec<PathBuf> {
    listed("QEMU_LOGBUF_KERNELS", "vmlinux").into_iter().map(PathBuf::from).collect()
}

fn dumps() -> Vec<(PathBuf, PathBuf)> {
    listed("QEMU_LOGBUF_DUMPS", "dump")
        .iter()
        .map(|pair| pair.split_once('=').expect("DUMP=VMLINUX"))
        .map(|(dump, vmlinux)| (dump.into(), vmlinux.into()))
        .collect()
}

/// A raw dump of RAM.
struct Dump(File, Vec<Range<u64>>);

impl Dump {
    fn open(path: &Path) -> Self {
        let file = File::open(path).expect("a dump");
        let length = file.metadata().expect("its length").len();
        Self(file, vec![Range { start: 0, end: length }])
    }
}

impl Memory for Dump {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_exact_at(buf, real).map_err(ReadError::Io)
    }
    fn ram(&self) -> &[Range<u64>] {
        &self.1
    }
}

/// The symbols as `object` reads them, all of the file in memory.
struct Oracle {
    all: HashSet<(u64, String)>,
    text: HashMap<String, u64>,
}

fn oracle(path: &Path) -> Oracle {
    let bytes = std::fs::read(path).expect("a kernel");
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let mut oracle = Oracle { all: HashSet::new(), text: HashMap::new() };
    for symbol in file.symbols() {
        let name = symbol.name().unwrap_or_default().to_owned();
        if symbol.kind() == SymbolKind::Text && symbol.is_global() {
            oracle.text.insert(name.clone(), symbol.address());
        }
        oracle.all.insert((symbol.address(), name));
    }
    oracle
}

/// Every symbol of kallsyms is one of the file's, and every exported
/// function of the file is in kallsyms.
fn compare(kallsyms: &Kallsyms, oracle: &Oracle) {
    let mut seen = HashSet::new();
    let mut wrong = Vec::new();
    kallsyms.each(|address, _, name| {
        let name = String::from_utf8_lossy(name).into_owned();
        if !oracle.all.contains(&(address, name.clone())) {
            wrong.push((format!("{address:#x}"), name.clone()));
        }
        seen.insert(name);
    });
    assert!(
        wrong.is_empty(),
        "{kallsyms:?}: {} wrong: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(9)]
    );
    assert_eq!(seen.len().min(5000), 5000, "{kallsyms:?}");
    let missing: Vec<_> = oracle.text.keys().filter(|name| !seen.contains(*name)).collect();
    let few = oracle.text.len() / 50;
    assert!(missing.len() <= few, "{kallsyms:?}: {} missing: {:?}", missing.len(), &missing[..9]);
}

fn at_zero(elf: &Elf) -> Image {
    let rule = rule(elf);
    elf.segments().iter().fold(Image::default(), |image, segment| {
        let mut bytes = vec![0; segment.size as usize];
        elf.input().read_exact_at(segment.offset, &mut bytes).expect("in the file");
        image.with(rule.real(segment.address).expect("a kernel address"), bytes)
    })
}

fn rule(elf: &Elf) -> AddressRule {
    match elf.arch().word {
        qemu_logbuf::arch::Word::W64 => AddressRule::Linear64,
        qemu_logbuf::arch::Word::W32 => AddressRule::PPC32,
    }
}

#[test]
fn the_elf_file_gives_the_names_that_object_gives() {
    for path in kernels() {
        let oracle = oracle(&path);
        let elf = Elf::open(&path).expect("an ELF file");
        let names = elf.names().expect("names");
        for (name, symbol) in &names.symbols {
            assert!(oracle.all.contains(&(symbol.address, name.clone())), "{name}");
        }
        for name in ["prb", "__log_buf", "log_buf", "linux_banner", "_stext", "_end"] {
            assert!(names.address(name).is_some(), "{name} of {}", path.display());
        }
        assert!(names.banner.is_some_and(|banner| banner.starts_with(b"Linux version ")));
        let functions = elf.functions().expect("functions");
        // ELFv1 has the code at `.name` and a descriptor at `name`.
        let dots = oracle.text.contains_key(".start_kernel");
        let code: Vec<_> = match dots {
            true => {
                oracle.text.iter().filter_map(|(n, at)| Some((n.strip_prefix('.')?, *at))).collect()
            }
            false => oracle.text.iter().map(|(n, at)| (n.as_str(), *at)).collect(),
        };
        let named = |(name, at): &&(&str, u64)| functions.resolve(at + 1) == Some((name, 1));
        let right = code.iter().filter(named).count();
        // Of aliases, which share an address, only one is shown.
        assert!(right * 100 > code.len() * 90, "{}: {right} of {}", path.display(), code.len());
        assert!(code.iter().find(|(name, _)| *name == "start_kernel").is_some_and(|f| named(&f)));
    }
}

#[test]
fn kallsyms_in_the_image_agrees_with_the_symbol_table() {
    for path in kernels() {
        let elf = Elf::open(&path).expect("an ELF file");
        let image = at_zero(&elf);
        let kallsyms = kallsyms::find(&image).expect("readable").expect("kallsyms");
        println!("{}: {kallsyms:?}", path.display());
        assert_eq!(kallsyms.arch(), elf.arch());
        compare(&kallsyms, &oracle(&path));
        let names = elf.names().expect("names");
        let ours = kallsyms.image_names(path.clone());
        for (name, symbol) in &ours.symbols {
            assert_eq!(names.address(name), Some(symbol.address), "{name}");
        }
        let functions = kallsyms.functions();
        assert!(functions.len() > 5000, "{functions:?}");
    }
}

/// The file without its section headers, as a stripped kernel: what is loaded
/// is the same.
fn stripped(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).expect("a kernel");
    // e_shoff and, past e_shentsize, e_shnum and e_shstrndx.
    let (offset, numbers) = if bytes[4] == 2 { (40..48, 60..64) } else { (32..36, 48..52) };
    bytes[offset].fill(0);
    bytes[numbers].fill(0);
    bytes
}

#[test]
fn a_packed_and_stripped_kernel_gives_the_names_of_its_kallsyms() {
    for path in kernels() {
        let mut packed = Vec::new();
        let bytes = stripped(&path);
        let mut packer = flate2::read::GzEncoder::new(bytes.as_slice(), Compression::fast());
        packer.read_to_end(&mut packed).expect("packed");
        let start = std::time::Instant::now();
        let kernel = Kernel::open(Input::Bytes(Arc::new(packed)), path.clone()).expect("a kernel");
        let opened = start.elapsed();
        let names = kernel.names().expect("names");
        println!("{}: {} names, {opened:?} to unpack", path.display(), names.symbols.len());
        compare(&kernel.kallsyms().expect("kallsyms"), &oracle(&path));
        let elf = Elf::open(&path).expect("an ELF file");
        assert_eq!(kernel.build_id(), elf.build_id());
        assert_eq!(kernel.banner().expect("readable"), elf.names().expect("names").banner);
    }
}

#[test]
fn kallsyms_in_guest_memory_agrees_with_the_symbol_table() {
    for (dump, vmlinux) in dumps() {
        let memory = Dump::open(&dump);
        let start = std::time::Instant::now();
        let kallsyms = kallsyms::find(&memory).expect("readable").expect("kallsyms");
        println!("{}: {kallsyms:?} in {:?}", dump.display(), start.elapsed());
        compare(&kallsyms, &oracle(&vmlinux));
    }
}

#[test]
fn the_banner_in_guest_memory_matches_the_files() {
    for (dump, vmlinux) in dumps() {
        let memory = Dump::open(&dump);
        let elf = Elf::open(&vmlinux).expect("an ELF file");
        let names = elf.names().expect("names");
        let identity = identify(&memory, elf.arch(), &names).expect("readable");
        assert_eq!(identity, Identity::Here { rule: rule(&elf), displacement: 0 });
        let mut found = Vec::new();
        let all = &mut |real, text: &[u8]| {
            found.push((real, text.to_vec()));
            ControlFlow::Continue(())
        };
        identity::each_banner(&memory, all).expect("readable");
        let address = names.address("linux_banner").expect("listed");
        let real = rule(&elf).real(address).expect("mapped");
        assert!(found.contains(&(real, names.banner.expect("a banner"))), "{found:?}");
    }
}
