//! Boards whose device tree QEMU does not have: their kernels panic before
//! any console, each for itself a silent hang that nobody made.

use std::ffi::OsString;

use super::guest::Guest;
use super::lab;

/// Boot a built kernel on a board that gives it no device tree.
fn panics_without_a_device_tree(board: &str, kernel: &str) {
    let Some(vmlinux) = lab::file(kernel, "vmlinux", false) else { return };
    let Ok(qemu) = which::which("qemu-system-ppc") else {
        println!("skipped: no qemu-system-ppc");
        return;
    };
    let mut program = OsString::from("--logbuf-qemu=");
    program.push(qemu);
    let words = ["-M", board, "-nographic", "-kernel"].map(OsString::from);
    let guest = Guest::start(words.into_iter().chain([vmlinux.into(), program]));
    let report = guest.ask_until("Kernel panic - not syncing");
    assert!(report.contains("Failed verifying flat device tree"), "{report}");
    assert!(report.contains("· printk ringbuffer, ppc · symbols of "), "{report}");
    assert!(report.contains("← panic+") && report.contains("← machine_init+"), "{report}");
    assert_eq!(guest.console(), "", "nothing else says so");
}

#[test]
fn the_virtex_board_without_its_device_tree() {
    panics_without_a_device_tree("virtex-ml507", "ppc44x-6.1");
}
