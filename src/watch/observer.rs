//! From a question to its report: the one place where guest memory, kernel,
//! log and output meet.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::answer;
use super::effort::{Effort, Handle};
use super::sources::Sources;
use crate::cli::Options;
use crate::guest::live::{LiveMemory, Scratch};
use crate::guest::{Cpu, Memory, ReadError, cpu};
use crate::launch::Channel;
use crate::monitor::{Monitor, Shared, StdioUse};
use crate::report::{self, ColorChoice, Format, LineEnd, Report, Style, Verdict};
use crate::terminal::Destination;
use crate::trace;

/// How long a report waits, in all, for a QEMU that does not answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long the preparation waits for QEMU's machine to exist.
const START: Duration = Duration::from_secs(2);

/// What leads to QEMU.
struct Link {
    monitor: Shared,
    /// The monitor's socket once more, to be polled.
    socket: UnixStream,
    memory: LiveMemory,
}

/// Answers questions about one guest.
pub struct Observer {
    link: Result<Link, io::Error>,
    sources: Sources,
    stdio: Option<StdioUse>,
    color: ColorChoice,
    output: Option<PathBuf>,
    number: u64,
    effort: Handle,
    /// The monitor is open: what comes from it is to be taken.
    listening: bool,
}

impl Observer {
    /// An observer of the QEMU at the other end of `channel`.
    #[must_use]
    pub fn new(
        sources: Sources,
        channel: io::Result<Channel>,
        qemu: Pid,
        options: &Options,
    ) -> Self {
        let link = channel.and_then(|channel| {
            let socket = channel.monitor.try_clone()?;
            let monitor = Shared::new(Monitor::new(channel.monitor).map_err(io::Error::other)?);
            let scratch = Scratch::new(channel.scratch, channel.scratch_in_qemu);
            let memory = LiveMemory::new(monitor.clone(), Some(qemu.as_raw()), Some(scratch));
            Ok(Link { monitor, socket, memory })
        });
        Self {
            link,
            sources,
            stdio: None,
            color: options.color,
            output: options.output.clone(),
            number: 0,
            effort: Handle::default(),
            listening: true,
        }
    }

    /// What cancels a look that takes long.
    pub(super) fn effort(&self) -> Handle {
        self.effort.clone()
    }

    /// The monitor's socket, to be watched for what QEMU sends by itself.
    #[must_use]
    pub fn monitor_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().ok().filter(|_| self.listening).map(|link| link.socket.as_fd())
    }

    /// Take what QEMU sent by itself.
    pub fn drain_monitor(&mut self) {
        if let Ok(link) = &self.link {
            self.listening = link.monitor.lock().drain().is_ok();
        }
    }

    /// Who reads the terminal, once QEMU has said so.
    #[must_use]
    pub fn stdio_use(&self) -> Option<StdioUse> {
        self.stdio
    }

    /// Read the kernel's names and ask QEMU where its memory is, so that the
    /// answer is quick and does not hang on QEMU's cooperation later.
    pub fn prepare(&mut self) {
        self.sources.prepare();
        if let Ok(link) = &mut self.link {
            let deadline = Instant::now() + START;
            let mut monitor = link.monitor.lock();
            let ready = monitor.ready(deadline);
            self.stdio = monitor.query_stdio(deadline).ok();
            drop(monitor);
            link.memory.begin(PATIENCE);
            let mapped = ready.is_ok().then(|| link.memory.refresh());
            trace!("monitor {ready:?}, stdio {:?}, memory {mapped:?}", self.stdio);
        }
    }

    /// Answer: make a report and put it where it belongs.
    pub fn answer(&mut self, destination: &Destination) {
        let start = Instant::now();
        let destination = match &self.output {
            Some(path) => Destination::File(path.clone()),
            None => destination.clone(),
        };
        let (report, fresh_line) = self.report(&destination);
        let bytes = self.render(&report, &destination, fresh_line);
        let written = destination.write(&bytes);
        let length = bytes.len();
        trace!("{length} bytes to {destination:?} in {:?}: {written:?}", start.elapsed());
        if let (Err(error), Destination::File(path)) = (written, &destination) {
            let line = format!(
                "qemu-logbuf: cannot write {}: {error}; name another file with --logbuf-output\r\n",
                path.display()
            );
            let _ = Destination::Stderr.write(line.as_bytes());
        }
    }

    fn render(&self, report: &Report, destination: &Destination, fresh_line: bool) -> Vec<u8> {
        let terminal = destination.is_terminal();
        let environment = |name: &str| std::env::var_os(name);
        let style = Style {
            colour: report::wants_colour(self.color, terminal, environment),
            unicode: !terminal || report::wants_unicode(environment),
            terminal,
            line_end: if destination.is_raw() { LineEnd::CrLf } else { LineEnd::Lf },
            width: destination.columns().map(usize::from),
            caller: false,
        };
        let bytes = report::render(report, Format::Dmesg, style);
        if terminal && !fresh_line {
            // Whatever stands unfinished on the guest's line keeps its line.
            [style.line_end.bytes(), bytes.as_slice()].concat()
        } else {
            bytes
        }
    }

    /// Ask the guest; the report, and whether the terminal's cursor is at the
    /// beginning of a line of ours.
    fn report(&mut self, to: &Destination) -> (Report, bool) {
        self.number += 1;
        let mut fresh_line = false;
        let mut report = self.ask(to, &mut fresh_line).unwrap_or_else(Report::new);
        report.number = self.number;
        (report, fresh_line)
    }

    fn ask(&mut self, to: &Destination, fresh_line: &mut bool) -> Result<Report, Verdict> {
        let link = self.link.as_mut().map_err(|error| {
            answer::failed(
                format!("QEMU was started without a monitor for us: {error}"),
                "mount /proc and allow more descriptors, then start it again",
            )
        })?;
        link.memory.begin(PATIENCE);
        if let Err(error) = link.memory.refresh()
            && !link.memory.is_prepared()
        {
            return Err(unreadable(&error));
        }
        if link.memory.ram().is_empty() {
            return Err(answer::failed(
                "this machine has no memory".to_owned(),
                "there is no kernel to look for (-M none?)",
            ));
        }
        let cpu = first_cpu(&link.monitor);
        let effort = Effort::new(&link.memory, self.effort.clone(), to);
        let guest = answer::Guest { memory: &effort, cpu };
        let mut progress = |done, total| {
            effort.progress(done, total);
            ControlFlow::Continue(())
        };
        let report = answer::consult(&guest, &mut self.sources, &mut progress);
        *fresh_line = effort.end();
        report.map_err(|error| unreadable(&error))
    }
}

/// Where the guest's first processor is, if QEMU says so soon.
fn first_cpu(monitor: &Shared) -> Option<Cpu> {
    let text = monitor.lock().registers(Instant::now() + PATIENCE / 4).ok()?;
    cpu::parse(&text).into_iter().next()
}

/// Guest memory could not be read: what to do about it.
fn unreadable(error: &ReadError) -> Verdict {
    let remedy = match error {
        ReadError::Gone => "there is nothing left to read",
        ReadError::Silent => {
            "it may be stopped, or waiting for its output to be read; ask again then"
        }
        ReadError::Refused(_) => "ask again once the machine is set up",
        ReadError::Cancelled => "press the key again for another try",
        ReadError::NotRam { .. } | ReadError::Unmapped(_) | ReadError::Io(_) => {
            "ask again, and report it with a --logbuf-debug=FILE if it stays"
        }
    };
    answer::failed(error.to_string(), remedy)
}
