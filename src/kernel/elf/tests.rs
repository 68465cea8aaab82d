//! ELF kernels made by hand, of every kind, and damage.

use std::sync::Arc;

use super::*;
use crate::kernel::testing::Kernel;

const BANNER: &str = "Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";
const ARCHES: [Arch; 3] = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];

fn parsed(bytes: Vec<u8>) -> Result<Elf, SourceError> {
    Elf::parse(Input::Bytes(Arc::new(bytes)), PathBuf::from("vmlinux"))
}

fn kernel(arch: Arch) -> Kernel {
    let mut kernel = Kernel::new(arch);
    let base = kernel.base;
    kernel.file("verifier.c");
    kernel.local("log_buf", base + 0x8000);
    kernel.local("cont", base + 0x8008);
    kernel.file("printk.c");
    kernel.local("prb", base + 0x140);
    kernel.local("log_buf", base + 0x148);
    kernel.function("start_kernel", base + 0x40, 0x20);
    kernel.symbol("cont", base + 0x50, 8, 0x12, 1);
    kernel.with_banner(BANNER)
}

#[test]
fn names_banner_and_functions_of_every_word_size_and_byte_order() {
    for arch in ARCHES {
        let kernel = kernel(arch);
        let elf = parsed(kernel.build()).expect("an ELF file");
        assert_eq!(elf.arch(), arch);
        let names = elf.names().expect("names");
        assert_eq!(names.arch, Some(arch));
        assert_eq!(names.banner.as_deref(), Some(BANNER.as_bytes()));
        assert_eq!(names.address("prb"), Some(kernel.base + 0x140));
        assert_eq!(names.address("_stext"), Some(kernel.base));
        let functions = elf.functions().expect("functions");
        assert_eq!(functions.resolve(kernel.base + 0x44), Some(("start_kernel", 4)));
        let places = elf.resolve(&[kernel.base + 0x44]).expect("places");
        assert_eq!(places, [Some(("start_kernel".to_owned(), 4))]);
    }
}

#[test]
fn of_a_static_name_that_is_used_twice_printks_is_taken() {
    let names = parsed(kernel(Arch::PPC64LE).build()).and_then(|elf| elf.names());
    let names = names.expect("names");
    assert_eq!(names.address("log_buf"), Some(0xc000_0000_0000_0148));
    assert_eq!(names.address("cont"), None, "the verifier's, and a function");
}

#[test]
fn a_stripped_kernel_still_says_who_it_is() {
    for arch in ARCHES {
        let mut kernel = kernel(arch);
        kernel.stripped = true;
        let elf = parsed(kernel.build()).expect("an ELF file");
        match elf.names() {
            Err(SourceError::NoSymbols { arch: found, banner }) => {
                assert_eq!(found, arch);
                assert_eq!(banner.as_deref(), Some(BANNER.as_bytes()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_program_that_is_no_kernel_is_told() {
    let mut program = Kernel::new(Arch::PPC64LE);
    program.function("main", program.base, 8);
    let names = parsed(program.build()).and_then(|elf| elf.names());
    assert!(matches!(names, Err(SourceError::NotLinux)));
}

#[test]
fn other_files_are_told() {
    assert!(matches!(parsed(Vec::new()), Err(SourceError::Unknown)));
    assert!(matches!(parsed(vec![0x1f; 99]), Err(SourceError::Unknown)));
    let mut x86 = kernel(Arch::PPC64LE).build();
    x86.splice(18..20, [62, 0]);
    assert!(matches!(parsed(x86), Err(SourceError::NotPower(62))));
}

#[test]
fn a_string_table_larger_than_a_part_is_gone_through_in_parts() {
    let mut kernel = Kernel::new(Arch::PPC64).with_banner(BANNER);
    let base = kernel.base;
    let long = "x".repeat(60_000);
    for n in 0..200 {
        kernel.function(&format!("{long}{n}"), base + n, 1);
    }
    // The file's name in one part, its variable in another.
    kernel.file("printk.c");
    for n in 200..300 {
        kernel.local(&format!("{long}{n}"), base + n);
    }
    kernel.local("prb", base + 0x140);
    let names = parsed(kernel.build()).and_then(|elf| elf.names()).expect("names");
    assert_eq!(names.address("prb"), Some(base + 0x140));
    assert_eq!(names.banner.as_deref(), Some(BANNER.as_bytes()));
}

#[test]
fn the_file_may_be_replaced_after_it_was_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vmlinux");
    std::fs::write(&path, kernel(Arch::PPC64LE).build()).expect("written");
    let elf = Elf::open(&path).expect("an ELF file");
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, b"half of the next").expect("written");
    assert!(elf.names().is_ok());
}

/// An ELF file of these sections (type, offset, size, link) and nothing else.
fn of_sections(sections: &[(u32, u64, u64, u32)]) -> Vec<u8> {
    let mut file = Kernel::new(Arch::PPC64LE).build();
    file.truncate(64);
    // e_shoff, e_phnum, e_shnum, e_shstrndx.
    file.splice(40..48, 64_u64.to_le_bytes());
    file.splice(56..58, [0; 2]);
    file.splice(60..64, (sections.len() as u32).to_le_bytes());
    for (kind, offset, size, link) in sections {
        file.extend([0, *kind, 0, 0, 0, 0].map(u32::to_le_bytes).concat());
        file.extend([*offset, *size].map(u64::to_le_bytes).concat());
        file.extend([*link, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat());
    }
    file
}

#[test]
fn notes_beyond_those_of_any_kernel_are_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vmlinux");
    // 64 notes of 64 MiB, of holes.
    let notes: Vec<_> = (0..64).map(|nth| (7, nth, 64 << 20, 0)).collect();
    std::fs::write(&path, of_sections(&notes)).expect("written");
    let file = File::options().write(true).open(&path).expect("opened");
    file.set_len(65 << 20).expect("extended");
    let begun = std::time::Instant::now();
    assert_eq!(Elf::open(&path).expect("an ELF file").build_id(), None);
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn more_names_than_any_kernel_has_are_refused() {
    for (symbols, strings) in [(24 << 23, 1 << 20), (24 << 10, 1 << 32)] {
        let file = of_sections(&[(0, 0, 0, 0), (2, 0, symbols, 2), (3, 0, strings, 0)]);
        let names = parsed(file).and_then(|elf| elf.names());
        assert!(
            matches!(names, Err(SourceError::Malformed(what)) if what.contains("more symbols"))
        );
    }
}

fn try_all(bytes: Vec<u8>) {
    if let Ok(elf) = parsed(bytes) {
        let _ = elf.names();
        let _ = elf.functions();
        let _ = elf.resolve(&[0, 0xc000_0044, 0xc000_0000_0000_0044, u64::MAX]);
        let _ = elf.banner();
    }
}

#[test]
fn no_truncation_makes_it_panic() {
    for arch in ARCHES {
        let whole = kernel(arch).build();
        for length in 0..whole.len() {
            try_all(whole.iter().copied().take(length).collect());
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_damage_makes_it_panic(
        arch in 0..3_usize,
        changes in proptest::collection::vec((0..0x800_usize, 0..=255_u8), 0..12),
    ) {
        let mut bytes = kernel(ARCHES.get(arch).copied().unwrap_or(Arch::PPC32)).build();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes.splice(at..=at, [value]);
        }
        try_all(bytes);
    }
}
