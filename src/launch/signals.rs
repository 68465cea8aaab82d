//! Signals to the launcher, on their way to QEMU.
//!
//! What the terminal sends reaches QEMU by itself, as a member of the same
//! process group; what somebody sends to this process alone is passed on with
//! the sender's name. SIGUSR1 is ours: QEMU uses it between its own threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

use crate::sys::{self, Inheritance};

/// Passed on to QEMU, whatever it makes of them.
const FORWARDED: &[libc::c_int] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGSTKFLT,
    libc::SIGCONT,
];

/// Without these nothing works; they are let through even where they were
/// blocked on entry (QEMU gets its own mask back).
pub const NEEDED: &[Signal] = &[Signal::SIGCHLD, Signal::SIGUSR1];

/// Held back: see [`Signals::stop`].
pub const HELD: &[Signal] = &[Signal::SIGTSTP];

/// What a signal means for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody asks for the log.
    Ask,
    /// QEMU changed state: it may have ended.
    Child,
    /// We were continued after a stop.
    Continued,
    /// The terminal has a new size.
    Resized,
    /// QEMU was told to end.
    Ending,
}

/// What QEMU ends by, as if its window had been closed (os-posix.c,
/// `os_setup_signal_handling`).
const ENDING: &[libc::c_int] = &[libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// The signals of this process, as notices.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    /// Readable while a SIGTSTP waits; `None` where it stops nobody.
    stop: Option<SignalFd>,
}

impl Signals {
    /// Catch them from now on.
    ///
    /// # Errors
    /// Where the host refuses a handler or a socketpair.
    pub fn catch(inheritance: &Inheritance) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let ours = [libc::SIGUSR1, libc::SIGCHLD, libc::SIGWINCH];
        let all = ours.iter().chain(FORWARDED);
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), all)?;
        // Where ^Z was ignored or blocked, it is so in QEMU too: nobody stops.
        let stop = if inheritance.lets_through(Signal::SIGTSTP) {
            Some(SignalFd::new(&HELD.iter().copied().collect())?)
        } else {
            None
        };
        Ok(Self { delivery, stop })
    }

    /// Catch only the one that asks.
    ///
    /// # Errors
    /// As [`Signals::catch`].
    pub fn catch_questions() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let ours = [libc::SIGUSR1];
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), ours)?;
        Ok(Self { delivery, stop: None })
    }

    /// Take the questions, where nothing else is caught; whether there are any.
    pub fn asked(&mut self) -> bool {
        self.delivery.pending().count() > 0
    }

    /// Readable when there are signals to handle.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    /// Readable when the job is to stop.
    #[must_use]
    pub fn stop_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stop.as_ref().map(AsFd::as_fd)
    }

    /// Stop with QEMU, as the user stops the job. SIGTSTP is held back, so
    /// that a SIGCONT that follows at once takes it away (signal(7)), as it
    /// would have done had there been only one of us: a handler would see
    /// the two in any order.
    pub fn stop(&self, qemu: Pid) {
        // The terminal's reaches QEMU by itself; a second one changes nothing.
        let _ = sys::forward_signal(qemu, libc::SIGTSTP, None);
        sys::stop_here();
    }

    /// Handle what has come: pass on to `qemu` what is QEMU's, and tell the
    /// rest.
    pub fn handle(&mut self, qemu: Pid) -> Vec<Notice> {
        let mut notices = Vec::new();
        for origin in self.delivery.pending() {
            crate::trace!("{origin:?}");
            match origin.signal {
                libc::SIGUSR1 => notices.push(Notice::Ask),
                libc::SIGCHLD => notices.push(Notice::Child),
                libc::SIGWINCH => notices.push(Notice::Resized),
                libc::SIGCONT => {
                    forward(qemu, &origin);
                    notices.push(Notice::Continued);
                }
                signal => {
                    forward(qemu, &origin);
                    if ENDING.contains(&signal) {
                        notices.push(Notice::Ending);
                    }
                }
            }
        }
        notices
    }
}

/// Pass a signal on, unless its sender reached QEMU too.
fn forward(qemu: Pid, origin: &Origin) {
    let sender = match (&origin.cause, origin.signal) {
        // QEMU answers to nobody's SIGCONT by name, and a continued process
        // has no use for a queued one.
        (Cause::Sent(_), libc::SIGCONT) => None,
        (Cause::Sent(_), _) => origin.process.map(|process| (process.pid, process.uid)),
        // A terminal that hangs up tells the leader of its session, alone.
        (_, libc::SIGHUP) if leads_session() => Some((0, 0)),
        // From the kernel: the terminal's, for the whole process group.
        _ => return,
    };
    // It may have ended already.
    let _ = sys::forward_signal(qemu, origin.signal, sender);
}

/// Whether this process leads its session, as in a terminal window of its own.
fn leads_session() -> bool {
    nix::unistd::getsid(None).is_ok_and(|session| session == Pid::this())
}
