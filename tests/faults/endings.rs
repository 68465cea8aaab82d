//! However it ends, the terminal is as before.
//!
//! `QEMU_LOGBUF_ENDINGS=1000 cargo test --test faults endings` runs as many.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::end_session;
use super::common::pty::Pty;
use super::{launcher, qemu};

/// How many, unless the environment says so.
const USUAL: u64 = 30;

const WAYS: [&str; 7] = [
    "QEMU killed",
    "QEMU terminated",
    "terminated",
    "interrupted",
    "hung up",
    "quit by its monitor",
    "suspended, then terminated",
];

#[test]
fn the_terminal_is_as_before_after_any_ending() {
    let Some(qemu) = qemu() else { return };
    let count = std::env::var("QEMU_LOGBUF_ENDINGS").ok().and_then(|count| count.parse().ok());
    let mut random = u64::from(std::process::id()) << 20 | 1;
    for number in 0..count.unwrap_or(USUAL) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let way = random as usize % WAYS.len();
        let pause = Duration::from_micros(random >> 20 & 0x3fff);
        one(&qemu, way, pause, number);
    }
}

fn one(qemu: &std::path::Path, way: usize, pause: Duration, number: u64) {
    let name = WAYS[way];
    let mut pty = Pty::open().expect("a terminal");
    let before = pty.describe();
    // Job control, so that the program may be stopped as from a shell.
    let script =
        "set -m; \"$OURS\" -M none -display none -monitor stdio; echo \"ended $?\"; read -r _";
    let mut shell = pty
        .spawn(script, |command| {
            command.env("OURS", launcher()).env("QEMU_LOGBUF_QEMU", qemu);
        })
        .expect("bash");
    let leader = i32::try_from(shell.id()).expect("a process id");
    assert!(pty.until(|pty| pty.is_raw()), "{number} {name}: not raw");
    // Not in step with anything: a random moment is what is tested.
    std::thread::sleep(pause);
    let ours = child(leader);
    let theirs = child(ours);
    let send = |pid, signal| {
        let _ = kill(Pid::from_raw(pid), signal);
    };
    match way {
        0 => send(theirs, Signal::SIGKILL),
        1 => send(theirs, Signal::SIGTERM),
        2 => send(ours, Signal::SIGTERM),
        3 => send(ours, Signal::SIGINT),
        4 => send(ours, Signal::SIGHUP),
        5 => assert!(pty.type_in(b"quit\r")),
        _ => {
            send(ours, Signal::SIGTSTP);
            assert!(pty.wait_for("ended 148"), "{number} {name}: not stopped");
            send(ours, Signal::SIGTERM);
            send(ours, Signal::SIGCONT);
        }
    }
    let back = pty.until(|pty| pty.describe() == before);
    assert!(back, "{number} {name} after {pause:?}: {} instead of {before}", pty.describe());
    if way < 6 {
        // Not the shell's word for it: an interrupted bash may end as well.
        let pid = Pid::from_raw(ours);
        assert!(pty.until(|_| !super::is_alive(pid)), "{number} {name}: no end");
        assert_eq!(pty.describe(), before, "{number} {name}: after the end");
    }
    end_session(leader);
    let _ = shell.wait();
}

/// The first child of a process.
fn child(parent: i32) -> i32 {
    let mut pid = 0;
    super::until("a child", || {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        pid = children.split(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        pid != 0
    });
    pid
}
