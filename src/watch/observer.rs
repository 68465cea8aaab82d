//! From a question to its report: the one place where guest memory, kernel,
//! log and output meet.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::answer;
use super::effort::{Effort, Handle};
use super::history::History;
use super::places::{Known, Processors, Registers, Whereabouts};
use super::press::Press;
use super::question::{Question, Subject};
use super::sources::{SharedSources, Sources};
use crate::cli::{Options, Show};
use crate::guest::live::{LiveMemory, Reader, Scratch};
use crate::guest::{Cpu, Memory, ReadError};
use crate::monitor::Error::Silent;
use crate::monitor::channel::scratch_file;
use crate::monitor::{Begun, Channel, CpuThread, Lent, Monitor, Shared, StdioUse};
use crate::report::{CpuLine, Report, Scope, Verdict};
use crate::terminal::Destination;
use crate::trace;

/// How long what QEMU says of itself may take to come.
const REPLY: Duration = Duration::from_millis(500);

/// How long a report waits, in all, for a QEMU that does not answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long the preparation waits for QEMU's machine to exist.
const START: Duration = Duration::from_secs(2);

/// How long of that where a question waits, which has its own patience to
/// come: nobody waits for more than two seconds.
const SHORT_START: Duration = Duration::from_millis(300);

/// How QEMU's names of what it emulates begin, where that is Power.
const TARGETS: &str = "ppc";

/// How much guest memory is read at once, in bytes. With what is made of it,
/// less than a millisecond, which a key may wait; where there is more, a thread
/// is the smaller part of the whole.
const AT_ONCE: u64 = 256 << 10;

/// How many records are printed at once: those of a hostile log may be of
/// nothing but their own names.
const MOST_AT_ONCE: usize = 2048;

/// What leads to QEMU.
struct Link {
    monitor: Shared,
    /// The monitor's socket once more, to be polled.
    socket: UnixStream,
    memory: LiveMemory,
    /// QEMU's process, as far as it is known.
    qemu: Option<i32>,
    /// The file that QEMU saves to, and its number in QEMU.
    scratch: Option<(File, RawFd)>,
}

/// What a vigil over the same guest needs of its own.
pub(super) struct Access {
    pub(super) monitor: Shared,
    pub(super) socket: UnixStream,
    pub(super) memory: LiveMemory,
    pub(super) qemu: Option<Pid>,
    pub(super) sources: SharedSources,
}

/// Answers questions about one guest.
pub struct Observer {
    link: Result<Link, io::Error>,
    sources: SharedSources,
    stdio: Option<StdioUse>,
    press: Press,
    show: Show,
    places: bool,
    history: History,
    number: u64,
    effort: Handle,
    /// What QEMU emulates, once it has said so.
    target: Option<String>,
    /// The host's threads that run the guest's processors.
    threads: Vec<CpuThread>,
    /// The registers, where they were asked for already.
    ahead: Option<(Begun, Instant)>,
    /// The names of places, as far as they were found.
    known: Known,
    /// A question waits for what is being prepared.
    question_waits: Arc<AtomicBool>,
    /// The monitor is open: what comes from it is to be taken.
    listening: bool,
    /// What a QEMU that we did not start was lent to save to.
    lent: Option<Lent>,
}

