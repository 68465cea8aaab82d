//! QEMU's other clients around a report: the user's own QMP socket, its
//! monitor and its gdbstub, all at work, see what they see of bare QEMU, and
//! no STOP or RESUME of ours.
//!
//! This very program plays the three clients, beside QEMU in a script. It
//! writes down all they are sent before, during and after reports by SIGUSR1;
//! bare QEMU gets the same signal, which means nothing to it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::PATIENCE;
use crate::run::Case;
use crate::stage::{Manner, Stage};

/// Tells the clients that a report is to come of their signal.
const WRAPPED: &str = "QEMU_LOGBUF_TEST_WRAPPED";

pub fn cases() -> Vec<Case> {
    macro_rules! with {
        ($machine:literal, $part:literal) => {
            concat!(
                "$Q ", $machine, " -nodefaults -serial null -display none -qmp unix:q,server=on,wait=off -monitor unix:m,server=on,wait=off -gdb unix:g,server=on,wait=off -pidfile $PWD/p 2>err &
                 FAKE_QEMU='clients ", $part, "' $SELF; kill $! 2>/dev/null; wait $!; echo $?; rm -f err q m g p"
            )
        };
    }
    vec![
        Case::files(
            "clients of a paused guest, around reports",
            with!("-M pseries -m 256 -S", "paused"),
        ),
        Case::files(
            "clients of a running guest, around reports",
            with!("-M pseries -m 256", "running"),
        ),
        Case::files(
            "clients of a hung kernel, around reports of its log",
            with!("-M pseries,x-vof=on -m 256 -kernel $HUNG", "hung"),
        )
        .with_kernel()
        // What skips the slow firmware.
        .since(7),
    ]
}

/// What the script of such a case needs.
pub fn dress(command: &mut Command, stage: &Stage, manner: Manner) {
    if let Ok(this) = std::env::current_exe() {
        command.env("SELF", this);
    }
    if let Some(kernel) = &stage.hung {
        command.env("HUNG", kernel);
    }
    if manner != Manner::Bare {
        command.env(WRAPPED, "1");
    }
}

