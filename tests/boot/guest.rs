//! A guest under qemu-logbuf, without a terminal or in one.
//!
//! Everything waits for a condition, with a limit that only a failing test
//! reaches.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a failing test waits at most.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The machine that skips slow firmware, so that a kernel is up in seconds.
pub const MACHINE: &[&str] = &["-M", "pseries,x-vof=on", "-m", "512", "-nographic"];

/// A running guest whose reports go to a file, without a terminal.
pub struct Guest {
    child: Child,
    folder: tempfile::TempDir,
    /// Its output so far.
    pub output: PathBuf,
}

impl Guest {
    /// Start it with these words on its command line.
    pub fn start<I: Into<OsString>>(words: impl IntoIterator<Item = I>) -> Self {
        let guest = Self::start_unready(words);
        // Until its handler is there, SIGUSR1 ends any process.
        until("the launcher's signal handlers", || catches(guest.pid(), Signal::SIGUSR1));
        guest
    }

    /// The same of one that may not be asked, as it is QEMU itself.
    pub fn start_unready<I: Into<OsString>>(words: impl IntoIterator<Item = I>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("console");
        let child = Command::new(super::lab::qemu_logbuf())
            .args(words.into_iter().map(Into::into))
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(File::create(&output).expect("a file"))
            .stderr(File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("qemu-logbuf starts");
        Self { child, folder, output }
    }

    /// What came on stderr, reports among it.
    pub fn stderr(&self) -> String {
        read(&self.folder.path().join("stderr"))
    }

    /// What the guest printed on its console.
    pub fn console(&self) -> String {
        read(&self.output)
    }

    /// The process id of the launcher.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }

    /// The process id of QEMU, its child.
    pub fn qemu(&self) -> Option<Pid> {
        let pid = self.pid();
        let children = read(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    }

    /// Send SIGUSR1 and wait for the whole report.
    pub fn ask(&self) -> String {
        let before = self.stderr().len();
        kill(self.pid(), Signal::SIGUSR1).expect("it runs");
        let mut report = String::new();
        until("a report", || {
            report = self.stderr()[before..].to_owned();
            is_whole(&report)
        });
        report
    }

    /// Ask until the report says `what`.
    pub fn ask_until(&self, what: &str) -> String {
        self.ask_until_it(what, |report| report.contains(what))
    }

    /// Ask until the report is as it is to be, which `what` says in words.
    pub fn ask_until_it(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut report = String::new();
        until(what, || {
            report = self.ask();
            is_so(&report)
        });
        report
    }

    /// Wait until it ends by itself; its status.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        let child = &mut self.child;
        until("the end of QEMU", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// End it as a user would, and its status.
    pub fn terminate(&mut self) -> Option<i32> {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process has a handler for a signal.
pub fn catches(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal as u64 - 1)) != 0)
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Whether a report has come to its end: the closing line, or the one line of
/// a failure.
fn is_whole(report: &str) -> bool {
    // That a look takes long is said before it has come to anything.
    let is_ours = |line: &&str| line.contains("qemu-logbuf") && !line.contains(" takes long");
    let ours = || report.lines().filter(is_ours);
    report.ends_with('\n')
        && if ours().any(|line| line.contains("────") || line.contains("----")) {
            ours().any(|line| line.contains("end of report"))
        } else {
            ours().count() > 0
        }
}

/// A run that must have been shown to its `last` line. QEMU does not wait for
/// us at its end: on a machine where others are given the processor for all of
/// the last milliseconds, those are lost. Not three times, though. What was
/// shown of the run that was whole.
pub fn in_time(last: &str, run: impl Fn() -> String) -> String {
    let mut shown = run();
    for _ in 0..2 {
        if shown.contains(last) {
            break;
        }
        shown = run();
    }
    assert!(shown.contains(last), "to its last line: {shown}");
    shown
}

/// Wait until `done`.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A terminal with a program in its foreground.
pub struct Terminal {
    child: Child,
    master: File,
    /// All that has appeared on it.
    pub seen: String,
}

impl Terminal {
    /// Start a command on a terminal of 100 columns.
    pub fn run(mut command: Command) -> Self {
        let size = nix::pty::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pty");
        let slave = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        command.stdin(slave()).stdout(slave()).stderr(slave()).env("TERM", "xterm");
        // SAFETY: setsid and an ioctl are all that happens between fork and
        // exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        let child = command.spawn().expect("it starts");
        Self { child, master: File::from(pty.master), seen: String::new() }
    }

    /// Type keys.
    pub fn type_keys(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("the terminal takes keys");
    }

    /// Wait until something new contains `what`; the new part.
    pub fn expect(&mut self, what: &str) -> String {
        let from = self.seen.len();
        self.expect_from(from, what)
    }

    /// Wait until what was seen from `from` on contains `what`.
    pub fn expect_from(&mut self, from: usize, what: &str) -> String {
        let start = Instant::now();
        while !self.seen[from..].contains(what) {
            let left = LIMIT.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "waited too long for {what:?} in {:?}", &self.seen[from..]);
            assert!(self.look(left), "ended before {what:?} in {:?}", &self.seen[from..]);
        }
        self.seen[from..].to_owned()
    }

    /// Take what appears within `wait`; false at the terminal's end.
    pub fn look(&mut self, wait: Duration) -> bool {
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).is_ok_and(|ready| ready == 0) {
            return true;
        }
        let mut buf = [0; 4096];
        match self.master.read(&mut buf) {
            Ok(0) => false,
            Ok(len) => {
                self.seen.push_str(&String::from_utf8_lossy(&buf[..len]));
                true
            }
            Err(error) => error.kind() == ErrorKind::Interrupted,
        }
    }

    /// Press `keys` until a report says `what`; that report.
    pub fn press_until(&mut self, keys: &[u8], what: &str) -> String {
        let start = Instant::now();
        loop {
            let from = self.seen.len();
            self.type_keys(keys);
            while !is_whole(&self.seen[from..]) {
                assert!(start.elapsed() < LIMIT, "no {what:?} in {:?}", &self.seen[from..]);
                assert!(self.look(Duration::from_millis(100)), "ended in {:?}", &self.seen[from..]);
            }
            if self.seen[from..].contains(what) {
                return self.seen[from..].to_owned();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The terminal's modes.
    pub fn modes(&self) -> nix::sys::termios::Termios {
        nix::sys::termios::tcgetattr(&self.master).expect("a terminal")
    }

    /// Wait for the program's end; its status.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        let child = &mut self.child;
        until("the end of the program", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
