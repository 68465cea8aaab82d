//! Where questions are taken and handed to the observer, one after another.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::effort::Handle;
use super::observer::{Access, Observer};
use super::orders::{Finding, Order, Ringer};
use super::plan::{Plan, status};
use super::question::Question;
use super::vigil::Vigil;
use crate::monitor::{Shared, StdioUse};
use crate::report::Report;
use crate::terminal::Destination;

/// How many questions wait at most: a key held down is one question.
const WAITING: usize = 2;

/// How many reports of events wait at most for whoever reads the one before:
/// each holds a log.
const REPORTS_WAITING: usize = 16;

/// How long an answer may still take once QEMU has ended.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// The observer, here or at work.
enum Seat {
    Free(Box<Observer>),
    Busy(JoinHandle<Option<Box<Observer>>>),
    /// Its thread came to grief; there is nobody left to answer.
    Empty,
}

/// What is to be reported.
enum Task {
    /// What somebody asks.
    Asked(Question),
    /// What a pipe had no room for.
    Rest(Vec<u8>, Destination),
    /// What an event asks; whether QEMU is ended afterwards.
    Event { trigger: &'static str, note: String, ends: bool },
    /// What was found out already.
    Answered(Box<Report>),
    /// Lines for the terminal, beneath what QEMU is printing there.
    AfterQemu(String),
}

/// The vigil at work.
struct Watch {
    orders: Sender<Order>,
    bell: UnixStream,
    findings: Receiver<Finding>,
    /// It knows that QEMU has ended, and will end too.
    told_of_end: bool,
}

impl Watch {
    fn order(&mut self, order: Order) {
        let _ = self.orders.send(order);
        self.wake();
    }

    fn wake(&mut self) {
        let _ = self.bell.write(&[0]);
    }
}

/// Takes questions, on the main thread.
pub struct Desk {
    seat: Seat,
    /// Where what the observer is at goes; `None` while it merely prepares.
    answering: Option<Destination>,
    /// By which a look that takes long is cancelled.
    effort: Handle,
    /// By which the observer learns that a question waits.
    question_waits: Arc<AtomicBool>,
    waiting: VecDeque<Task>,
    /// How many reports were given up because nobody read those before.
    given_up: u64,
    plan: Plan,
    watch: Option<Watch>,
    /// The way to the guest for a vigil that has not begun.
    access: Option<Access>,
    /// QEMU is to be ended after the answer that is being made.
    ends: bool,
    /// What our exit status is to be.
    status: Option<u8>,
    /// QEMU's monitor, where it has one for us.
    monitor: Option<Shared>,
    /// A byte comes in whenever the observer is done, or the vigil found
    /// something.
    done: UnixStream,
    bell: UnixStream,
}

/// Said when the vigil came to grief.
const VIGIL_FAILED: &str = "looking out for events failed inside qemu-logbuf itself, and nobody does any more; QEMU is unharmed, please report this with a --logbuf-debug=FILE";

/// Say that the observer came to grief.
fn admit(place: &Destination) {
    let _ = place.write(
        b"qemu-logbuf: reading the log failed inside qemu-logbuf itself; QEMU is unharmed, please report this with a --logbuf-debug=FILE\r\n",
    );
}

/// Rings when dropped, whatever way a thread ends.
struct Ring(UnixStream, Ringer);

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = self.0.write(&[self.1.byte()]);
    }
}

impl Desk {
    /// Take the observer in and let it prepare, while the guest boots; and
    /// look out for what `plan` says.
    ///
    /// # Errors
    /// Where the host refuses a socketpair.
    pub fn open(observer: Observer, plan: Plan) -> io::Result<Self> {
        crate::sys::share_heap();
        let (done, bell) = UnixStream::pair()?;
        done.set_nonblocking(true)?;
        let access = observer.access();
        let monitor = access.as_ref().map(|access| access.monitor.clone());
        let mut desk = Self {
            effort: observer.effort(),
            question_waits: observer.question_waits(),
            answering: None,
            seat: Seat::Free(Box::new(observer)),
            waiting: VecDeque::new(),
            given_up: 0,
            plan,
            watch: None,
            access,
            ends: false,
            status: None,
            monitor,
            done,
            bell,
        };
        // The first question does without, where there is no thread for this.
        let _ = desk.send(Observer::prepare);
        if !desk.plan.is_idle()
            && let Err(error) = desk.begin_watch()
        {
            crate::trace!("no vigil: {error}");
        }
        if !desk.plan.is_idle() && desk.watch.is_none() {
            desk.plan.say("QEMU was started without a monitor for us, so nobody looks out for events; mount /proc and allow more descriptors, then start it again");
        }
        Ok(desk)
    }

