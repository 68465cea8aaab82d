//! QEMU's life, watched from its parent: one loop that waits for whatever
//! comes next and sleeps otherwise.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::Termios;
use nix::unistd::Pid;

use super::end::End;
use super::signals::{Notice, Signals};
use crate::sys;
use crate::terminal::{Action, Destination, Keys, Relay, is_terminal};
use crate::watch::{Desk, Question, Subject};

/// How often to look whether QEMU has read what came before, where the kernel
/// does not tell: at the end of a file, and within a paste of many lines.
const RETRY: Duration = Duration::from_millis(1);

/// How long QEMU may take to read the key that prints its help, for ours to
/// follow it.
const HELP: Duration = Duration::from_secs(2);

/// A running QEMU and what we hold of it.
pub struct Session {
    /// QEMU's process.
    pub qemu: Pid,
    /// Signals to us.
    pub signals: Signals,
    /// The keyboard, where it is a terminal.
    pub relay: Option<Relay>,
    /// The modes that QEMU has set on the terminal, once it has ended.
    pub mirrored: Option<Termios>,
    /// The watch over what is typed.
    pub keys: Keys,
    /// Our help is due once QEMU has read its key, if it does until then.
    pub help_until: Option<Instant>,
    /// Where questions are answered.
    pub desk: Desk,
}

/// What woke the loop.
#[derive(Clone, Copy, Default)]
struct Woken {
    signals: bool,
    stop: bool,
    packets: bool,
    room: bool,
    typed: bool,
    hangup: bool,
    desk: bool,
    monitor: bool,
}

impl Session {
    /// Stay until QEMU ends; how it did.
    ///
    /// # Errors
    /// Where waiting itself fails, which leaves nothing to do but end.
    pub fn run(&mut self) -> io::Result<End> {
        loop {
            let woken = self.wait()?;
            // Before the packets: what QEMU was told bears upon what they mean.
            if (woken.signals || woken.packets)
                && let Some(end) = self.take_signals()
            {
                let verdict = self.desk.finish(end == End::Exited(0));
                if let Some(relay) = self.relay.take() {
                    self.mirrored = relay.mirrored();
                    relay.give_back();
                }
                return Ok(verdict.map_or(end, End::Exited));
            }
            if woken.stop {
                self.signals.stop(self.qemu);
            }
            self.take_terminal(woken);
            self.see_to_help();
            if woken.desk {
                self.desk.collect();
                if let Some(stdio) = self.desk.stdio_use() {
                    self.keys.learn(stdio);
                }
            }
            if woken.monitor {
                self.desk.drain_monitor();
            }
        }
    }

    /// Sleep until something happens.
    fn wait(&self) -> io::Result<Woken> {
        let relay = self.relay.as_ref();
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(6);
        let signals = add(&mut fds, self.signals.as_fd(), PollFlags::POLLIN);
        let desk = add(&mut fds, self.desk.as_fd(), PollFlags::POLLIN);
        let monitor = self.desk.monitor_fd().map(|fd| add(&mut fds, fd, PollFlags::POLLIN));
        let stop = self.signals.stop_fd().map(|fd| add(&mut fds, fd, PollFlags::POLLIN));
        let master = relay.map(|relay| {
            let room = if relay.is_full() { PollFlags::POLLOUT } else { PollFlags::empty() };
            add(&mut fds, relay.master(), PollFlags::POLLIN | room)
        });
        let typed = relay
            .filter(|relay| relay.wants_input())
            .map(|_| add(&mut fds, sys::standard(0), PollFlags::POLLIN));
        match poll(&mut fds, self.timeout()) {
            Ok(_) => {}
            // A stop and continue, or a signal that the next look will find.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let came = |at: Option<usize>, flags: PollFlags| {
            at.and_then(|at| fds.get(at)?.revents()).is_some_and(|events| events.intersects(flags))
        };
        let any = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        Ok(Woken {
            signals: came(Some(signals), any),
            stop: came(stop, any),
            packets: came(master, PollFlags::POLLIN),
            room: came(master, PollFlags::POLLOUT),
            typed: came(typed, any),
            hangup: came(typed, gone),
            desk: came(Some(desk), any),
            monitor: came(monitor, any),
        })
    }

