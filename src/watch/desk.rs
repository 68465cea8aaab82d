//! Where questions are taken and handed to the observer, one after another.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use super::effort::Handle;
use super::observer::Observer;
use crate::monitor::StdioUse;
use crate::terminal::Destination;

/// How many questions wait at most: a key held down is one question.
const WAITING: usize = 2;

/// How long an answer may still take once QEMU has ended.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// The observer, here or at work.
enum Seat {
    Free(Box<Observer>),
    Busy(JoinHandle<Box<Observer>>),
    /// Its thread came to grief; there is nobody left to answer.
    Empty,
}

/// Takes questions, on the main thread.
pub struct Desk {
    seat: Seat,
    waiting: VecDeque<Destination>,
    /// What takes long, to be cancelled.
    effort: Handle,
    /// A byte comes in whenever the observer is done.
    done: UnixStream,
    bell: UnixStream,
}

/// Rings when dropped, whatever way the observer's thread ends.
struct Ring(UnixStream);

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = self.0.write(&[0]);
    }
}

impl Desk {
    /// Take the observer in and let it prepare, while the guest boots.
    ///
    /// # Errors
    /// Where the host refuses a socketpair.
    pub fn open(observer: Observer) -> io::Result<Self> {
        let (done, bell) = UnixStream::pair()?;
        done.set_nonblocking(true)?;
        let mut desk = Self {
            effort: observer.effort(),
            seat: Seat::Free(Box::new(observer)),
            waiting: VecDeque::new(),
            done,
            bell,
        };
        desk.send(Observer::prepare);
        Ok(desk)
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

    /// Take a question whose answer goes to `destination`. While the user
    /// sees that the answer to the last one takes long, the key cancels that.
    pub fn ask(&mut self, destination: Destination) {
        if destination == Destination::Terminal && self.effort.cancel() {
            self.waiting.clear();
            return;
        }
        if self.waiting.len() < WAITING {
            self.waiting.push_back(destination);
        }
        self.next();
    }

    /// Take what has come over the monitor, so that QEMU never waits for us.
    pub fn drain_monitor(&mut self) {
        if let Seat::Free(observer) = &mut self.seat {
            observer.drain_monitor();
        }
    }

    /// Take the observer back after its work, and see to the next question.
    pub fn collect(&mut self) {
        let mut rung = [0; 16];
        while matches!(self.done.read(&mut rung), Ok(1..)) {}
        self.take_back();
        self.next();
    }

    /// QEMU has ended: let a started answer come to its end, but not for long.
    pub fn finish(&mut self) {
        if matches!(self.seat, Seat::Busy(_)) {
            let _ = self.done.set_nonblocking(false);
            let _ = self.done.set_read_timeout(Some(LAST_WORDS));
            let _ = self.done.read(&mut [0]);
        }
    }

    fn take_back(&mut self) {
        self.seat = match std::mem::replace(&mut self.seat, Seat::Empty) {
            // The bell is rung by the thread's last destructor: joining takes
            // no time.
            Seat::Busy(thread) => thread.join().map_or(Seat::Empty, Seat::Free),
            other => other,
        };
    }

    /// Hand the next question to the observer, if it is free.
    fn next(&mut self) {
        if matches!(self.seat, Seat::Busy(_)) {
            return;
        }
        let Some(destination) = self.waiting.pop_front() else { return };
        if matches!(self.seat, Seat::Empty) {
            let _ = destination.write(
                b"qemu-logbuf: reading the log failed inside qemu-logbuf itself; QEMU is unharmed, please report this with a --logbuf-debug=FILE\r\n",
            );
            return;
        }
        self.send(move |observer| observer.answer(&destination));
    }

    /// Let the observer work on a thread of its own.
    fn send(&mut self, work: impl FnOnce(&mut Observer) + Send + 'static) {
        let Ok(bell) = self.bell.try_clone() else { return };
        self.seat = match std::mem::replace(&mut self.seat, Seat::Empty) {
            Seat::Free(mut observer) => {
                let task = move || {
                    let _ring = Ring(bell);
                    work(&mut observer);
                    observer
                };
                match std::thread::Builder::new().name("qemu-logbuf".to_owned()).spawn(task) {
                    Ok(thread) => Seat::Busy(thread),
                    Err(_) => Seat::Empty,
                }
            }
            other => other,
        };
    }
}