impl Observer {
    /// An observer of a QEMU that was not started by us, by its own monitor;
    /// `socket` leads to it too.
    #[must_use]
    pub fn attached(
        sources: Sources,
        monitor: Monitor,
        socket: UnixStream,
        qemu: Option<i32>,
        options: &Options,
    ) -> Self {
        let monitor = Shared::new(monitor);
        let memory = LiveMemory::new(monitor.clone(), qemu, None);
        let link = Link { monitor, socket, memory, qemu, scratch: None };
        Self::with(Ok(link), sources, options)
    }

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
            let number = channel.scratch_in_qemu;
            let scratch = Scratch::new(channel.scratch.try_clone()?, number);
            let qemu = Some(qemu.as_raw());
            let memory = LiveMemory::new(monitor.clone(), qemu, Some(scratch));
            Ok(Link { monitor, socket, memory, qemu, scratch: Some((channel.scratch, number)) })
        });
        Self::with(link, sources, options)
    }

    fn with(link: Result<Link, io::Error>, sources: Sources, options: &Options) -> Self {
        Self {
            link,
            sources: SharedSources::new(sources),
            stdio: None,
            press: Press::new(options),
            show: options.show,
            places: options.places,
            history: History::default(),
            number: 0,
            effort: Handle::default(),
            target: None,
            threads: Vec::new(),
            ahead: None,
            known: Known::default(),
            question_waits: Arc::default(),
            listening: true,
            lent: None,
        }
    }

    /// The same beside a QEMU that is not our child but was started as `qemu`.
    #[must_use]
    pub fn beside(self, qemu: Pid) -> Self {
        Self { press: self.press.beside(qemu), ..self }
    }

    /// By which to say that a question waits.
    pub(super) fn question_waits(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.question_waits)
    }

    /// By which a look that takes long is cancelled.
    pub(super) fn effort(&self) -> Handle {
        self.effort.clone()
    }

    /// The monitor's socket, to be watched for what QEMU sends by itself.
    #[must_use]
    pub fn monitor_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().ok().filter(|_| self.listening).map(|link| link.socket.as_fd())
    }

    /// Another way to the same guest; `None` where there is not even this one.
    pub(super) fn access(&self) -> Option<Access> {
        let link = self.link.as_ref().ok()?;
        let again =
            |(file, number): &(File, RawFd)| Some(Scratch::new(file.try_clone().ok()?, *number));
        let scratch = link.scratch.as_ref().and_then(again);
        Some(Access {
            monitor: link.monitor.clone(),
            socket: link.socket.try_clone().ok()?,
            memory: LiveMemory::new(link.monitor.clone(), link.qemu, scratch),
            qemu: link.qemu.map(Pid::from_raw),
            sources: self.sources.clone(),
        })
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
        self.sources.lock().prepare();
        if let Ok(link) = &mut self.link {
            let start = Instant::now();
            let mut monitor = link.monitor.lock();
            let ready = loop {
                let patience = match self.question_waits.load(Ordering::Relaxed) {
                    true => SHORT_START,
                    false => START,
                };
                let end = start + patience;
                let deadline = end.min(Instant::now() + SHORT_START / 3);
                let ready = match monitor.greeted(deadline) {
                    // The first question does all of this.
                    Ok(false) => return,
                    Ok(true) => monitor.ready(deadline),
                    Err(error) => Err(error),
                };
                if ready.is_ok() || !matches!(ready, Err(Silent)) || Instant::now() >= end {
                    break ready;
                }
            };
            drop(monitor);
            trace!("monitor {ready:?}");
            if ready.is_err() {
                return;
            }
        }
        self.meet();
        if let Ok(link) = &mut self.link {
            link.memory.begin(PATIENCE);
            let mapped = link.memory.refresh();
            let reader = link.memory.reader();
            trace!("stdio {:?}, memory {mapped:?} by {reader:?}", self.stdio);
        }
        self.expect_question();
    }

    /// Lend a QEMU that we did not start, and whose memory we may not read, a
    /// file to save it to: to have it printed takes a thousand times as long.
    pub(super) fn lend_file(&mut self) {
        let Ok(link) = &mut self.link else { return };
        if !link.memory.is_prepared() || link.memory.reader() != Reader::Text {
            return;
        }
        let lend = || {
            let file = scratch_file()?;
            let again = file.try_clone()?;
            let deadline = Instant::now() + REPLY;
            let lent = link.monitor.lock().lend(file.as_fd(), deadline);
            lent.map(|lent| (lent, file, again)).map_err(io::Error::other)
        };
        match lend() {
            Ok((lent, file, again)) => {
                link.memory.save_to(Scratch::new(again, lent.number));
                link.scratch = Some((file, lent.number));
                self.lent = Some(lent);
                trace!("QEMU was lent a file to save to");
            }
            Err(error) => trace!("QEMU takes no file to save to: {error}"),
        }
    }

    /// Leave QEMU without what it was lent.
    pub(super) fn take_file_back(&mut self) {
        if let (Ok(link), Some(lent)) = (&self.link, self.lent.take()) {
            let _ = link.monitor.lock().take_back(lent, Instant::now() + REPLY);
        }
    }

    /// Have QEMU prepared for the next question as far as it can be.
    fn expect_question(&self) {
        if let (true, Ok(link)) = (self.places, &self.link) {
            link.monitor.lock().prepare_registers();
        }
    }

    /// Ask QEMU what it is, as far as it has not said so.
    fn meet(&mut self) {
        let Ok(link) = &self.link else { return };
        let deadline = Instant::now() + REPLY;
        let mut monitor = link.monitor.lock();
        if !monitor.is_ready() {
            return;
        }
        if self.stdio.is_none() {
            self.stdio = monitor.query_stdio(deadline).ok();
        }
        if self.target.is_none() {
            self.target = monitor.query_target(deadline).ok();
        }
        if self.places && self.threads.is_empty() {
            self.threads = monitor.query_cpus(deadline).unwrap_or_default();
        }
    }

    /// Answer a question without waiting for anybody, where that can be done:
    /// by names and guest memory that are at hand, into a pipe, for the log
    /// alone. What the pipe has no room for is given back; `None` is for
    /// [`Observer::answer`].
    ///
    /// A thread to answer from takes as long as the whole of this.
    pub(super) fn answer_at_once(&mut self, question: &Question) -> Option<Vec<u8>> {
        crate::fault::inject("answer");
        let to = &question.destination;
        if self.places || question.subject == Subject::Places || !self.press.is_pipe(to) {
            return None;
        }
        let start = Instant::now();
        let report = self.ask_at_once(question.subject)?;
        let report = self.numbered(report, question);
        let rest = self.press.put_at_once(&report, to);
        trace!("answered {question:?} in {:?}", start.elapsed());
        Some(rest)
    }

    /// Have QEMU begin with what an answer will take, while a thread is started
    /// for that.
    pub(super) fn ask_ahead(&mut self, subject: Subject) {
        let Ok(link) = &self.link else { return };
        let places = self.places || subject == Subject::Places;
        // Else there are other things to ask first.
        if places
            && !link.memory.is_doubtful()
            && let Some(mut monitor) = link.monitor.try_lock()
        {
            self.ahead = Registers::begin(&mut monitor);
        }
    }

    fn ask_at_once(&self, subject: Subject) -> Option<Report> {
        let link = self.link.as_ref().ok()?;
        if !self.target.as_ref().is_some_and(|target| target.starts_with(TARGETS)) {
            return None;
        }
        link.memory.begin(PATIENCE);
        let memory = link.memory.present(AT_ONCE)?;
        let sources = self.sources.try_lock()?;
        let unseen = self.show == Show::Unseen && subject != Subject::All;
        // As one that does not change: there is no second look.
        let guest =
            answer::Guest { memory: &memory, live: false, cpu: &|| None, log: true, unseen };
        let report = answer::at_once(&guest, &sources).filter(|_| !memory.fell_short())?;
        (report.log()?.entries.len() <= MOST_AT_ONCE).then_some(report)
    }

    /// Answer: make a report and put it where it belongs. Whether it is of a
    /// log, and could be written.
    pub fn answer(&mut self, question: &Question) -> bool {
        crate::fault::inject("answer");
        let start = Instant::now();
        let report = self.report(question);
        let written = self.press.put(&report, &question.destination);
        trace!("answered {question:?} in {:?}", start.elapsed());
        self.expect_question();
        written && report.log().is_some()
    }

    /// Report because of an event, with what else there is to say of it.
    pub(super) fn answer_event(
        &mut self,
        trigger: &'static str,
        note: String,
        destination: &Destination,
    ) {
        let destination = destination.clone();
        let question = Question { subject: Subject::Log, destination, for_all: None };
        let mut report = self.report(&question);
        report.trigger = Some(trigger);
        report.notes.push(note);
        self.press.put(&report, &question.destination);
    }

    /// Put a report that was made already where it belongs.
    pub(super) fn deliver(&mut self, mut report: Report, destination: &Destination) {
        self.number += 1;
        report.number = self.number;
        self.press.put(&report, destination);
    }

    /// Write beneath what QEMU prints for a key that it has read: it answers
    /// over its monitor from the same loop, and so when it has done with that.
    pub(super) fn write_after_qemu(&mut self, lines: &str, destination: &Destination) {
        let Ok(link) = &self.link else { return };
        let deadline = Instant::now() + REPLY;
        let mut monitor = link.monitor.lock();
        let answered = monitor.ready(deadline).and_then(|()| monitor.query_status(deadline));
        drop(monitor);
        trace!("QEMU has done with its key: {answered:?}");
        if answered.is_ok() {
            let _ = destination.write(lines.as_bytes());
        }
    }

    /// Ask the guest.
    fn report(&mut self, question: &Question) -> Report {
        let asked = self.ask(question.subject, &question.destination);
        self.numbered(asked.unwrap_or_else(Report::new), question)
    }

    /// The report as an answer to `question`, among those before it.
    fn numbered(&mut self, mut report: Report, question: &Question) -> Report {
        self.number += 1;
        report.number = self.number;
        if matches!(question.subject, Subject::News | Subject::All) {
            let next = History::of(&report);
            if question.subject == Subject::News && self.show != Show::All {
                // A guest that hangs says nothing new: asked again, it is the
                // log that is wanted.
                match self.history.all_of(&report) {
                    Some(since) => {
                        report.notes.push(format!("nothing is new since report #{since}"))
                    }
                    None => self.history.narrow(&mut report),
                }
            }
            if let Some(next) = next {
                self.history = next;
            }
        }
        if report.scope != Scope::All
            && let Some(keys) = question.for_all
        {
            report.notes.push(format!("{keys} shows all of the log"));
        }
        report
    }

    /// See that it is known where guest memory is, and that it is a Power
    /// guest's; whether QEMU was asked for that just now.
    fn be_ready(&mut self) -> Result<bool, Verdict> {
        let link = self.link.as_mut().map_err(|error| {
            answer::failed(
                format!("QEMU was started without a monitor for us: {error}"),
                "mount /proc and allow more descriptors, then start it again",
            )
        })?;
        link.memory.begin(PATIENCE);
        // What QEMU said before holds as long as it leads to the log: a
        // report waits for no answer that it can do without.
        let was_asked = link.memory.is_doubtful();
        if was_asked
            && let Err(error) = link.memory.refresh()
            && !link.memory.is_prepared()
        {
            return Err(unreadable(&error));
        }
        // It may have started too slowly to be asked then.
        self.meet();
        if let Some(target) = &self.target
            && !target.starts_with(TARGETS)
        {
            return Err(answer::failed(
                format!("this QEMU emulates {target}, whose kernels' logs are not read yet"),
                "only Power guests (ppc, ppc64) can be asked",
            ));
        }
        if self.link.as_ref().is_ok_and(|link| link.memory.ram().is_empty()) {
            return Err(answer::failed(
                "this machine has no memory".to_owned(),
                "there is no kernel to look for (-M none?)",
            ));
        }
        Ok(was_asked)
    }

    fn ask(&mut self, subject: Subject, to: &Destination) -> Result<Report, Verdict> {
        let was_asked = self.be_ready()?;
        let Ok(link) = &mut self.link else { return Err(unreadable(&ReadError::Gone)) };
        let log = subject != Subject::Places;
        let places = self.places || !log;
        let registers = Registers::ask(&link.monitor, places, self.ahead.take());
        let look = |memory: &LiveMemory| {
            let effort = Effort::new(memory, self.effort.clone(), to);
            let cpu = || registers.cpus().first().cloned();
            let unseen = self.show == Show::Unseen && subject != Subject::All;
            let guest = answer::Guest { memory: &effort, live: true, cpu: &cpu, log, unseen };
            let mut progress = |done, total| {
                effort.progress(done, total);
                ControlFlow::Continue(())
            };
            let answer = answer::consult(&guest, &mut self.sources.lock(), &mut progress);
            effort.end();
            answer
        };
        let mut answer = look(&link.memory);
        let led_to_log = matches!(&answer, Ok(answer) if answer.report.log().is_some());
        if !was_asked
            && (!led_to_log || link.memory.is_doubtful())
            && !matches!(answer, Err(ReadError::Cancelled))
            && link.memory.refresh().is_ok_and(|changed| changed)
        {
            answer = look(&link.memory);
        }
        let answer = answer.map_err(|error| unreadable(&error))?;
        let mut report = answer.report;
        // A QEMU that gave no registers a moment ago is not asked again.
        if (places || !led_to_log)
            && let Some(cpu) = registers.cpus().first().cloned()
        {
            let processors = Processors {
                monitor: &link.monitor,
                memory: &link.memory,
                registers,
                threads: &mut self.threads,
                known: &mut self.known,
            };
            let lines = places.then(|| processors.lines(&answer.ground, !log));
            tell_of_cpus(&mut report, &cpu, lines);
        }
        Ok(report)
    }
}

