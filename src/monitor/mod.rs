//! The QMP connection to a running QEMU.
//!
//! A [`Monitor`] speaks over a socket that is already open, one command at a
//! time, each with a deadline: a QEMU that is frozen, gone or no QEMU at all
//! is an [`Error`], never a wait without end. Events that come in between are
//! kept, a bounded number of them, until [`Monitor::drain`].
//!
//! It knows the protocol and the wording of QEMU's replies; of kernels and of
//! what guest memory holds it knows nothing. It starts no QEMU; a [`Channel`]
//! is what one that is about to be started needs to have a monitor for us.

#![forbid(unsafe_code)]

pub mod channel;
mod commands;
mod error;
mod message;
pub mod tree;
mod wire;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

pub use channel::Channel;
pub use commands::{CpuThread, Lent, Status, StdioUse};
pub use error::Error;
pub use message::{Event, Message, Version, parse};
pub use wire::LONGEST_LINE;
use wire::Wire;

/// The command that runs a command of the human monitor.
const HMP: &str = "human-monitor-command";

/// How the line of every command ends.
const END: &str = "}\n";

/// A command that is on its way.
#[derive(Debug)]
pub struct Begun(u64);

/// How many events wait for [`Monitor::drain`] before the oldest is dropped.
pub const EVENTS_KEPT: usize = 1024;

/// A monitor that several owners, on several threads, take turns at.
///
/// While one of them holds it for a command, the main loop does better to
/// leave the socket out of its poll set: the bytes are that command's reply.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Monitor>>);

impl Shared {
    /// Share `monitor`.
    #[must_use]
    pub fn new(monitor: Monitor) -> Self {
        Self(Arc::new(Mutex::new(monitor)))
    }

    /// Take the turn, once whoever has it is done (they are bound by their
    /// deadlines). A holder's panic does no harm: the monitor keeps no
    /// half-done state between calls.
    pub fn lock(&self) -> MutexGuard<'_, Monitor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take the turn if nobody has it.
    #[must_use]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Monitor>> {
        match self.0.try_lock() {
            Ok(monitor) => Some(monitor),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// How far the opening exchange has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Greeting,
    /// QEMU has said who it is, and is one that is better left alone.
    Greeted,
    /// `qmp_capabilities` is on its way, with this id.
    Negotiating(u64),
    /// Commands are taken.
    Ready,
}

/// One QMP session.
#[derive(Debug)]
pub struct Monitor {
    wire: Wire,
    phase: Phase,
    version: Option<Version>,
    next_id: u64,
    /// Commands given up on whose replies may still come: all ids in
    /// `answered .. next_id` are outstanding, as QEMU answers in order.
    answered: u64,
    reply: Option<Result<Value, Error>>,
    /// The command that was begun, and its reply once that has come.
    begun: Option<(u64, Option<Result<Value, Error>>)>,
    /// The id of a command that is sent but for its end, and what it runs.
    typed: Option<(u64, &'static str)>,
    events: VecDeque<Event>,
    dropped: u64,
    /// Why the session is over, once it is.
    broken: Option<Error>,
    /// QEMU is about to end, or to pause instead: it said so and has not
    /// done it yet.
    ending: bool,
}

impl Monitor {
    /// Take over our end of the socket, without waiting: the opening
    /// exchange goes on in whatever call comes next.
    ///
    /// # Errors
    /// [`Error::Io`] if the socket can't be made non-blocking.
    pub fn new(stream: UnixStream) -> Result<Self, Error> {
        Ok(Self {
            wire: Wire::new(stream)?,
            phase: Phase::Greeting,
            version: None,
            next_id: 1,
            answered: 1,
            reply: None,
            begun: None,
            typed: None,
            events: VecDeque::new(),
            dropped: 0,
            broken: None,
            ending: false,
        })
    }

