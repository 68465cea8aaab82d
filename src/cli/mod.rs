//! Which words of the command line are ours, and what they ask for.
//!
//! Only words that begin with `--logbuf-` are ours; everything else is
//! QEMU's: what of it we go by is read by [`CommandLine`], and never changed.
//! Nothing in this room does I/O.

#![forbid(unsafe_code)]

mod command_line;
mod events;
mod key;
mod options;
mod split;
mod words;

pub use command_line::CommandLine;
pub(crate) use command_line::{fields, property};
pub use events::{Events, Follow};
pub use key::{KeyChoice, KeySequence, QEMU_KEYS};
pub use options::{Options, Request, Show, UsageError, request};
pub use split::{Words, split};
pub use words::{choices, command, help};