    /// How long to sleep at most: for ever, but for a key that is held back
    /// or what waits for QEMU to have read the rest.
    fn timeout(&self) -> PollTimeout {
        let waits = |relay: &Relay| relay.ends() || relay.is_behind() || self.help_until.is_some();
        let end = self.relay.as_ref().is_some_and(waits).then_some(RETRY);
        let held = self.keys.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        match (end, held) {
            (Some(wait), None) | (None, Some(wait)) => rounded_up(wait),
            (Some(a), Some(b)) => rounded_up(a.min(b)),
            (None, None) => PollTimeout::NONE,
        }
    }

    /// Handle signals; QEMU's end, if it has come.
    fn take_signals(&mut self) -> Option<End> {
        for notice in self.signals.handle(self.qemu) {
            match notice {
                Notice::Ask => {
                    crate::fault::inject("session");
                    self.desk.ask(Question {
                        subject: Subject::Log,
                        destination: Destination::Stderr,
                        for_all: None,
                    });
                }
                Notice::Resized => {
                    if let Some(relay) = &self.relay {
                        relay.resize();
                    }
                }
                Notice::Ending => {
                    if let Some(relay) = &mut self.relay {
                        relay.expect_end();
                    }
                }
                Notice::Continued => {
                    if let Some(relay) = &mut self.relay {
                        relay.mirror_again();
                    }
                }
                Notice::Child => match sys::take_end(self.qemu) {
                    Ok(status) => {
                        if let Some(end) = status.and_then(End::of) {
                            return Some(end);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // There is no child any more, and nobody knows its end.
                    Err(_) => return Some(End::Exited(128)),
                },
            }
        }
        None
    }

    /// Move what was typed, and follow the modes that QEMU sets.
    fn take_terminal(&mut self, woken: Woken) {
        let Some(relay) = &mut self.relay else { return };
        if woken.packets {
            relay.take_packets();
        }
        if woken.room || relay.is_behind() {
            relay.flush();
        }
        relay.flush_end();
        let mut onward = Vec::new();
        if woken.typed {
            let mut typed = [0; 4096];
            match relay.read_typed(&mut typed) {
                Some(typed) => {
                    for action in self.keys.feed(typed, Instant::now(), &mut onward) {
                        let subject = match action {
                            Action::Report => Subject::News,
                            Action::All => Subject::All,
                            Action::Where => Subject::Places,
                            Action::Follow => {
                                self.desk.toggle_follow(Destination::Terminal);
                                continue;
                            }
                            Action::Help => {
                                self.help_until = Some(Instant::now() + HELP);
                                continue;
                            }
                        };
                        let destination = Destination::Terminal;
                        let for_all = self.keys.for_all();
                        self.desk.ask(Question { subject, destination, for_all });
                    }
                }
                None if woken.hangup => {
                    // With the pty closed QEMU sees its terminal hang up.
                    self.keys.release(None, &mut onward);
                    self.relay = None;
                    return;
                }
                None => {
                    self.keys.release(None, &mut onward);
                    relay.send(&onward);
                    relay.end();
                    return;
                }
            }
        }
        self.keys.release(Some(Instant::now()), &mut onward);
        if !onward.is_empty() {
            relay.send(&onward);
        }
    }

    /// Tell our keys beneath QEMU's help, where that goes to the terminal.
    fn see_to_help(&mut self) {
        let (Some(until), Some(relay)) = (self.help_until, &self.relay) else { return };
        let is_read = relay.is_read();
        if is_read && let Some(lines) = self.keys.help().filter(|_| is_terminal(1)) {
            self.desk.write_after_qemu(lines);
        }
        if is_read || Instant::now() >= until {
            self.help_until = None;
        }
    }
}

/// Have poll(2) look at `fd` too; its place in the list.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, fd: BorrowedFd<'a>, flags: PollFlags) -> usize {
    fds.push(PollFd::new(fd, flags));
    fds.len() - 1
}

/// A time for poll(2), never less than asked for.
fn rounded_up(wait: Duration) -> PollTimeout {
    PollTimeout::try_from(wait.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
}