/// Say in a report where the CPUs are, of which `first` is one, and what that
/// means for the rest of it.
fn tell_of_cpus(report: &mut Report, first: &Cpu, lines: Option<(Vec<CpuLine>, Whereabouts)>) {
    if let Some((lines, whereabouts)) = lines {
        report.cpus = lines;
        match (whereabouts, &report.verdict) {
            (Whereabouts::InKernel, Verdict::NotEntered { .. }) => {
                // Still where it was loaded: in prom_init.
                report.verdict = Verdict::EnteredSilent { format: None };
            }
            (Whereabouts::Outside, Verdict::Log(_)) => {
                // What a reset leaves in memory until the next kernel clears
                // its data.
                report.warnings.push("no CPU is in the kernel; if the guest was reset, this is the log of the boot before, and the next kernel has not been entered".to_owned());
            }
            (Whereabouts::Outside, Verdict::NotEntered { .. }) if is_at_vector(first) => {
                report.warnings.push("a kernel that crashed before it had exception vectors of its own looks like this too; -d int,cpu_reset of QEMU's tells".to_owned());
            }
            _ => {}
        }
    }
    if let (Verdict::NotEntered { detail }, []) = (&mut report.verdict, &*report.cpus) {
        let more = if detail.is_empty() { "" } else { "; " };
        *detail = format!("CPU {} is at {:#x}{more}{detail}", first.index, first.nip);
    }
}

/// Whether a processor is where exceptions lead to, and not where a reset does.
const fn is_at_vector(cpu: &Cpu) -> bool {
    !cpu.translated() && matches!(cpu.nip, 0x200..0x3000)
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
