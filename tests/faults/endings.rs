//! However it ends, and be it by a fault of our own, the terminal is as before.
//!
//! `QEMU_LOGBUF_ENDINGS=1000 cargo test --test faults endings` runs as many, and
//! `QEMU_LOGBUF_ENDING=Quit` only those that end so.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::end_session;
use super::common::pty::Pty;
use super::{launcher, qemu};

/// How many, unless the environment says so.
const USUAL: u64 = 30;

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    QemuKilled,
    QemuTerminated,
    Terminated,
    Interrupted,
    HungUp,
    Quit,
    SuspendedThenTerminated,
    /// `^Z`, and `kill` to a shell that prompts.
    SuspendedThenKilled,
    GuestPowersOff,
    /// A panic of our own.
    Panic,
    /// What a processor refuses, or an abort, of our own.
    Crash(Signal),
}

const WAYS: [Way; 15] = [
    Way::QemuKilled,
    Way::QemuTerminated,
    Way::Terminated,
    Way::Interrupted,
    Way::HungUp,
    Way::Quit,
    Way::SuspendedThenTerminated,
    Way::SuspendedThenKilled,
    Way::GuestPowersOff,
    Way::Panic,
    Way::Crash(Signal::SIGSEGV),
    Way::Crash(Signal::SIGBUS),
    Way::Crash(Signal::SIGILL),
    Way::Crash(Signal::SIGFPE),
    Way::Crash(Signal::SIGABRT),
];

/// What stands on the terminal.
const STDIO: [&str; 2] = ["-display none -monitor stdio", "-nographic"];

/// A guest that counts for a while and powers off: firmware of pseries, which
/// is entered at 0x100 and calls RTAS by a hypercall (`KVMPPC_H_RTAS`).
fn firmware(count: u16) -> Vec<u8> {
    let code: [u32; 9] = [
        0x3ca0_0000 | u32::from(count), // lis r5, count
        0x7ca9_03a6,                    // mtctr r5
        0x4200_0000,                    // bdnz .
        0x3860_0000,                    // li r3, 0
        0x6063_f000,                    // ori r3, r3, 0xf000
        0x3880_0200,                    // li r4, 0x200
        0x4400_0022,                    // sc 1
        0x4800_0000,                    // b .
        0,
    ];
    // Token, arguments, returns: RTAS_POWER_OFF of QEMU's spapr.h.
    let call: [u32; 3] = [0x2003, 2, 1];
    let bytes =
        |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let mut memory = vec![0; 0x400];
    memory.splice(0x100..0x100 + code.len() * 4, bytes(&code));
    memory.splice(0x200..0x200 + call.len() * 4, bytes(&call));
    memory
}

#[test]
fn the_terminal_is_as_before_after_any_ending() {
    let Some(qemu) = qemu() else { return };
    let count = std::env::var("QEMU_LOGBUF_ENDINGS").ok().and_then(|count| count.parse().ok());
    let count = count.unwrap_or(USUAL);
    let only = std::env::var("QEMU_LOGBUF_ENDING").ok();
    let ways: Vec<Way> = WAYS
        .into_iter()
        .filter(|way| only.as_ref().is_none_or(|only| *only == format!("{way:?}")))
        .collect();
    assert!(!ways.is_empty(), "no such way to end: {only:?}; there are {WAYS:?}");
    let mut random = u64::from(std::process::id()) << 20 | 1;
    let mut times = vec![0; ways.len()];
    for number in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let way = random as usize % ways.len();
        times[way] += 1;
        Ending { qemu: &qemu, number, way: ways[way], random }.run();
    }
    for (way, times) in ways.iter().zip(times) {
        println!("{way:?}: {times}");
    }
    println!("{count} endings, and the terminal was as before after each");
}

struct Ending<'a> {
    qemu: &'a Path,
    number: u64,
    way: Way,
    random: u64,
}

