//! What the watch over a guest is to do, as the user's options ask for it,
//! and the exit status that stands for each of its verdicts.

use nix::unistd::Pid;
use regex_lite::Regex;

use super::press::Press;
use crate::cli::{Events, Follow, Options};
use crate::terminal::Destination;

/// The launcher's exit status for each verdict.
pub mod status {
    /// The log says what was expected.
    pub const EXPECTED: u8 = 0;
    /// QEMU ended as a success, and the log never said what was expected.
    pub const UNEXPECTED: u8 = 121;
    /// The guest was reset.
    pub const RESET: u8 = 122;
    /// The kernel panicked.
    pub const PANIC: u8 = 123;
    /// The kernel went silent; as timeout(1) has it.
    pub const STALL: u8 = 124;
}

/// What to look out for.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) on: Events,
    pub(super) stop_on: Events,
    pub(super) expect: Option<Regex>,
    pub(super) follow: Option<Follow>,
    pub(super) press: Press,
    /// Where reports of events go, unless the options name a file.
    destination: Destination,
    /// Nobody but QEMU's monitor says that QEMU has ended.
    pub(super) attached: bool,
    /// QEMU is our child: that it stops for a moment is seen by nobody else.
    pub(super) is_parent: bool,
}

impl Plan {
    /// What the user's options ask for.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            on: options.on,
            stop_on: options.stop_on,
            // It was tried when the options were read.
            expect: options.expect.as_deref().and_then(|text| Regex::new(text).ok()),
            follow: options.follow,
            press: Press::new(options),
            destination: Destination::Stderr,
            attached: false,
            is_parent: true,
        }
    }

    /// Follow a QEMU that was not started by us to standard output, until it
    /// ends; a console of its kernel's is not on this terminal.
    pub(super) fn following(options: &Options) -> Self {
        Self {
            on: Events::default(),
            stop_on: Events::default(),
            expect: None,
            follow: Some(Follow::All),
            press: Press::new(options),
            destination: Destination::Stdout,
            attached: true,
            is_parent: false,
        }
    }

    /// The same beside a QEMU that is not our child but was started as `qemu`,
    /// with another place for reports of events.
    #[must_use]
    pub fn beside(self, qemu: Pid, destination: Destination) -> Self {
        Self { destination, is_parent: false, press: self.press.beside(qemu), ..self }
    }

    /// Where reports of events go.
    pub(super) fn destination(&self) -> Destination {
        self.destination.clone()
    }

    /// Whether there is nothing to look out for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.keeps_log() && self.follow.is_none()
    }

    /// Whether our exit status is to be a verdict.
    #[must_use]
    pub fn judges(&self) -> bool {
        self.expects() || !self.stop_on.is_empty()
    }

    /// Whether a success needs words that the log has to say.
    #[must_use]
    pub const fn expects(&self) -> bool {
        self.expect.is_some()
    }

    /// Whether anything but following is asked for.
    pub(super) fn keeps_log(&self) -> bool {
        !self.on.is_empty() || !self.stop_on.is_empty() || self.expect.is_some()
    }

    /// Whether what the log says at its very end matters: more than that it
    /// has come to a stop.
    #[must_use]
    pub fn needs_the_last_words(&self) -> bool {
        let of = |events: &Events| events.panic || events.reset || events.shutdown || events.exit;
        of(&self.on) || of(&self.stop_on) || self.expect.is_some()
    }

    /// A line of our own, where reports of events go.
    pub(super) fn say(&self, what: &str) {
        self.press.say(what, &self.destination);
    }
}
