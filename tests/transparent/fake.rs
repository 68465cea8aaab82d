//! A fake QEMU: this very program, started under QEMU's name. It shows what
//! it inherited, or does with its stdin what a test needs to be exact about.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use nix::unistd::Pid;

use crate::common::PATIENCE;
use crate::run::SETTLING;

/// What the Rust runtime changes before `main`: bits 0 to 2 for closed
/// standard descriptors, bit 3 for an ignored SIGPIPE.
static AT_ENTRY: AtomicU8 = AtomicU8::new(0);

extern "C" fn note_entry() {
    let mut found = 0;
    for fd in 0..3 {
        // SAFETY: F_GETFD reads one flag.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            found |= 1 << fd;
        }
    }
    // SAFETY: a zeroed sigaction is valid, and is only written to.
    let pipe = unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut old);
        old.sa_sigaction
    };
    if pipe == libc::SIG_IGN {
        found |= 8;
    }
    AT_ENTRY.store(found, Ordering::Relaxed);
}

// SAFETY: the C runtime calls what is in this section once before main.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_ENTRY: extern "C" fn() = note_entry;

/// Play a part.
pub fn play(part: &str) -> ExitCode {
    match part {
        "inherited" => {
            let text = inherited();
            let _ = std::fs::write("inherited", &text);
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
        _ if part.starts_with("clients ") => crate::clients::play(&part["clients ".len()..]),
        "a shell that stops its job" => stop_and_go(),
        "echo" => echo(),
        "store" => store(false, 0),
        "store raw" => store(true, 0),
        "store slowly" => store(true, 200),
        "store slowly cooked" => store(false, 200),
        _ => return ExitCode::from(99),
    }
    ExitCode::from(7)
}

/// Everything that can be inherited, less what is ours by right: the one pair
/// of words, descriptors from 900 on that are ours, and our variables.
fn inherited() -> String {
    let mut text = String::new();
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "-readconfig") {
        words.drain(1..3);
    }
    // Its directory depends on whether it was found in PATH.
    if let Some(name) = words.first_mut() {
        *name = std::path::Path::new(name).file_name().unwrap_or_default().to_owned();
    }
    for word in words {
        let _ = writeln!(text, "word {}", word.as_bytes().escape_ascii());
    }
    let mut variables: Vec<_> = std::env::vars_os().collect();
    variables.sort();
    for (name, value) in variables {
        let ours = name.as_bytes().starts_with(b"QEMU_LOGBUF_");
        if !ours && name != "PATH" && name != "_" {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            let _ = writeln!(text, "variable {}={}", name.escape_ascii(), value.escape_ascii());
        }
    }
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    for line in read("status").lines() {
        let wanted = [
            "Umask",
            "SigQ",
            "SigBlk",
            "ShdBlk",
            "SigPnd",
            "ShdPnd",
            "NoNewPrivs",
            "Seccomp:",
            "Uid",
            "Gid",
            "Groups",
            "CapPrm",
            "Cpus_allowed_list",
        ];
        if wanted.iter().any(|name| line.starts_with(name)) && !line.starts_with("SigQ") {
            let _ = writeln!(text, "{line}");
        }
        if let Some(ignored) = line.strip_prefix("SigIgn:") {
            let mut ignored = u64::from_str_radix(ignored.trim(), 16).unwrap_or(0);
            ignored &= !(1 << (libc::SIGPIPE - 1));
            let _ = writeln!(text, "ignored {ignored:016x}");
        }
    }
    let entry = AT_ENTRY.load(Ordering::Relaxed);
    let _ = writeln!(text, "SIGPIPE ignored: {}", entry & 8 != 0);
    text.push_str(&read("limits"));
    let stat = read("stat");
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or(vec![], |(_, rest)| rest.split(' ').collect());
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let _ = writeln!(text, "nice {} policy {}", field(19), field(41));
    let _ = writeln!(text, "in the foreground: {}", field(5) == field(8));
    let _ = writeln!(text, "cwd {:?}", std::env::current_dir().map_err(|error| error.kind()));
    descriptors(&mut text, entry);
    text
}

