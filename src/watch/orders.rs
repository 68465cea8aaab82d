//! What the [desk](super::desk) and the [vigil](super::vigil) say to one another.

use crate::report::Report;
use crate::terminal::Destination;

/// What the vigil is told.
pub(super) enum Order {
    /// Begin to follow, or stop it; where to show records.
    ToggleFollow(Destination),
    /// The report that QEMU is to be ended after has been made.
    EndQemu,
    /// QEMU has ended.
    Ended,
}

/// What the vigil tells.
pub(super) enum Finding {
    /// Ask the guest, while it can still be asked everything.
    Ask {
        /// The event.
        trigger: &'static str,
        /// What else there is to say.
        note: String,
        /// Order to end QEMU afterwards.
        ends: bool,
    },
    /// A report that was made.
    Report(Box<Report>),
    /// What the launcher's exit status is to be.
    Status(u8),
}

/// Who rings at the desk: the observer, done with an answer, or the vigil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ringer {
    Observer,
    Vigil,
}

impl Ringer {
    /// The byte that is sent for it.
    pub(super) const fn byte(self) -> u8 {
        self as u8
    }
}
