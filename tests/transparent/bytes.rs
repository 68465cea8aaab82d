//! What is typed arrives complete and in order, and at once.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::common::pty::Pty;
use crate::run::Case;
use crate::run::Step::{Modes, Paste, Raw, Wait};
use crate::stage::{Manner, Stage};

pub fn cases() -> Vec<Case> {
    let keys = &[Wait("ready"), Raw, Modes, Paste(1 << 20)];
    let lines = &[Wait("ready"), Modes, Paste(1 << 20)];
    vec![
        Case::terminal("bytes a paste of 1 MiB", "exec $Q", keys).with_fake("store raw").put_back(),
        Case::terminal("bytes a paste to a slow reader", "exec $Q", keys)
            .with_fake("store slowly")
            .put_back(),
        Case::terminal("bytes lines to a cooked reader", "stty -echo; exec $Q", lines)
            .with_fake("store"),
        Case::terminal("bytes lines to a slow cooked reader", "stty -echo; exec $Q", lines)
            .with_fake("store slowly cooked"),
    ]
}

/// So many bytes to type, no two lines alike, and `END`.
pub fn paste(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    let mut number = 0;
    while bytes.len() < len {
        bytes.extend_from_slice(
            format!("line {number} of a long paste, to be read in order\n").as_bytes(),
        );
        number += 1;
    }
    bytes.extend_from_slice(b"END\n");
    bytes
}

/// Measure how long a key takes to a fake QEMU that echoes it and back, and
/// how long the terminal's modes lag behind QEMU's words.
pub fn latency(stage: &Stage) -> ExitCode {
    for manner in [Manner::Bare, Manner::Parent, Manner::SamePid] {
        let (mut keys, mut lags) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            if measure(stage, manner, &mut keys, &mut lags).is_none() {
                println!("{}: failed", manner.name());
                return ExitCode::FAILURE;
            }
        }
        println!(
            "{:14} key there and back: {}; modes behind words: {}",
            manner.name(),
            summary(&mut keys),
            summary(&mut lags)
        );
    }
    ExitCode::SUCCESS
}

fn measure(
    stage: &Stage,
    manner: Manner,
    keys: &mut Vec<Duration>,
    lags: &mut Vec<Duration>,
) -> Option<()> {
    let mut pty = Pty::open().ok()?;
    let mut child = pty
        .spawn("exec $Q", |command| {
            command.env("PATH", stage.path(manner, true)).env("Q", "qemu-system-ppc64");
            command.env("FAKE_QEMU", "echo");
            if manner == Manner::SamePid {
                command.env("QEMU_LOGBUF_SAME_PID", "1");
            }
        })
        .ok()?;
    let found = pty.wait_for("ready");
    let start = Instant::now();
    while found && !pty.is_raw() && start.elapsed() < Duration::from_secs(1) {}
    lags.push(start.elapsed());
    for _ in 0..50 {
        let start = Instant::now();
        if !pty.type_in(b"x") || !pty.wait_for("x") {
            return None;
        }
        keys.push(start.elapsed());
    }
    pty.type_in(b"q");
    crate::common::wait(&mut child, || pty.take(Duration::from_millis(5))).map(drop)
}

fn summary(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_micros();
    format!("median {} µs, 99 % {} µs", at(50), at(99))
}
