//! Boards whose device tree QEMU does not have: their kernels panic before
//! any console, each for itself a silent hang that nobody made.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Stdio};

use super::guest::{Guest, in_time, until};
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

/// A board loads its kernel to where it runs, so that at a reset the image is
/// over the log at once, and its own empty log is one that can be read.
#[test]
fn a_panic_is_told_where_a_reset_loads_the_kernel_over_its_log() {
    let boards = [("ppce500", "e5500", "e500-6.1"), ("ppce500", "e500mc", "e500mc-6.1")];
    for (board, cpu, kernel) in boards {
        let Some(vmlinux) = lab::file(kernel, "vmlinux", false) else { continue };
        for events in ["panic", "panic,reset"] {
            in_time("Kernel panic - not syncing", || {
                let words = ["-M", board, "-cpu", cpu, "-m", "512", "-nographic"];
                let more = ["-serial", "null", "-append", "panic=-1", "-kernel"];
                let mut words: Vec<OsString> =
                    words.into_iter().chain(more).map(Into::into).collect();
                words.push(vmlinux.clone().into());
                words.push(format!("--logbuf-stop-on={events}").into());
                let mut guest = Guest::start(words);
                let status = guest.wait();
                let stderr = guest.stderr();
                assert_eq!(status, Some(123), "{stderr}");
                stderr
            });
        }
    }
}

/// A board that reboots twice a second, and nobody who reads of it.
#[test]
fn reports_that_nobody_reads_do_not_pile_up() {
    let Some(vmlinux) = lab::file("e500-6.1", "vmlinux", false) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let debug = folder.path().join("debug");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new(lab::qemu_logbuf());
    command.args(["-M", "ppce500", "-cpu", "e5500", "-m", "256", "-nographic", "-serial", "null"]);
    command.args(["-append", "panic=-1", "--logbuf-where=off", "--logbuf-on=reset", "-kernel"]);
    command.arg(vmlinux).arg(format!("--logbuf-debug={}", debug.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut child = command.spawn().expect("qemu-logbuf starts");
    drop(command);
    let resets =
        || std::fs::read_to_string(&debug).unwrap_or_default().matches("event RESET").count();
    // The first is QEMU's own. The pipe takes five reports or so.
    until("reboots", || resets() > 30);
    let mut read = Vec::new();
    let mut page = [0; 4096];
    until("what was given up", || {
        let count = reader.read(&mut page).expect("it is open");
        read.extend_from_slice(&page[..count]);
        String::from_utf8_lossy(&read).contains(" reports before it were given up")
    });
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
