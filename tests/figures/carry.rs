//! What it costs to carry qemu-logbuf along when nobody asks it anything.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::hung::{Answerer, Running};
use super::{Aim, MACHINE, hold, lab, median, millis, ratio, say, time};

pub fn start() {
    let run =
        |command: &mut Command| time(|| assert!(command.status().expect("it runs").success()));
    let (mut bare, mut wrapped) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        bare.push(run(&mut Command::new("/bin/true")));
        wrapped.push(run(Command::new(lab::qemu_logbuf()).env("QEMU_LOGBUF_QEMU", "/bin/true")));
    }
    let (bare, wrapped) = (median(bare), median(wrapped));
    say("a program that ends at once, bare", millis(bare));
    say("and wrapped: start, exec, end", millis(wrapped));
    let added = wrapped.saturating_sub(bare).as_secs_f64() * 1e3;
    hold("added to start and end, ms", added, Aim::Most(3.0));
}

pub fn boot() {
    let Some(kernel) = lab::stock() else { return };
    let first_byte = |program: &Path| {
        let start = Instant::now();
        let child = Command::new(program)
            .args(MACHINE)
            .args(["-serial", "stdio", "-append", "console=hvc0", "-kernel"])
            .arg(&kernel)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut running = Running(child);
        let mut byte = [0];
        running.0.stdout.take().expect("a pipe").read_exact(&mut byte).expect("a byte");
        start.elapsed()
    };
    let (mut bare, mut wrapped) = (Vec::new(), Vec::new());
    // One boot takes a fifth more than another: the median of fewer is too
    // coarse for a hundredth.
    for _ in 0..61 {
        bare.push(first_byte(Path::new("qemu-system-ppc64")));
        wrapped.push(first_byte(&lab::qemu_logbuf()));
    }
    let (bare, wrapped) = (median(bare), median(wrapped));
    say("boot to the first byte of the console, bare", millis(bare));
    hold("wrapped / bare", ratio(wrapped, bare), Aim::Most(1.01));
}

/// How often a process's threads went to sleep, and how many threads it has.
fn wakeups(pid: Pid) -> (u64, usize) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut result = (0, 0);
    for task in tasks.flatten() {
        result.0 += field(&task.path(), "voluntary_ctxt_switches");
        result.1 += 1;
    }
    result
}

fn field(folder: &Path, name: &str) -> u64 {
    let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

pub fn idle() {
    let Some(mut guest) = Answerer::stock(&[]) else { return };
    let pid = guest.process.pid();
    let process = format!("/proc/{pid}");
    let resident = || field(Path::new(&process), "VmRSS") as f64;
    std::thread::sleep(Duration::from_secs(4));
    let before = wakeups(pid);
    std::thread::sleep(Duration::from_secs(60));
    let after = wakeups(pid);
    let woken = (after.0 - before.0) as f64;
    hold("wake-ups in 60 s without a question", woken, Aim::Most(0.0));
    hold("threads", after.1 as f64, Aim::Most(1.0));
    hold("resident, kB", resident(), Aim::Most(4096.0));
    for _ in 0..100 {
        guest.ask();
    }
    hold("and after a hundred more", resident(), Aim::Most(4096.0));
}

pub fn follow() {
    let Some(guest) = Answerer::stock(&["--logbuf-follow"]) else { return };
    let pid = guest.process.pid();
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // utime and stime, in hundredths of a second.
        let fields: Vec<u64> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .map(|n| n.parse().unwrap_or(0))
            .collect();
        fields[11] + fields[12]
    };
    std::thread::sleep(Duration::from_secs(4));
    let before = spent();
    std::thread::sleep(Duration::from_secs(60));
    let used = (spent() - before) as f64 / 60.0;
    hold("follow at 10 Hz, % of a core", used, Aim::Most(0.5));
}

pub fn binary() {
    let size = std::fs::metadata(lab::qemu_logbuf()).expect("it is there").len();
    let kind = if is_static() { "static" } else { "dynamic" };
    hold(&format!("the program, {kind}, bytes"), size as f64, Aim::Most(2e6));
}

/// Whether the program has no interpreter to load libraries for it.
fn is_static() -> bool {
    let program = std::fs::read(lab::qemu_logbuf()).expect("it is there");
    memchr::memmem::find(&program, b"/ld-linux").is_none()
        && memchr::memmem::find(&program, b"/ld64.so").is_none()
}
