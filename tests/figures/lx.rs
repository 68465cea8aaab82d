//! The answer against gdb's: the kernel's own `lx-dmesg`, through QEMU's
//! gdbstub, with the stock kernel's debug information.
//!
//! `tests/lab/stock-debug target/lab` fetches that; with gdb-multiarch and it
//! this is measured, else it is said to be skipped. Of the kernel's scripts
//! only the one is loaded, which is to gdb's advantage.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::hung::{Answerer, ROUNDS, Running};
use super::{Aim, MACHINE, hold, lab, median, millis, ratio, say, time};

const PORT: &str = "127.0.0.1:19347";

/// gdb, from its start to the log.
fn lx_dmesg(vmlinux: &std::path::Path, scripts: &std::path::Path) -> Option<String> {
    let load = format!(
        "python import sys; sys.path.insert(0, {:?}); import linux.dmesg",
        scripts.display().to_string()
    );
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-nx", "-batch", "-ex", &load, "-ex", &format!("target remote {PORT}")]);
    gdb.args(["-ex", "lx-dmesg"]).arg(vmlinux).stdin(Stdio::null()).stderr(Stdio::null());
    let output = gdb.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn answer() {
    let Some(kernel) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let Some(vmlinux) = lab::file("bookworm-debug", "vmlinux", false) else { return };
    let Some(script) = lab::file("bookworm-debug", "gdb/linux/dmesg.py", false) else { return };
    let scripts = script.ancestors().nth(2).expect("its folder");
    let qemu = Command::new("qemu-system-ppc64")
        .args(MACHINE)
        .args(["-serial", "null", "-gdb", &format!("tcp:{PORT}"), "-kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Running)
        .expect("QEMU starts");
    // Until the guest hangs.
    std::thread::sleep(Duration::from_secs(5));
    let Some(said) = lx_dmesg(&vmlinux, scripts) else {
        println!("  skipped: no gdb-multiarch");
        return;
    };
    assert!(said.contains("Hardware name"), "lx-dmesg says: {said}");
    let gdb = median((0..3).map(|_| time(|| _ = lx_dmesg(&vmlinux, scripts))).collect());
    drop(qemu);
    let mut whole = Answerer::stock(&[]).expect("as before");
    let report = median((0..ROUNDS).map(|_| time(|| drop(whole.ask()))).collect());
    say("gdb with lx-dmesg, start to end", millis(gdb));
    say("with where each CPU is, signal to last byte", millis(report));
    hold("gdb / that", ratio(gdb, report), Aim::Least(500.0));
}
