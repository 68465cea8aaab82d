//! What no answer can be faster than: the bare transfer of the bytes that a
//! report is made of, by the same method, asked for and delivered in the same
//! way. A process starts QEMU, waits until the kernel hangs, and then answers
//! SIGUSR1 with that transfer and a write of a report that it made before.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::hint::black_box;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use qemu_logbuf::guest::live::{LiveMemory, Scratch};
use qemu_logbuf::guest::{AddressRule, Memory, ReadError, View};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::kernel::{Names, identify, locate};
use qemu_logbuf::monitor::{Monitor, Shared};
use qemu_logbuf::report::{self, Format, Report, Style, Verdict};

use super::hung::{Answerer, ROUNDS, Running};
use super::{MACHINE, lab, median, time};

/// The variable that makes this program such a process: for the log alone, or
/// with the processors' registers.
pub const WAY: &str = "QEMU_LOGBUF_FLOOR";

/// Such a process, ready.
pub fn start(way: &str) -> Answerer {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(WAY, way);
    let mut floor = Answerer::start(command);
    while !floor.line().contains("ready") {}
    floor
}

/// Be such a process.
pub fn serve(way: &OsStr) {
    let mut asked = SigSet::empty();
    asked.add(Signal::SIGUSR1);
    // Its owner's word to end, with its QEMU.
    asked.add(Signal::SIGTERM);
    let kernel = lab::stock_hung_in("register_early_udbg_console").expect("there already");
    let bare = Bare::start(&kernel);
    // QEMU, which would inherit it, is to hear signals.
    asked.thread_block().expect("blocked");
    let memory = bare.memory();
    let transfer = transfer(&memory, &names(&kernel));
    let with_registers = way == "registers";
    eprintln!("ready");
    let mut buf = transfer.room();
    while asked.wait() == Ok(Signal::SIGUSR1) {
        let begun = with_registers.then(|| bare.monitor.lock().begin_registers());
        transfer.once(&memory, &mut buf);
        if let Some(begun) = begun {
            let text = bare.monitor.lock().finish(begun.expect("it is at leisure"), soon());
            black_box(text.expect("registers"));
        }
        std::io::stderr().write_all(&transfer.report).expect("written");
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A QEMU of its own, whose kernel hangs.
pub struct Bare {
    qemu: Running,
    pub folder: tempfile::TempDir,
    pub monitor: Shared,
    scratch: std::fs::File,
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

/// The reads that a report takes, and the report.
pub struct Transfer {
    reads: Vec<(u64, usize)>,
    report: Vec<u8>,
}

impl Transfer {
    pub fn bytes(&self) -> usize {
        self.reads.iter().map(|(_, len)| len).sum()
    }

    fn room(&self) -> Vec<u8> {
        vec![0; self.reads.iter().map(|(_, len)| *len).max().unwrap_or_default()]
    }

    fn once(&self, memory: &LiveMemory, buf: &mut [u8]) {
        for (real, len) in &self.reads {
            memory.read(*real, &mut buf[..*len]).expect("RAM");
        }
        black_box(buf);
    }

    /// How long it takes when nobody has to be woken.
    pub fn time(&self, memory: &LiveMemory) -> Duration {
        memory.begin(Duration::from_secs(20));
        let mut buf = self.room();
        median((0..ROUNDS).map(|_| time(|| self.once(memory, &mut buf))).collect())
    }
}

impl Bare {
    pub fn start(kernel: &Path) -> Self {
        Self::with(&["-kernel", kernel.to_str().expect("a plain path")])
    }

    /// One with these words after those of the machine.
    pub fn with(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        // Inherited, for pmemsave.
        let scratch = memfd_create(c"scratch", MFdFlags::empty()).expect("a memfd").into();
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
        Self { qemu, folder, monitor, scratch }
    }

    /// The guest's memory, read out of QEMU's.
    pub fn memory(&self) -> LiveMemory {
        let scratch = self.scratch.try_clone().expect("a descriptor");
        let scratch = Scratch::new(scratch, self.scratch.as_raw_fd());
        let qemu = self.qemu.pid().as_raw();
        let mut memory = LiveMemory::new(self.monitor.clone(), Some(qemu), Some(scratch));
        memory.begin(Duration::from_secs(2));
        memory.refresh().expect("QEMU tells");
        memory
    }
}

/// The names of a kernel, for a report.
pub fn names(kernel: &Path) -> Names {
    Elf::open(kernel).and_then(|elf| elf.names()).expect("names")
}

/// A report of the log alone, as the launcher makes it.
pub fn report(memory: &dyn Memory, names: &Names) -> Option<Vec<u8>> {
    let arch = names.arch.expect("an architecture");
    let view = View::new(memory, arch, AddressRule::Linear64);
    identify(memory, arch, names).ok()?;
    let log = locate(&view, names, 0).ok()?.read(&view).ok()?;
    log.records().find(|record| record.text.starts_with(b"Hardware name"))?;
    Some(report::render(&Report::new(Verdict::Log(log)), Format::Dmesg, Style::default()))
}

/// What a report of the whole log takes, once that is there.
pub fn transfer(memory: &LiveMemory, names: &Names) -> Transfer {
    loop {
        let noted = Noted(memory, RefCell::default());
        if let Some(report) = report(&noted, names) {
            break Transfer { reads: noted.1.into_inner(), report };
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
