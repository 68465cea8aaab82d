//! The answer, against the manual recipe and the mere transfer of the bytes.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qemu_logbuf::guest::live::LiveMemory;
use qemu_logbuf::guest::{AddressRule, Memory, ReadError, View};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::kernel::locate;
use qemu_logbuf::monitor::{Monitor, Shared};

use super::{MACHINE, lab, median, millis, ratio, say, time};

const ROUNDS: usize = 40;

/// A child that ends with its owner.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The stock hang under qemu-logbuf, with its stderr.
pub fn hung(words: &[&str]) -> Option<(Running, BufReader<std::process::ChildStderr>)> {
    let kernel = lab::stock_hung_in("register_early_udbg_console")?;
    let mut child = Command::new(lab::qemu_logbuf())
        .args(MACHINE)
        .args(["-serial", "null", "-kernel"])
        .arg(kernel)
        .args(words)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qemu-logbuf starts");
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    Some((Running(child), stderr))
}

/// Ask, and read the report to its last byte; its lines.
pub fn ask(guest: &Running, stderr: &mut impl BufRead) -> Vec<String> {
    kill(guest.pid(), Signal::SIGUSR1).expect("it runs");
    let mut lines = Vec::new();
    // A failure is said in one line.
    let is_last = |line: &String| {
        line.contains("end of report")
            || (line.contains("qemu-logbuf") && !line.contains(" records"))
    };
    while !lines.last().is_some_and(is_last) {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).expect("a line") > 0, "it ended");
        lines.push(line);
    }
    lines
}

/// Ask until the last early message is there.
pub fn ask_until_hung(guest: &Running, stderr: &mut impl BufRead) {
    // Until its handler is there, SIGUSR1 ends any process.
    std::thread::sleep(Duration::from_millis(300));
    while !ask(guest, stderr).iter().any(|line| line.contains("Hardware name")) {}
}

pub fn answer() {
    let answers = |words: &[&str]| {
        let (guest, mut stderr) = hung(words)?;
        ask_until_hung(&guest, &mut stderr);
        Some(median((0..ROUNDS).map(|_| time(|| drop(ask(&guest, &mut stderr)))).collect()))
    };
    let Some(log) = answers(&["--logbuf-where=off"]) else { return };
    let Some(both) = answers(&[]) else { return };
    say("signal to last byte of the report, log alone", millis(log));
    say("and with where each CPU is (two samples)", millis(both));
    let kernel = lab::stock_hung_in("register_early_udbg_console").expect("there already");
    let bare = Bare::start(&kernel);
    let (bytes, transfer) = bare.transfer(&kernel);
    say(&format!("transfer of the same {bytes} bytes alone"), millis(transfer));
    say("log alone / transfer (aim: 2)", ratio(log, transfer));
    let recipe = median((0..5).map(|_| time(|| bare.recipe(&kernel))).collect());
    say("the recipe: nm, dump-guest-memory, hexdump", millis(recipe));
    say("recipe / log alone (aim: 200)", ratio(recipe, log));
}

/// A QEMU of its own.
pub struct Bare {
    qemu: Running,
    folder: tempfile::TempDir,
    monitor: Shared,
}

/// Memory that notes what is read.
struct Noted<'a>(&'a LiveMemory, RefCell<Vec<(u64, usize)>>);

impl Memory for Noted<'_> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.1.borrow_mut().push((real, buf.len()));
        self.0.read(real, buf)
    }

    fn ram(&self) -> &[Range<u64>] {
        self.0.ram()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

impl Bare {
    fn start(kernel: &Path) -> Self {
        Self::with(&["-kernel", kernel.to_str().expect("a plain path")])
    }

    /// One with these words after those of the machine.
    pub fn with(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let child = Command::new("qemu-system-ppc64")
            .args(MACHINE)
            .args(["-serial", "null"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path.display())])
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        let qemu = Running(child);
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let monitor = Shared::new(Monitor::connect(stream, soon()).expect("a greeting"));
        Self { qemu, folder, monitor }
    }

    /// The guest's memory.
    pub fn memory(&self) -> LiveMemory {
        let mut memory =
            LiveMemory::new(self.monitor.clone(), Some(self.qemu.pid().as_raw()), None);
        memory.begin(Duration::from_secs(2));
        memory.refresh().expect("QEMU tells");
        memory
    }

    /// How many bytes a report reads, and how long merely reading them takes.
    fn transfer(&self, kernel: &Path) -> (usize, Duration) {
        let names = Elf::open(kernel).and_then(|elf| elf.names()).expect("names");
        let arch = names.arch.expect("an architecture");
        let memory = self.memory();
        let reads = loop {
            let noted = Noted(&memory, RefCell::default());
            let view = View::new(&noted, arch, AddressRule::Linear64);
            let log = locate(&view, &names, 0).ok().and_then(|buffer| buffer.read(&view).ok());
            let is_whole = log.is_some_and(|log| {
                log.records().any(|record| record.text.starts_with(b"Hardware name"))
            });
            if is_whole {
                break noted.1.into_inner();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let total = reads.iter().map(|(_, len)| len).sum();
        let mut buf = vec![0; total];
        let once = || {
            for (real, len) in &reads {
                memory.read(*real, &mut buf[..*len]).expect("RAM");
            }
        };
        let mut once = once;
        (total, median((0..ROUNDS).map(|_| time(&mut once)).collect()))
    }

    /// What one types otherwise, as fast as a script types it.
    fn recipe(&self, kernel: &Path) {
        let out = Command::new("nm").arg(kernel).output().expect("nm runs");
        let text = String::from_utf8_lossy(&out.stdout);
        let line = text.lines().find(|line| line.ends_with(" __log_buf")).expect("__log_buf");
        let address = u64::from_str_radix(&line[..16], 16).expect("an address");
        let file: PathBuf = self.folder.path().join("tmp");
        let command = format!(
            "dump-guest-memory {} {:#x} 262144",
            file.display(),
            address & 0x0fff_ffff_ffff_ffff
        );
        let answer = self.monitor.lock().hmp(&command, soon()).expect("a dump");
        assert!(answer.trim().is_empty(), "{answer}");
        let dump = File::create(self.folder.path().join("dump")).expect("a file");
        let status = Command::new("hexdump").arg("-C").arg(&file).stdout(dump).status();
        assert!(status.expect("hexdump runs").success());
    }
}
