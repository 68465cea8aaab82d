//! Ending QEMU after a verdict: by its monitor first, by signals if it must
//! be.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::monitor::Shared;
use crate::trace;

/// How long QEMU may take to end when asked to, and when told to.
const QUIT: Duration = Duration::from_secs(2);
const TERMINATE: Duration = Duration::from_secs(5);

/// What comes next in ending QEMU, and when.
#[derive(Clone, Copy)]
enum Step {
    Quit(Instant),
    Terminate(Instant),
    Kill(Instant),
    Waiting,
}

/// The way to QEMU's end.
pub(super) struct Closing {
    next: Step,
    /// QEMU's process, where it is ours to end.
    qemu: Option<Pid>,
}

impl Closing {
    pub(super) fn begin(qemu: Option<Pid>) -> Self {
        Self { next: Step::Quit(Instant::now() + QUIT), qemu }
    }

    /// When to go on, if anything is left to do.
    pub(super) const fn due(&self) -> Option<Instant> {
        match self.next {
            Step::Quit(at) | Step::Terminate(at) | Step::Kill(at) => Some(at),
            Step::Waiting => None,
        }
    }

    /// Take the next step, if it is time.
    pub(super) fn go_on(&mut self, monitor: &Shared) {
        let now = Instant::now();
        match self.next {
            // On its way out it ends by itself, or pauses and can be asked.
            Step::Quit(at) if !monitor.lock().is_ending() => {
                self.next = Step::Terminate(at);
                let quit = monitor.lock().quit(at);
                trace!("quit: {quit:?}");
            }
            Step::Quit(at) if at <= now => self.next = Step::Terminate(now),
            Step::Terminate(at) if at <= now => {
                self.signal(Signal::SIGTERM);
                self.next = Step::Kill(now + TERMINATE);
            }
            Step::Kill(at) if at <= now => {
                self.signal(Signal::SIGKILL);
                self.next = Step::Waiting;
            }
            _ => {}
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(qemu) = self.qemu {
            let _ = kill(qemu, signal);
        }
    }
}