/// Play all clients of the QEMU in this directory.
pub fn play(guest: &str) {
    let Some(mut clients) = Clients::connect(guest == "hung") else {
        fail("no QEMU to connect to, or it does not hang");
        return;
    };
    if guest == "running" {
        clients.resume();
    }
    clients.look("before");
    clients.around_report("during");
    clients.look("after");
    if guest == "paused" {
        clients.step();
        clients.around_report("after steps");
        clients.step();
    }
    clients.run_and_stop();
    clients.qmp.ask(r#"{"execute":"quit"}"#);
}

/// The case shows nothing: neither bare nor wrapped does it pass.
fn fail(why: &str) {
    println!("{why}");
    let _ = std::fs::write("failed", format!("none, for {why}"));
}

/// The three, connected to one QEMU.
struct Clients {
    qmp: Qmp,
    monitor: Monitor,
    gdb: Gdb,
    reports: usize,
    /// A report is to be of a decoded log.
    log: bool,
}

impl Clients {
    /// Connect, to a guest that is where it is going to stay if it `hangs`:
    /// the debugger stops it.
    fn connect(hangs: bool) -> Option<Self> {
        let qmp = Qmp::connect()?;
        let mut monitor = Monitor::connect()?;
        if hangs {
            monitor.wait_for_hang()?;
        }
        let mut gdb = Gdb(connect("g")?);
        for packet in ["qSupported", "qXfer:features:read:target.xml:0,ffb"] {
            println!("gdb {packet} {}", gdb.ask(packet));
        }
        Some(Self { qmp, monitor, gdb, reports: 0, log: hangs })
    }

    /// All that does not change by itself.
    fn look(&mut self, when: &str) {
        println!("== {when}");
        for command in
            ["query-status", "query-cpus-fast", "query-chardev", "query-block", "query-name"]
        {
            self.qmp.ask(&format!("{{\"execute\":\"{command}\"}}"));
        }
        for command in ["info status", "info block", "info cpus", "info version"] {
            println!("monitor {:?}", self.monitor.ask(command));
        }
        if self.is_running() {
            return;
        }
        println!("monitor {:?}", self.monitor.registers());
        for packet in ["?", "g", "m100,40", "qC"] {
            println!("gdb {packet} {}", self.gdb.ask(packet));
        }
    }

    fn is_running(&mut self) -> bool {
        self.qmp.reply(r#"{"execute":"query-status"}"#).contains("\"running\":true")
    }

    /// Let the guest run on: the debugger has stopped it.
    fn resume(&mut self) {
        self.gdb.send("c");
        self.qmp.wait_for_event("RESUME");
    }

    /// Ask for a report, and go on with work until it is there: all answers
    /// are to be the first one.
    fn around_report(&mut self, when: &str) {
        println!("== {when}");
        let status = self.qmp.reply(r#"{"execute":"query-status"}"#);
        let said = self.monitor.ask("info status");
        println!("qmp {status}\nmonitor {said:?}");
        let askers = askers();
        if askers.is_empty() && std::env::var_os(WRAPPED).is_some() {
            fail("nobody to ask for a report");
        }
        let start = Instant::now();
        let (mut sent, mut same) = (None::<Instant>, true);
        while start.elapsed() < PATIENCE * 2 {
            // A kernel that is on its way may not have a log yet.
            if sent.is_none_or(|sent| sent.elapsed() > Duration::from_secs(1)) {
                for asker in &askers {
                    let _ = kill(*asker, Signal::SIGUSR1);
                }
                sent = Some(Instant::now());
            }
            same &= self.qmp.reply(r#"{"execute":"query-status"}"#) == status;
            same &= self.monitor.ask("info status") == said;
            let wanted = if self.log { "end of report" } else { "qemu-logbuf" };
            let text = std::fs::read_to_string("err").unwrap_or_default();
            let reports = text.matches(wanted).count();
            // Bare QEMU makes none: as long as one may take, then.
            let over =
                std::env::var_os(WRAPPED).is_none() && start.elapsed() > Duration::from_millis(300);
            if reports > self.reports || over {
                self.reports = reports;
                if !same {
                    fail("an answer changed while the guest was looked at");
                }
                return;
            }
        }
        fail("no report");
    }

    /// Single steps in the debugger.
    fn step(&mut self) {
        println!("== steps");
        for _ in 0..3 {
            println!("gdb s {}", self.gdb.ask("s"));
            println!("gdb g {}", self.gdb.ask("g"));
        }
        self.qmp.ask(r#"{"execute":"query-status"}"#);
    }

    /// Let the guest run under the debugger, ask, break in; then detach, ask,
    /// and stop it by QMP. Each change of state is an event, none is ours.
    fn run_and_stop(&mut self) {
        println!("== running under the debugger");
        if !self.is_running() {
            self.resume();
        }
        self.around_report("while it runs");
        println!("gdb interrupt {}", self.gdb.interrupt());
        self.qmp.wait_for_event("STOP");
        self.around_report("while the debugger has it");
        println!("gdb D {}", self.gdb.ask("D"));
        self.qmp.ask(r#"{"execute":"query-status"}"#);
        self.around_report("detached");
        self.qmp.ask(r#"{"execute":"stop"}"#);
        self.around_report("stopped");
        self.qmp.ask(r#"{"execute":"cont"}"#);
        self.qmp.ask(r#"{"execute":"query-status"}"#);
        println!("monitor {:?}", self.monitor.ask("stop"));
        println!("monitor {:?}", self.monitor.ask("info status"));
        self.qmp.ask(r#"{"execute":"query-status"}"#);
    }
}

/// Whom to ask: qemu-logbuf, as parent or companion, by the pid file on its
/// command line; bare, QEMU itself.
fn askers() -> Vec<Pid> {
    let file = std::env::current_dir().unwrap_or_default().join("p");
    let file = file.to_string_lossy().into_owned();
    let read = |path: PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    let ours = |pid: &i32| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        read(process.join("comm")).trim_end() == "qemu-logbuf"
            && read(process.join("cmdline")).contains(&file)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut askers: Vec<i32> = pids.filter(ours).collect();
    if std::env::var_os(WRAPPED).is_none() {
        askers = read(file.into()).trim().parse().into_iter().collect();
    }
    askers.into_iter().map(Pid::from_raw).collect()
}

/// Connect to a socket as soon as QEMU listens.
fn connect(path: &str) -> Option<UnixStream> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            return Some(stream);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Read until what came ends in one of `ends`; what came, whole or not.
fn read_until(mut stream: &UnixStream, ends: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !ends(&text) && matches!(stream.read(&mut byte), Ok(1)) {
        text.extend_from_slice(&byte);
    }
    text
}

/// The user's own QMP session, written down as it goes.
struct Qmp(UnixStream);

impl Qmp {
    fn connect() -> Option<Self> {
        let mut qmp = Self(connect("q")?);
        println!("qmp {}", qmp.next());
        qmp.ask(r#"{"execute":"qmp_capabilities"}"#);
        Some(qmp)
    }

    /// The next line, less what differs from run to run, and the one
    /// character device that is ours.
    fn next(&mut self) -> String {
        let line = read_until(&self.0, |text| text.ends_with(b"\n"));
        let Ok(mut value) = serde_json::from_slice::<Value>(&line) else {
            return String::from_utf8_lossy(&line).into_owned();
        };
        if let Some(object) = value.as_object_mut() {
            object.remove("timestamp");
        }
        if let Some(list) = value.get_mut("return").and_then(Value::as_array_mut) {
            list.retain(|one| one.get("label").is_none_or(|label| label != "qemu-logbuf"));
            // In no order, and named by chance.
            list.retain(|one| one.get("filename").is_none_or(|name| name != "gdb"));
            list.sort_by_key(|one| one.get("label").map(Value::to_string));
            for one in list {
                if let Some(one) = one.as_object_mut() {
                    one.remove("thread-id");
                }
            }
        }
        value.to_string()
    }

    /// The reply; events that come first are written down.
    fn reply(&mut self, command: &str) -> String {
        let _ = self.0.write_all(command.as_bytes());
        loop {
            let line = self.next();
            if line.is_empty() || line.contains("\"return\"") || line.contains("\"error\"") {
                return line;
            }
            println!("qmp {line}");
        }
    }

    fn ask(&mut self, command: &str) {
        println!("qmp {command}");
        println!("qmp {}", self.reply(command));
    }

    fn wait_for_event(&mut self, name: &str) {
        loop {
            let line = self.next();
            println!("qmp {line}");
            if line.is_empty() || line.contains(name) {
                return;
            }
        }
    }
}

/// QEMU's monitor for people.
struct Monitor(UnixStream);

impl Monitor {
    fn connect() -> Option<Self> {
        let monitor = Self(connect("m")?);
        println!("monitor {:?}", monitor.read());
        Some(monitor)
    }

    fn read(&self) -> String {
        let text = read_until(&self.0, |text| text.ends_with(b"(qemu) "));
        let text = String::from_utf8_lossy(&text).into_owned();
        // The host's thread.
        let (head, tail) = match text.split_once("thread_id=") {
            Some((head, tail)) => (head, tail.trim_start_matches(|c: char| c.is_ascii_digit())),
            None => return text,
        };
        format!("{head}{tail}")
    }

    /// The answer, less the echo.
    fn ask(&mut self, command: &str) -> String {
        let _ = self.0.write_all(format!("{command}\r").as_bytes());
        let text = self.read();
        text.split_once("\r\n").map_or(text.clone(), |(_, answer)| answer.to_owned())
    }

    /// The registers, but for the clocks.
    fn registers(&mut self) -> String {
        let text = self.ask("info registers");
        text.lines().filter(|line| !line.contains("DECR")).collect::<Vec<_>>().join("\n")
    }

    /// Wait until the processor is at a branch to itself.
    fn wait_for_hang(&mut self) -> Option<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE * 2 {
            let text = self.ask("info registers");
            let place = text.split("NIP ").nth(1)?.split_whitespace().next()?;
            let code = self.ask(&format!("x /1xw 0x{place}"));
            // In either byte order.
            if ["0x48000000", "0x00000048"].iter().any(|branch| code.contains(branch)) {
                return Some(());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        None
    }
}

/// A debugger at QEMU's gdbstub (the remote serial protocol).
struct Gdb(UnixStream);

impl Gdb {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        let _ = self.0.write_all(format!("${packet}#{sum:02x}").as_bytes());
        // The acknowledgement.
        read_until(&self.0, |text| text.ends_with(b"+"));
    }

    fn reply(&mut self) -> String {
        let text = read_until(&self.0, |text| text.len() > 3 && text[text.len() - 3] == b'#');
        let _ = self.0.write_all(b"+");
        String::from_utf8_lossy(&text).into_owned()
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.reply()
    }

    fn interrupt(&mut self) -> String {
        let _ = self.0.write_all(b"\x03");
        self.reply()
    }
}
