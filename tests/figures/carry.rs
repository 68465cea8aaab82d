//! What it costs to carry qemu-logbuf along when nobody asks it anything.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::recipe::{Running, ask_until_hung, hung};
use super::{MACHINE, lab, median, millis, ratio, say, time};

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
    say("added (aim: 3 ms to QEMU's exec)", millis(wrapped.saturating_sub(bare)));
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
    for _ in 0..15 {
        bare.push(first_byte(Path::new("qemu-system-ppc64")));
        wrapped.push(first_byte(&lab::qemu_logbuf()));
    }
    let (bare, wrapped) = (median(bare), median(wrapped));
    say("boot to the first byte of the console, bare", millis(bare));
    say("wrapped / bare (aim: 1.01)", ratio(wrapped, bare));
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
    let Some((guest, mut stderr)) = hung(&[]) else { return };
    let process = format!("/proc/{}", guest.pid());
    std::thread::sleep(Duration::from_secs(4));
    let before = wakeups(guest.pid());
    std::thread::sleep(Duration::from_secs(60));
    let after = wakeups(guest.pid());
    say("wake-ups in 60 s without a question (aim: 0)", after.0 - before.0);
    say("threads (aim: 1)", after.1);
    say("resident, kB (aim: 4096)", field(Path::new(&process), "VmRSS"));
    ask_until_hung(&guest, &mut stderr);
    say("and after a report, kB", field(Path::new(&process), "VmRSS"));
}

pub fn follow() {
    let Some((guest, _stderr)) = hung(&["--logbuf-follow"]) else { return };
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", guest.pid())).expect("it runs");
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
    say("follow at 10 Hz, of a core (aim: 0.5 %)", format!("{used:.2} %"));
}

pub fn binary() {
    let size = std::fs::metadata(lab::qemu_logbuf()).expect("it is there").len();
    say("the program, bytes (aim, static: 2,000,000)", size);
}
