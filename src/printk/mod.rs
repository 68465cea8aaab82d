//! The kernel's log buffer, from guest memory to records.
//!
//! A decoder is told where its structures are (by effective address) and
//! yields [`Record`]s; it knows bytes and byte order and nothing of QEMU,
//! symbols or output. Guest memory is hostile: every length is bounded by
//! the buffer it claims to lie in, and no loop runs longer than the buffer
//! has places.
//!
//! - [`record`]: what every format is turned into.
//! - [`buffer`]: one front for the formats, for callers that need not care.
//! - [`ringbuffer`]: 5.10 and later.
//! - [`variable`]: 3.5 to 5.9.
//! - [`bytes`]: before 3.5.
//! - [`salvage`]: readable text where descriptors are damaged.

#![forbid(unsafe_code)]

pub mod buffer;
pub mod bytes;
#[doc(hidden)]
pub mod craft;
mod fetch;
mod layout;
pub mod record;
pub mod ringbuffer;
pub mod salvage;
pub mod variable;

use std::fmt;

use crate::guest::ReadError;

pub use buffer::{LogBuffer, Progress};
pub(crate) use layout::{DescForm, HeadForm, Header};
pub use layout::{LayoutSource, RingLayout, Types};
pub use record::{Caller, Device, Entry, Format, Log, Loss, Record, State};

/// Why a log buffer could not be read.
#[derive(Debug)]
pub enum Error {
    /// Guest memory could not be read.
    Read(ReadError),
    /// What lies at the address is no log buffer of that format.
    Malformed {
        /// The format it was read as.
        format: Format,
        /// Effective address of the structure.
        address: u64,
        /// What contradicts the format, in words that follow "its".
        what: &'static str,
    },
    /// The buffer is another one than when it was opened: the kernel moved
    /// its log or the guest was restarted. Look for it again.
    Replaced,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Malformed { format, address, what } => {
                write!(f, "no {format} at {address:#x}: its {what}")
            }
            Self::Replaced => f.write_str("the log buffer was replaced while it was read"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Malformed { .. } | Self::Replaced => None,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