impl Ending<'_> {
    fn run(&self) {
        let (number, way) = (self.number, self.way);
        let folder = tempfile::tempdir().expect("a folder");
        let mut pty = Pty::open().expect("a terminal");
        let before = pty.describe();
        let stdio = STDIO[(self.random >> 40) as usize % STDIO.len()];
        let mut shell = self.shell(&mut pty, stdio, folder.path());
        let leader = i32::try_from(shell.id()).expect("a process id");
        // A guest that powers off may be quicker than we look.
        let powers_off = way == Way::GuestPowersOff;
        let ended =
            |pty: &Pty| powers_off && String::from_utf8_lossy(pty.text()).contains("ended 0");
        assert!(pty.until(|pty| pty.is_raw() || ended(pty)), "{number} {way:?}: not raw");
        // Not in step with anything: a random moment is what is tested.
        std::thread::sleep(Duration::from_micros(self.random >> 20 & 0x3fff));
        if !powers_off {
            let ours = child(leader);
            self.end(&mut pty, ours);
            // Not the shell's word for it: an interrupted bash may end as well.
            let pid = Pid::from_raw(ours);
            let is_over = pty.until(|_| !super::is_alive(pid));
            let text = String::from_utf8_lossy(pty.text());
            assert!(is_over, "{number} {way:?}: no end of {} after {text}", states(leader));
            if way == Way::SuspendedThenKilled {
                // Its prompt has modes of its own.
                assert!(pty.type_in(b"read -r _\r"));
            }
        } else {
            assert!(
                pty.wait_for("ended 0"),
                "{number} {way:?}: {}",
                String::from_utf8_lossy(pty.text())
            );
        }
        let back = pty.until(|pty| pty.describe() == before);
        let now = pty.describe();
        assert!(back, "{number} {way:?}: {now} instead of {before}, with {}", states(leader));
        end_session(leader);
        let _ = shell.wait();
    }

    /// A shell with job control, so that the program may be stopped as by a
    /// user, and the program in it.
    fn shell(&self, pty: &mut Pty, stdio: &str, folder: &Path) -> std::process::Child {
        let machine = if self.way == Way::GuestPowersOff {
            let path = folder.join("firmware");
            let count = (self.random >> 44) as u16 % 0x400;
            std::fs::write(&path, firmware(count)).expect("a file");
            format!("-M pseries -vga none -bios {}", path.display())
        } else {
            "-M none".to_owned()
        };
        let words = format!("\"$OURS\" {machine} {stdio}");
        let script = if self.way == Way::SuspendedThenKilled {
            "ulimit -c 0; exec bash --norc --noprofile -i".to_owned()
        } else {
            format!("ulimit -c 0; set -m; {words}; echo \"ended $?\"; read -r _")
        };
        let shell = pty.spawn(&script, |command| {
            command.env("OURS", launcher()).env("QEMU_LOGBUF_QEMU", self.qemu);
            if self.way == Way::Panic {
                command.env("QEMU_LOGBUF_FAULT", "session");
            }
        });
        if self.way == Way::SuspendedThenKilled {
            // At its prompt the terminal is raw too; not so once it says this.
            assert!(pty.type_in(format!("echo sta''rted; {words}\r").as_bytes()));
            assert!(pty.wait_for("started\r\n"), "{}: no shell", self.number);
        }
        shell.expect("bash")
    }

    fn end(&self, pty: &mut Pty, ours: i32) {
        let send = |pid, signal| {
            let _ = kill(Pid::from_raw(pid), signal);
        };
        match self.way {
            Way::QemuKilled => send(child(ours), Signal::SIGKILL),
            Way::QemuTerminated => send(child(ours), Signal::SIGTERM),
            Way::Terminated => send(ours, Signal::SIGTERM),
            Way::Interrupted => send(ours, Signal::SIGINT),
            Way::HungUp => send(ours, Signal::SIGHUP),
            Way::Quit => assert!(pty.type_in(b"quit\r")),
            Way::SuspendedThenTerminated => {
                send(ours, Signal::SIGTSTP);
                assert!(pty.wait_for("ended 148"), "{}: not stopped", self.number);
                send(ours, Signal::SIGTERM);
                send(ours, Signal::SIGCONT);
            }
            Way::SuspendedThenKilled => {
                send(ours, Signal::SIGTSTP);
                assert!(pty.wait_for("Stopped"), "{}: not stopped", self.number);
                assert!(pty.type_in(b"kill %1\r"));
            }
            Way::Panic => send(ours, Signal::SIGUSR1),
            Way::Crash(signal) => send(ours, signal),
            Way::GuestPowersOff => {}
        }
    }
}

/// The processes of a session, and what each is at, for a failure.
fn states(leader: i32) -> String {
    let mut text = String::new();
    for pid in super::common::session(leader) {
        let read =
            |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        let fields = ["Name:", "State:", "PPid:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigCgt:"];
        let lines =
            status.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
        text += &format!("{pid} in {}: {:?}\n", read("wchan"), lines.collect::<Vec<_>>());
    }
    text
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
