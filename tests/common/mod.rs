//! What several suites share: a terminal to run programs in.

#![allow(dead_code, reason = "each suite uses a part")]

pub mod pty;

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before a test calls it hung.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The QEMU to test with: `QEMU_UNDER_TEST`, or the one in PATH.
pub fn real_qemu() -> Option<PathBuf> {
    match std::env::var_os("QEMU_UNDER_TEST") {
        Some(path) => std::fs::canonicalize(path).ok(),
        None => which::which("qemu-system-ppc64").ok(),
    }
}

/// Wait for `child`, doing `meanwhile` in between, which is to wait a moment
/// itself; `None` if it takes too long.
pub fn wait(child: &mut Child, meanwhile: impl FnMut()) -> Option<ExitStatus> {
    wait_within(PATIENCE, child, meanwhile)
}

/// The same, where it may take this long.
pub fn wait_within(
    limit: Duration,
    child: &mut Child,
    mut meanwhile: impl FnMut(),
) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => meanwhile(),
            _ => return None,
        }
    }
}

/// The processes of a session.
pub fn session(leader: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let session = stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse::<i32>().ok()?;
            (session == leader).then_some(pid)
        })
        .collect()
}

/// End everything in the session that `leader` leads or led.
pub fn end_session(leader: i32) {
    for pid in session(leader) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