    /// Take over our end of the socket and see the opening exchange through.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn connect(stream: UnixStream, deadline: Instant) -> Result<Self, Error> {
        let mut monitor = Self::new(stream)?;
        monitor.ready(deadline)?;
        Ok(monitor)
    }

    /// See the opening exchange through, if that has not happened yet.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn ready(&mut self, deadline: Instant) -> Result<(), Error> {
        self.greeted(deadline)?;
        if self.phase == Phase::Greeted {
            self.negotiate()?;
        }
        self.until(deadline, |monitor| monitor.phase == Phase::Ready)
    }

    /// See QEMU's greeting. Whether it can be asked at any moment: before 6.0
    /// a command that comes while QEMU shuts down aborts it, so such a QEMU
    /// is asked nothing, not even for the opening exchange, until somebody
    /// wants an answer.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn greeted(&mut self, deadline: Instant) -> Result<bool, Error> {
        self.until(deadline, |monitor| monitor.phase != Phase::Greeting)?;
        Ok(self.version.is_some_and(Version::is_robust))
    }

    fn negotiate(&mut self) -> Result<(), Error> {
        self.phase = Phase::Negotiating(self.next_id);
        self.send("qmp_capabilities", None).map(|_| ())
    }

    /// Whether QEMU said that it is about to end, and has not paused instead.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.ending
    }

    /// Whether QEMU does its part of the opening exchange and the session is
    /// not over.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Greeted) && self.broken.is_none()
    }

    /// QEMU's version, from its greeting.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Events dropped so far because nobody fetched them.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Run one QMP command and give its `return` value.
    ///
    /// A command that was given up on keeps its place: the next call waits
    /// for that reply first and sends nothing before, so that a frozen QEMU
    /// wakes to one command and not to a pile of them. Likewise once QEMU has
    /// said that it is about to end: nothing is sent before it is known to
    /// have paused instead. (It would not answer, and QEMU 5.2 aborts over a
    /// command that comes at that moment.)
    ///
    /// # Errors
    /// - [`Error::Refused`]: QEMU's own words; the session goes on.
    /// - [`Error::Silent`]: no reply by `deadline`; the session goes on.
    /// - [`Error::Gone`], [`Error::Malformed`], [`Error::Io`]: the session is
    ///   over, and every later call says the same at once.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        deadline: Instant,
    ) -> Result<Value, Error> {
        self.free(deadline)?;
        let id = self.send(command, arguments)?;
        self.reply_to(id, deadline)
    }

    /// Run one QMP command that takes a descriptor, which QEMU is given a copy
    /// of.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    fn execute_with(
        &mut self,
        command: &str,
        fd: BorrowedFd<'_>,
        deadline: Instant,
    ) -> Result<Value, Error> {
        self.free(deadline)?;
        self.end_typed()?;
        let (id, line) = self.command(command, None);
        self.wire.send_with(line.as_bytes(), fd).map_err(|error| self.fail(error))?;
        self.reply_to(id, deadline)
    }

    /// Wait until QEMU takes a command.
    fn free(&mut self, deadline: Instant) -> Result<(), Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.ready(deadline)?;
        self.until(deadline, Self::is_free)?;
        // Of whatever was given up on, nobody wants the reply any more.
        self.reply = None;
        Ok(())
    }

    fn reply_to(&mut self, id: u64, deadline: Instant) -> Result<Value, Error> {
        self.until(deadline, |monitor| monitor.answered > id)?;
        self.reply.take().unwrap_or_else(|| Err(Error::Malformed("a reply went missing".into())))
    }

    /// Run one command of the human monitor and give what it prints.
    ///
    /// QEMU reports a human command's failure as text too: the caller tells
    /// it from an answer.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn hmp(&mut self, command_line: &str, deadline: Instant) -> Result<String, Error> {
        let value = self.execute(HMP, Some(json!({ "command-line": command_line })), deadline)?;
        self.text(value)
    }

    /// Send all of a command of the human monitor but its end, which goes with
    /// [`Monitor::begin`]: QEMU takes a command in byte by byte, with several
    /// system calls for each, and has done so when it matters. A QEMU that is
    /// busy otherwise is left alone.
    pub fn type_ahead(&mut self, command_line: &'static str) {
        if self.take_in().is_ok() && self.is_free() && self.typed.is_none() {
            let (id, line) = self.command(HMP, Some(json!({ "command-line": command_line })));
            let most = line.strip_suffix(END).unwrap_or_default();
            if self.wire.send(most.as_bytes()).map_err(|error| self.fail(error)).is_ok() {
                self.typed = Some((id, command_line));
            }
        }
    }

    /// Send a command of the human monitor, and do something else until its
    /// reply is asked for by [`Monitor::finish`]. One at a time: another one
    /// takes its place. `None`, with nothing sent, where QEMU is not known to
    /// be at leisure: then [`Monitor::hmp`] waits as long as it may.
    pub fn begin(&mut self, command_line: &'static str) -> Option<Begun> {
        self.take_in().ok()?;
        if !self.is_free() {
            return None;
        }
        let id = match self.typed {
            Some((id, typed)) if typed == command_line => {
                self.end_typed().ok()?;
                id
            }
            _ => self.send(HMP, Some(json!({ "command-line": command_line }))).ok()?,
        };
        self.begun = Some((id, None));
        Some(Begun(id))
    }

    /// Whether QEMU takes commands, owes no reply, and is not about to end.
    fn is_free(&self) -> bool {
        self.phase == Phase::Ready && self.owed() == 0 && !self.ending
    }

    /// How many replies are to come.
    fn owed(&self) -> u64 {
        self.next_id - self.answered - u64::from(self.typed.is_some())
    }

    /// Send the end of the command that was typed ahead, if there is one.
    fn end_typed(&mut self) -> Result<(), Error> {
        match self.typed.take() {
            Some(_) => self.wire.send(END.as_bytes()).map_err(|error| self.fail(error)),
            None => Ok(()),
        }
    }

    /// What the command that was begun prints.
    ///
    /// # Errors
    /// As [`Monitor::hmp`]; [`Error::Silent`] too where another command was
    /// begun since.
    pub fn finish(&mut self, Begun(id): Begun, deadline: Instant) -> Result<String, Error> {
        self.until(deadline, |monitor| monitor.answered > id)?;
        match self.begun.take_if(|(begun, _)| *begun == id) {
            Some((_, Some(reply))) => self.text(reply?),
            _ => Err(Error::Silent),
        }
    }

    /// What a command of the human monitor printed.
    fn text(&mut self, value: Value) -> Result<String, Error> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(self.fail(Error::Malformed(format!(
                "human-monitor-command gave {}",
                message::excerpt(other.to_string().as_bytes())
            )))),
        }
    }

    /// Take in what has arrived, without waiting, and give the events so far
    /// in order. For the main loop, when the socket is readable.
    ///
    /// # Errors
    /// As [`Monitor::execute`], but for `Silent` and `Refused`. Events that
    /// came before the end of the session are given first; the error by the
    /// next call.
    pub fn drain(&mut self) -> Result<Vec<Event>, Error> {
        let end = self.take_in();
        let events: Vec<Event> = self.events.drain(..).collect();
        match end {
            Err(error) if events.is_empty() => Err(error),
            _ => Ok(events),
        }
    }

    /// Go on with the exchange until `done`, or fail at `deadline`.
    fn until(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> Result<(), Error> {
        loop {
            let more = self.take_in();
            if done(self) {
                return Ok(());
            }
            // An endless stream of events is no reply either: the deadline
            // holds even if there is always something to read.
            let more = more?;
            if Instant::now() >= deadline {
                return Err(Error::Silent);
            }
            if !more {
                let waited = self.wire.wait(deadline);
                waited.map_err(|error| self.fail(error))?;
            }
        }
    }

    /// Send and receive as much as goes without waiting, up to a bound.
    /// Whether there may be more at once.
    fn take_in(&mut self) -> Result<bool, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let result = self.wire.exchange().and_then(|more| {
            while let Some(line) = self.wire.next_line()? {
                self.handle(&line)?;
            }
            Ok(more)
        });
        result.map_err(|error| {
            // What arrived before the end still counts: a last event, a
            // last reply.
            while let Ok(Some(line)) = self.wire.next_line() {
                if self.handle(&line).is_err() {
                    break;
                }
            }
            self.fail(error)
        })
    }

    /// Take one line of QEMU's.
    fn handle(&mut self, line: &[u8]) -> Result<(), Error> {
        match parse(line)? {
            Message::Greeting(version) => {
                if self.phase != Phase::Greeting {
                    return Err(Error::Malformed("a second greeting".into()));
                }
                self.version = Some(version);
                self.phase = Phase::Greeted;
                if version.is_robust() {
                    self.negotiate()?;
                }
            }
            _ if self.phase == Phase::Greeting => {
                return Err(Error::Malformed(format!(
                    "no greeting but {}",
                    message::excerpt(line)
                )));
            }
            Message::Event(event) => {
                match (event.name.as_str(), event.text("action")) {
                    ("SHUTDOWN", _) => self.ending = true,
                    // panic=none lets the guest go on.
                    ("GUEST_PANICKED", action) => self.ending = action != Some("run"),
                    ("STOP" | "RESUME" | "RESET", _) => self.ending = false,
                    _ => {}
                }
                if self.events.len() == EVENTS_KEPT {
                    self.events.pop_front();
                    self.dropped += 1;
                }
                self.events.push_back(event);
            }
            Message::Reply { id, result } => self.take_reply(id, result)?,
        }
        Ok(())
    }

    fn take_reply(&mut self, id: Option<u64>, result: Result<Value, String>) -> Result<(), Error> {
        if self.owed() == 0 {
            return Err(Error::Malformed("a reply to nothing that was asked".into()));
        }
        // QEMU gives no id back where it could not read the command.
        let id = id.unwrap_or(self.answered);
        if id != self.answered {
            return Err(Error::Malformed(format!(
                "a reply to command {id} where {} was asked",
                self.answered
            )));
        }
        self.answered += 1;
        let result = result.map_err(Error::Refused);
        if self.phase == Phase::Negotiating(id) {
            result?;
            self.phase = Phase::Ready;
        } else if let Some((_, reply)) = self.begun.as_mut().filter(|(begun, _)| *begun == id) {
            *reply = Some(result);
        } else {
            self.reply = Some(result);
        }
        Ok(())
    }

    /// Queue a command; its id. What was typed ahead goes before it, and
    /// nobody wants the reply to that.
    fn send(&mut self, command: &str, arguments: Option<Value>) -> Result<u64, Error> {
        self.end_typed()?;
        let (id, line) = self.command(command, arguments);
        self.wire.send(line.as_bytes()).map_err(|error| self.fail(error))?;
        Ok(id)
    }

    /// A command's id and line.
    fn command(&mut self, command: &str, arguments: Option<Value>) -> (u64, String) {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "execute": command, "id": id });
        if let (Some(arguments), Some(line)) = (arguments, line.as_object_mut()) {
            line.insert("arguments".into(), arguments);
        }
        (id, format!("{line}\n"))
    }

    /// The session is over, if `error` is of that kind.
    fn fail(&mut self, error: Error) -> Error {
        let ends = !matches!(error, Error::Silent | Error::Refused(_))
            // A refused handshake will not be taken up again.
            || (matches!(error, Error::Refused(_)) && self.phase != Phase::Ready);
        if ends && self.broken.is_none() {
            self.broken = Some(error.clone());
        }
        error
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

#[cfg(test)]
mod tests;
