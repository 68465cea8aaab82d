//! What can go wrong with QEMU while it is asked: each fault is one clear
//! line within two seconds, and neither QEMU nor we are harmed by it.

#[path = "../common/mod.rs"]
mod common;
mod endings;
mod fake;
mod names;
mod real;

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No fault may hold a report back for longer: two seconds, and what a busy
/// machine takes to start a thread.
const LONGEST: Duration = Duration::from_millis(2500);

/// What a test waits at most for what is no fault.
const LIMIT: Duration = Duration::from_secs(60);

/// A launcher with a QEMU of some kind.
struct Run {
    child: Child,
    folder: tempfile::TempDir,
}

impl Run {
    /// `command` is to run qemu-logbuf; its stderr is a file.
    fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = command
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("it starts");
        let run = Self { child, folder };
        // Some are at their end before they are looked at.
        until("the signal handlers", || {
            catches(run.pid(), Signal::SIGUSR1) || !is_alive(run.pid())
        });
        run
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }

    /// The process id of QEMU, the launcher's only child.
    fn qemu(&self) -> Pid {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let mut pid = None;
        until("QEMU", || {
            let children = std::fs::read_to_string(&path).unwrap_or_default();
            pid = children.split(' ').next().and_then(|pid| pid.parse().ok());
            pid.is_some()
        });
        Pid::from_raw(pid.expect("a child"))
    }

    fn stderr(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ask, and what came, whole, within the time a fault may take.
    fn ask(&self) -> String {
        self.ask_within(LONGEST)
    }

    fn ask_within(&self, limit: Duration) -> String {
        let before = self.stderr().len();
        let asked = Instant::now();
        kill(self.pid(), Signal::SIGUSR1).expect("it runs");
        loop {
            let report = ours(&self.stderr().split_off(before));
            if is_whole(&report) {
                return report;
            }
            assert!(asked.elapsed() < limit, "no report in time: {report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ask; the one line of ours that comes instead of a report.
    fn refused(&self) -> String {
        let report = self.ask();
        assert_eq!(report.lines().count(), 1, "{report}");
        assert!(report.starts_with("qemu-logbuf: ") && report.contains("; "), "{report}");
        report
    }

    /// Ask until the report says `what`. No fault, so it may take its time:
    /// all of memory is looked through for a kernel that is not there yet.
    fn ask_until(&self, what: &str) -> String {
        let mut report = String::new();
        until(what, || {
            report = self.ask_within(LIMIT);
            report.contains(what)
        });
        report
    }

    /// The launcher's end: its exit status, or the signal negated.
    fn end(&mut self) -> i32 {
        let mut status = None;
        let child = &mut self.child;
        until("the end", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        let status = status.expect("ended");
        status.code().or_else(|| Some(-status.signal()?)).expect("an end")
    }

    /// End it as a user would.
    fn terminate(&mut self) -> i32 {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        self.end()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launcher() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_qemu-logbuf"))
}

/// Without what QEMU has to say as it starts.
fn ours(stderr: &str) -> String {
    let lines = stderr.split_inclusive('\n');
    lines.filter(|line| !line.starts_with("qemu-system-ppc64: ")).collect()
}

fn is_whole(report: &str) -> bool {
    report.ends_with('\n')
        && if report.contains("──") {
            report.contains("end of report")
        } else {
            !report.is_empty()
        }
}

fn catches(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal as u64 - 1)) != 0)
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// QEMU, or a line saying what was skipped.
fn qemu() -> Option<PathBuf> {
    let found = common::real_qemu();
    if found.is_none() {
        println!("skipped: no qemu-system-ppc64");
        assert!(std::env::var_os("CI").is_none(), "no qemu-system-ppc64");
    }
    found
}

/// The stock kernel, likewise.
fn stock() -> Option<PathBuf> {
    let lab = std::env::var_os("QEMU_LOGBUF_LAB")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab"), PathBuf::from);
    let path = lab.join("bookworm/vmlinux");
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: {} is not there (tests/run-all fetches it)", path.display());
    assert!(std::env::var_os("CI").is_none(), "no stock kernel");
    None
}
