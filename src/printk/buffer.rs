//! One front for the three formats.

use super::ringbuffer::Ring;
use super::{Error, Format, Log};
use crate::guest::View;

/// How far a kernel's log has come: equal to an earlier one as long as
/// nothing was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    next_seq: u64,
    marks: [u64; 4],
}

impl Progress {
    pub(super) const fn new(next_seq: u64, marks: [u64; 4]) -> Self {
        Self { next_seq, marks }
    }

    /// The sequence number that the next record will have; less than before
    /// once the guest was restarted.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }
}

/// A log buffer that has been found, in whichever format.
#[derive(Clone, Debug)]
pub enum LogBuffer {
    /// 5.10 and later.
    Ringbuffer(Ring),
}

impl LogBuffer {
    /// The format.
    #[must_use]
    pub const fn format(&self) -> Format {
        match self {
            Self::Ringbuffer(_) => Format::Ringbuffer,
        }
    }

    /// All that it holds.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Replaced`] when it is no longer there.
    pub fn read(&self, view: &View<'_>) -> Result<Log, Error> {
        self.read_from(view, 0)
    }

    /// The entries with sequence number `seq` and later.
    ///
    /// # Errors
    /// As [`LogBuffer::read`].
    pub fn read_from(&self, view: &View<'_>, seq: u64) -> Result<Log, Error> {
        match self {
            Self::Ringbuffer(ring) => ring.read_from(view, seq),
        }
    }
}
