//! One front for the three formats.

use super::bytes::ByteLog;
use super::ringbuffer::Ring;
use super::variable::VariableLog;
use super::{Error, Format, LayoutSource, Log};
use crate::guest::View;

/// How far a kernel's log has come: equal to an earlier one as long as
/// nothing was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    next_seq: u64,
    marks: [u64; 4],
}

impl Progress {
    pub(crate) const fn new(next_seq: u64, marks: [u64; 4]) -> Self {
        Self { next_seq, marks }
    }

    /// The sequence number that the next record will have; less than before
    /// once the guest was restarted. (On 32-bit kernels of 5.10 and later,
    /// modulo 2^30.)
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }
}

/// A log buffer that has been found, in whichever format.
#[derive(Clone, Debug)]
pub enum LogBuffer {
    /// 5.10 and later.
    Ringbuffer(Box<Ring>),
    /// 3.5 to 5.9.
    Variable(VariableLog),
    /// Before 3.5.
    Bytes(ByteLog),
}

impl LogBuffer {
    /// The format.
    #[must_use]
    pub const fn format(&self) -> Format {
        match self {
            Self::Ringbuffer(_) => Format::Ringbuffer,
            Self::Variable(_) => Format::VariableRecords,
            Self::Bytes(_) => Format::Bytes,
        }
    }

    /// Who says how it is laid out.
    #[must_use]
    pub const fn layout(&self) -> LayoutSource {
        match self {
            Self::Ringbuffer(ring) => ring.source(),
            Self::Variable(_) | Self::Bytes(_) => LayoutSource::Known,
        }
    }

    /// Whether nothing had been printed when it was opened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self {
            Self::Ringbuffer(ring) => ring.is_empty(),
            Self::Variable(log) => log.is_empty(),
            Self::Bytes(log) => log.is_empty(),
        }
    }

    /// How far the kernel has come, by a few short reads.
    ///
    /// # Errors
    /// As [`LogBuffer::read`].
    pub fn progress(&self, view: &View<'_>) -> Result<Progress, Error> {
        match self {
            Self::Ringbuffer(ring) => ring.progress(view),
            Self::Variable(log) => log.progress(view),
            Self::Bytes(log) => log.progress(view),
        }
    }

    /// All that it holds.
    ///
    /// # Errors
    /// [`Error::Read`] when guest memory cannot be read; [`Error::Replaced`]
    /// or [`Error::Malformed`] when the buffer is no longer there.
    pub fn read(&self, view: &View<'_>) -> Result<Log, Error> {
        self.read_from(view, 0)
    }

    /// The entries with sequence number `seq` and later. To read on after an
    /// earlier [`Log`], pass its [`Log::resume`].
    ///
    /// # Errors
    /// As [`LogBuffer::read`].
    pub fn read_from(&self, view: &View<'_>, seq: u64) -> Result<Log, Error> {
        match self {
            Self::Ringbuffer(ring) => ring.read_from(view, seq),
            Self::Variable(log) => log.read_from(view, seq),
            Self::Bytes(log) => log.read_from(view, seq),
        }
    }
}
