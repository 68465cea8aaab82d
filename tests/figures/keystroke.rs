//! How much later a key reaches QEMU for qemu-logbuf being in between.
//!
//! A fake QEMU, this very program under QEMU's name, notes when a byte has
//! come; bare it reads the terminal that the key is typed into, wrapped the
//! one that stands in for it. Both run all the time and are typed to in turn,
//! each asleep until its key comes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::libc;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::{lab, median, say};

/// Says to this program that it is the fake.
pub const FAKE: &str = "FIGURES_FAKE_QEMU";

const KEYS: usize = 2000;

/// The time by a clock that both processes read.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, which outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or(0))
}

/// Read single keys, as QEMU does, and tell when each came.
pub fn fake() {
    let stdin = std::io::stdin();
    let mut modes = tcgetattr(&stdin).expect("a terminal");
    cfmakeraw(&mut modes);
    tcsetattr(&stdin, SetArg::TCSANOW, &modes).expect("raw");
    let mut out = std::io::stdout();
    // The first word: the terminal is taken.
    let mut come = Duration::ZERO;
    let mut byte = [0];
    loop {
        let nanos = u64::try_from(come.as_nanos()).unwrap_or(u64::MAX);
        if out.write_all(&nanos.to_ne_bytes()).and_then(|()| out.flush()).is_err() {
            return;
        }
        if !matches!(nix::unistd::read(stdin.as_fd(), &mut byte), Ok(1)) {
            return;
        }
        come = now();
    }
}

/// A fake in a terminal of its own.
struct Typed {
    child: Child,
    master: File,
    told: Box<dyn Read>,
}

impl Typed {
    fn start(mut command: Command) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
        let mut child = command
            .env(FAKE, "1")
            .stdin(Stdio::from(slave))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let told = Box::new(child.stdout.take().expect("a pipe"));
        let mut typed = Self { child, master: File::from(master), told };
        typed.come();
        // The modes follow a moment later, wrapped.
        std::thread::sleep(Duration::from_millis(200));
        typed
    }

    /// When the last key came.
    fn come(&mut self) -> Duration {
        let mut nanos = [0; 8];
        self.told.read_exact(&mut nanos).expect("it runs");
        Duration::from_nanos(u64::from_ne_bytes(nanos))
    }

    /// Type a key; how long it took.
    fn key(&mut self) -> Duration {
        // So that all have gone to sleep.
        std::thread::sleep(Duration::from_millis(2));
        let start = now();
        self.master.write_all(b"x").expect("a key");
        self.come().saturating_sub(start)
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn keystroke() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = folder.path().join("qemu-system-ppc64");
    let this = std::env::current_exe().expect("a path");
    std::os::unix::fs::symlink(this, &fake).expect("a link");
    let wrapped = |fake: &Path| {
        let mut command = Command::new(lab::qemu_logbuf());
        command.arg("-nographic").env("QEMU_LOGBUF_QEMU", fake);
        command
    };
    let mut bare = Typed::start(Command::new(&fake));
    let mut ours = Typed::start(wrapped(&fake));
    let (mut plain, mut relayed) = (Vec::new(), Vec::new());
    for _ in 0..KEYS {
        plain.push(bare.key());
        relayed.push(ours.key());
    }
    let late = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    let micros = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6);
    say("a key to a program that reads it, bare, median", micros(median(plain.clone())));
    say("and 99 of 100 within", micros(late(&plain)));
    say("through qemu-logbuf, median", micros(median(relayed.clone())));
    say("and 99 of 100 within", micros(late(&relayed)));
    let added = median(relayed).saturating_sub(median(plain));
    say("added (aim: 100 µs)", micros(added));
}
