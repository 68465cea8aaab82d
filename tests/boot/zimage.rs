//! A zImage whose own program hangs before it has unpacked the kernel: the
//! kernel was not entered, and what it will be is told from within it.

use std::fs;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::guest::Guest;
use super::{boot, lab};

/// A program of one instruction, a branch to itself, which carries a kernel
/// where the kernel's own wrapper has it (arch/powerpc/boot/zImage.lds.S).
fn hung_wrapper(kernel: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 64 + 56;
    const BRANCH_TO_SELF: u32 = 0x4800_0000;
    let names = b"\0.shstrtab\0.kernel:vmlinux.strip\0";
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(kernel).expect("memory takes it");
    let packed = packer.finish().expect("memory takes it");
    let mut image = vec![0; HEADERS];
    // VOF enters any kernel as a big-endian one.
    image.extend(BRANCH_TO_SELF.to_be_bytes());
    let payload = image.len();
    image.extend(&packed);
    let strings = image.len();
    image.extend(names);
    let sections = image.len();
    let mut section = |name: u32, kind: u32, place: usize, size: usize| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&(place as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        image.extend(header);
    };
    section(0, 0, 0, 0);
    section(1, 3, strings, names.len());
    section(11, 1, payload, packed.len());
    // ELFv2, ppc64le, an executable; then its one segment.
    image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let loaded = (strings - HEADERS) as u64;
    for (at, size, value) in [
        (16, 2, 2),
        (18, 2, 21),
        (20, 4, 1),
        (32, 8, 64),
        (40, 8, sections as u64),
        (48, 4, 2),
        (52, 2, 64),
        (54, 2, 56),
        (56, 2, 1),
        (58, 2, 64),
        (60, 2, 3),
        (62, 2, 1),
        (64, 4, 1),
        (68, 4, 7),
        (72, 8, HEADERS as u64),
        (96, 8, loaded),
        (104, 8, loaded),
        (112, 8, 0x1_0000),
    ] {
        let value = u64::to_le_bytes(value);
        image[at..at + size].copy_from_slice(&value[..size]);
    }
    image
}

#[test]
fn a_zimage_that_hangs_before_its_kernel_is_not_entered() {
    let Some(stock) = lab::stock() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("zImage");
    fs::write(&path, hung_wrapper(&fs::read(stock).expect("a kernel"))).expect("written");
    let mut guest = Guest::start(boot(&path, &[]));
    let report = guest.ask_until("the kernel has not been entered");
    assert_eq!(guest.console(), "");
    assert!(report.contains("· Linux 6.1.") && !report.contains("records"), "{report}");
    // Where the wrapper's one instruction is.
    assert!(report.contains("\nCPU 0 ") && report.contains("0x400000"), "{report}");
    assert_eq!(guest.terminate(), Some(0));
}
