//! The types that stock kernels carry, held against the layouts that are
//! built in: both must say the same.

#[allow(dead_code)]
#[path = "boot/lab.rs"]
mod lab;

use qemu_logbuf::kernel::btf::Btf;
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::printk::{LayoutSource, RingLayout, Types};

/// Check the kernel of that folder, whose infos are of so many bytes.
fn check(kernel: &str, info: usize) {
    let Some(path) = lab::file(kernel, "vmlinux", false) else { return };
    let elf = Elf::open(&path).expect("an ELF file");
    let section = elf.section(b".BTF").expect("BTF");
    let mut bytes = vec![0; section.size as usize];
    elf.input().read_exact_at(section.offset, &mut bytes).expect("in the file");
    let btf = Btf::parse(&bytes, elf.arch()).expect("readable");
    assert_eq!(btf.size("printk_info"), Some(info));
    let layout = RingLayout::from_types(&btf, elf.arch(), LayoutSource::FileBtf);
    assert!(layout.is_some_and(|layout| layout.is_known(elf.arch().word)), "{layout:?}");
}

#[test]
fn the_btf_of_debian_13_tells_a_known_layout() {
    check("trixie", 88);
}

#[test]
fn the_btf_of_debian_sid_tells_a_known_layout() {
    check("sid", 112);
}