/// The open descriptors, and what they lead to.
fn descriptors(text: &mut String, closed: u8) {
    let Ok(directory) = std::fs::read_dir("/proc/self/fd") else { return };
    let mut found: Vec<(i32, String)> = directory
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy().into_owned();
            Some((number, target))
        })
        .collect();
    found.sort();
    // Ours: the highest memfd by name, and the socket beside it.
    let ours: Vec<i32> = found
        .iter()
        .filter(|(_, target)| target.starts_with("/memfd:qemu-logbuf"))
        .flat_map(|(number, _)| [*number, *number - 1])
        .collect();
    for (number, target) in found {
        let listing = target.ends_with("/fd");
        if ours.contains(&number) || listing {
            continue;
        }
        if (0..3).contains(&number) && closed & (1 << number) != 0 {
            let _ = writeln!(text, "descriptor {number} closed");
            continue;
        }
        let flags =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let target: String = target.chars().filter(|c| !c.is_ascii_digit()).collect();
        let target = target.replace("/cases/inherits", "");
        let target = target.rsplit('/').next().unwrap_or_default();
        let _ = writeln!(text, "descriptor {number} {target} {flags}");
    }
}

/// Stop and continue QEMU faster than it can follow, as a job of one's own:
/// it is to run in the end. (An interactive bash leaves even sleep(1) stopped
/// now and then.)
fn stop_and_go() {
    let name = std::env::var("Q").unwrap_or_default();
    let words = ["-M", "none", "-display", "none", "-nodefaults", "-pidfile", "p"];
    let job = Command::new(name).args(words).process_group(0).stderr(Stdio::null()).spawn();
    let Ok(mut job) = job else { return };
    let pid = Pid::from_raw(job.id().cast_signed());
    let qemu = || std::fs::read_to_string("p").ok()?.trim().parse::<i32>().ok().map(Pid::from_raw);
    let is = |pid: Pid, states: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(|c| states.contains(c)))
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !done() && start.elapsed() < PATIENCE / 4 {
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{what}: {}", done());
    };
    until("up", &|| qemu().is_some_and(|qemu| is(qemu, "S")) && is(pid, "S"));
    std::thread::sleep(SETTLING);
    for number in 0..300 {
        let _ = kill(pid, Signal::SIGTSTP);
        // At once, or after some moments.
        std::thread::sleep(Duration::from_micros(number % 6 * 50));
        let _ = kill(pid, Signal::SIGCONT);
    }
    until("runs", &|| qemu().is_some_and(|qemu| is(qemu, "S")) && is(pid, "S"));
    let _ = kill(pid, Signal::SIGTSTP);
    until("stopped", &|| qemu().is_some_and(|qemu| is(qemu, "T")) && is(pid, "T"));
    let _ = kill(pid, Signal::SIGCONT);
    until("runs again", &|| qemu().is_some_and(|qemu| is(qemu, "S")) && is(pid, "S"));
    let _ = kill(pid, Signal::SIGTERM);
    println!("{:?}", job.wait().map(|status| status.code()));
}

/// Make stdin raw, as QEMU does: output is processed as before.
fn raw() {
    let stdin = std::io::stdin();
    if let Ok(mut modes) = tcgetattr(&stdin) {
        let output = modes.output_flags;
        cfmakeraw(&mut modes);
        modes.output_flags = output;
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, &modes);
    }
}

/// Write back what is typed, at once, to the end of input or a `q`.
fn echo() {
    raw();
    let _ = std::io::stdout().write_all(b"ready\n").and_then(|()| std::io::stdout().flush());
    let mut byte = [0];
    while matches!(nix::unistd::read(std::io::stdin(), &mut byte), Ok(1)) && byte != *b"q" {
        let _ = nix::unistd::write(std::io::stdout(), &byte);
    }
}

/// Store stdin in a file, to a line that says `END`; every `pause` reads it
/// rests a millisecond.
fn store(single: bool, pause: usize) {
    if single {
        raw();
    } else if let Ok(modes) = tcgetattr(std::io::stdin()) {
        // As QEMU: only who sets modes on its stdin reads it.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &modes);
    }
    let _ = std::io::stdout().write_all(b"ready\n").and_then(|()| std::io::stdout().flush());
    let (mut stored, mut bytes, mut reads) = (Vec::new(), [0; 61], 0usize);
    let mut stdin = std::io::stdin().lock();
    while let Ok(len @ 1..) = stdin.read(&mut bytes) {
        stored.extend_from_slice(&bytes[..len]);
        if memchr::memmem::find(&stored[stored.len().saturating_sub(128)..], b"END\n").is_some() {
            break;
        }
        reads += 1;
        if pause > 0 && reads % pause == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    let _ = std::fs::write("stored", &stored);
}