    /// Let the vigil begin, if it has not.
    fn begin_watch(&mut self) -> io::Result<()> {
        if self.access.is_none() {
            return Ok(());
        }
        let (orders, to_watch) = channel();
        let (findings, from_watch) = channel();
        let (theirs, ours) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        ours.set_nonblocking(true)?;
        let (bell, ring) = (self.bell.try_clone()?, Ring(self.bell.try_clone()?, Ringer::Vigil));
        let plan = self.plan.clone();
        let Some(access) = self.access.take() else { return Ok(()) };
        let task = move |access| {
            let _ring = ring;
            Vigil::new(plan, access, (to_watch, theirs), (findings, bell)).run();
        };
        if let Err((error, access)) = spawn(access, task) {
            self.access = access;
            return Err(error);
        }
        self.watch = Some(Watch { orders, bell: ours, findings: from_watch, told_of_end: false });
        Ok(())
    }

    /// Readable when the observer is done.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// The monitor's socket, while it is nobody's turn to read it.
    #[must_use]
    pub fn monitor_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.seat {
            _ if self.watch.is_some() => None,
            Seat::Free(observer) => observer.monitor_fd(),
            Seat::Busy(_) | Seat::Empty => None,
        }
    }

    /// Who reads the terminal, once QEMU has said so.
    #[must_use]
    pub fn stdio_use(&self) -> Option<StdioUse> {
        match &self.seat {
            Seat::Free(observer) => observer.stdio_use(),
            Seat::Busy(_) | Seat::Empty => None,
        }
    }

    /// Take a question. While the user sees that the answer to the last one
    /// takes long, the key cancels that.
    pub fn ask(&mut self, question: Question) {
        if question.destination == Destination::Terminal && self.effort.cancel() {
            self.waiting.retain(|task| !matches!(task, Task::Asked(_)));
            return;
        }
        let asked = |task: &&Task| matches!(task, Task::Asked(_));
        if self.waiting.iter().filter(asked).count() < WAITING {
            self.question_waits.store(true, Ordering::Relaxed);
            self.waiting.push_back(Task::Asked(question));
        }
        self.next();
    }

    /// Write to the terminal beneath what QEMU prints for what it has read.
    pub fn write_after_qemu(&mut self, lines: String) {
        if self.waiting.len() < WAITING {
            self.question_waits.store(true, Ordering::Relaxed);
            self.waiting.push_back(Task::AfterQemu(lines));
        }
        self.next();
    }

    /// Begin to show records at `destination` as they are printed, or stop.
    pub fn toggle_follow(&mut self, destination: Destination) {
        if let Err(error) = self.begin_watch() {
            let line = format!("qemu-logbuf: cannot follow: {error}; ask again\r\n");
            let _ = destination.write(line.as_bytes());
        } else if let Some(watch) = &mut self.watch {
            watch.order(Order::ToggleFollow(destination));
        } else {
            let _ = destination.write(b"qemu-logbuf: cannot follow: QEMU has no monitor for us; mount /proc and start it again\r\n");
        }
    }

    /// Take what has come over the monitor, so that QEMU never waits for us.
    pub fn drain_monitor(&mut self) {
        if let Seat::Free(observer) = &mut self.seat {
            observer.drain_monitor();
        }
    }

    /// Take the observer back after its work, and what the vigil found, and
    /// see to the next question.
    pub fn collect(&mut self) {
        let mut rung = [0; 16];
        let mut is_back = false;
        while let Ok(count @ 1..) = self.done.read(&mut rung) {
            is_back |= rung.iter().take(count).any(|who| *who == Ringer::Observer.byte());
        }
        self.take_findings();
        self.take_back(is_back);
        self.next();
    }

    /// QEMU has ended: let a started answer come to its end, and the vigil
    /// say its last words, but not for long. What our exit status is to be,
    /// if it is not QEMU's, which is a success or none.
    pub fn finish(&mut self, success: bool) -> Option<u8> {
        let deadline = Instant::now() + LAST_WORDS;
        // Nobody is there to be asked.
        self.waiting.retain(|task| matches!(task, Task::Answered(_)));
        if let Some(watch) = &mut self.watch {
            watch.told_of_end = true;
            watch.order(Order::Ended);
        }
        loop {
            self.collect();
            let is_done = !(self.answering.is_some() && matches!(self.seat, Seat::Busy(_)))
                && self.waiting.is_empty();
            let left = deadline.saturating_duration_since(Instant::now());
            if (is_done && self.watch.is_none()) || left.is_zero() {
                break;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.done.as_fd(), PollFlags::POLLIN)], timeout);
        }
        if self.status.is_none() && success && self.plan.expects() && self.qemu_ran() {
            self.plan.say(
                "QEMU ended, and the log never said what --logbuf-expect names; --logbuf-on=exit shows the log it ended with",
            );
            return Some(status::UNEXPECTED);
        }
        self.status
    }

    /// Whether QEMU came as far as to greet us, which one that only says its
    /// version does not. Where nobody can tell, it did: what was expected and
    /// not seen is no success.
    fn qemu_ran(&self) -> bool {
        let Some(mut monitor) = self.monitor.as_ref().and_then(Shared::try_lock) else {
            return true;
        };
        let _ = monitor.drain();
        monitor.version().is_some()
    }

    fn take_findings(&mut self) {
        while let Some(watch) = &mut self.watch {
            match watch.findings.try_recv() {
                Ok(Finding::Status(status)) => self.status = Some(status),
                Ok(Finding::Report(report)) => self.queue_report(report),
                Ok(Finding::Ask { trigger, note, ends }) => {
                    self.waiting.push_back(Task::Event { trigger, note, ends });
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    if !watch.told_of_end {
                        self.plan.say(VIGIL_FAILED);
                    }
                    self.watch = None;
                }
            }
        }
    }

    /// Have a report wait for its turn, if need be instead of the oldest.
    fn queue_report(&mut self, report: Box<Report>) {
        let is_report = |task: &Task| matches!(task, Task::Answered(_));
        if self.waiting.iter().filter(|task| is_report(task)).count() >= REPORTS_WAITING
            && let Some(oldest) = self.waiting.iter().position(is_report)
        {
            self.waiting.remove(oldest);
            self.given_up += 1;
        }
        self.waiting.push_back(Task::Answered(report));
    }

    fn take_back(&mut self, is_back: bool) {
        self.seat = match std::mem::replace(&mut self.seat, Seat::Empty) {
            Seat::Busy(thread) if !is_back => Seat::Busy(thread),
            // The bell is rung by the thread's last destructor: joining takes
            // no time.
            Seat::Busy(thread) => {
                if let Some(watch) = &mut self.watch {
                    // Events may have come with the replies.
                    watch.wake();
                }
                let place = self.answering.take();
                match (thread.join(), place) {
                    (Ok(Some(observer)), _) => Seat::Free(observer),
                    (_, place) => {
                        place.iter().for_each(admit);
                        Seat::Empty
                    }
                }
            }
            other => other,
        };
        if self.ends && !matches!(self.seat, Seat::Busy(_)) {
            self.ends = false;
            if let Some(watch) = &mut self.watch {
                watch.order(Order::EndQemu);
            }
        }
    }

    /// Hand the next question to the observer, if it is free.
    fn next(&mut self) {
        while !matches!(self.seat, Seat::Busy(_))
            && let Some(task) = self.next_task()
        {
            self.begin(task);
        }
    }

    fn begin(&mut self, mut task: Task) {
        if let Task::Answered(report) = &mut task
            && self.given_up > 0
        {
            let given_up = std::mem::take(&mut self.given_up);
            report.notes.push(format!(
                "{given_up} reports before it were given up, as nobody read those that came first"
            ));
        }
        let place = match &task {
            Task::Asked(question) => question.destination.clone(),
            Task::Rest(_, place) => place.clone(),
            Task::Event { .. } | Task::Answered(_) => self.plan.destination(),
            Task::AfterQemu(_) => Destination::Terminal,
        };
        if let Task::Event { ends, .. } = task {
            self.ends = ends;
        }
        if matches!(self.seat, Seat::Empty) {
            admit(&place);
            self.take_back(true);
            return;
        }
        self.answering = Some(place.clone());
        // The line that was written in part has to end.
        let begin = if matches!(task, Task::Rest(..)) { "\r\n" } else { "" };
        let sent = self.send(move |observer| match task {
            Task::Asked(question) => {
                observer.answer(&question);
            }
            Task::Rest(bytes, place) => drop(place.write(&bytes)),
            Task::Event { trigger, note, .. } => observer.answer_event(trigger, note, &place),
            Task::Answered(report) => observer.deliver(*report, &place),
            Task::AfterQemu(lines) => observer.write_after_qemu(&lines, &place),
        });
        if let Err(error) = sent
            && let Some(place) = self.answering.take()
        {
            let why = crate::sys::reason(&error);
            let line = format!(
                "{begin}qemu-logbuf: cannot start a thread to read the log: {why}; ask again when there is room for one\r\n"
            );
            // There is nobody else to wait until a pipe is read.
            if place.is_pipe() {
                let _ = place.write_at_once(line.as_bytes());
            } else {
                let _ = place.write(line.as_bytes());
            }
        }
    }

    /// The next thing to do that is not done at once.
    fn next_task(&mut self) -> Option<Task> {
        loop {
            match self.waiting.pop_front()? {
                Task::Asked(question) => match self.at_once(question) {
                    None => {}
                    left => return left,
                },
                task => return Some(task),
            }
        }
    }

    /// Answer here and now where nobody has to be waited for; what is left to
    /// do otherwise.
    fn at_once(&mut self, question: Question) -> Option<Task> {
        let Seat::Free(observer) = &mut self.seat else { return Some(Task::Asked(question)) };
        let try_it = || {
            let rest = observer.answer_at_once(&question);
            if rest.is_none() {
                observer.ask_ahead(question.subject);
            }
            rest
        };
        match catch_unwind(AssertUnwindSafe(try_it)) {
            Ok(None) => Some(Task::Asked(question)),
            Ok(Some(rest)) if rest.is_empty() => None,
            Ok(Some(rest)) => Some(Task::Rest(rest, question.destination)),
            Err(_) => {
                self.seat = Seat::Empty;
                Some(Task::Asked(question))
            }
        }
    }

    /// Let the observer work on a thread of its own.
    ///
    /// # Errors
    /// As the host refuses a thread.
    fn send(&mut self, work: impl FnOnce(&mut Observer) + Send + 'static) -> io::Result<()> {
        let mut failed = Ok(());
        self.seat = match std::mem::replace(&mut self.seat, Seat::Empty) {
            Seat::Free(observer) => {
                let bell = self.bell.try_clone();
                let task = move |mut observer: Box<Observer>| {
                    let _ring = bell.map(|bell| Ring(bell, Ringer::Observer));
                    work(&mut observer);
                    crate::sys::give_back_memory();
                    observer
                };
                match spawn(observer, task) {
                    Ok(thread) => Seat::Busy(thread),
                    Err((error, observer)) => {
                        failed = Err(error);
                        observer.map_or(Seat::Empty, Seat::Free)
                    }
                }
            }
            other => other,
        };
        failed
    }
}

/// Let a thread work with `tool`, which comes back where there is no thread.
fn spawn<T: Send + 'static, R: Send + 'static>(
    tool: T,
    work: impl FnOnce(T) -> R + Send + 'static,
) -> Result<JoinHandle<Option<R>>, (io::Error, Option<T>)> {
    let shelf = Arc::new(Mutex::new(Some(tool)));
    let theirs = Arc::clone(&shelf);
    let take =
        |shelf: &Mutex<Option<T>>| shelf.lock().unwrap_or_else(PoisonError::into_inner).take();
    let task = move || take(&theirs).map(work);
    let started = std::thread::Builder::new().name("qemu-logbuf".to_owned()).spawn(task);
    started.map_err(|error| (error, take(&shelf)))
}
