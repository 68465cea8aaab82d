//! The kernel's log buffer, from guest memory to records.
//!
//! A decoder is told where its structures are (by effective address) and
//! yields [`Record`]s; it knows bytes and byte order and nothing of QEMU,
//! symbols or output. Guest memory is hostile: every length is bounded by
//! the buffer it claims to lie in, and no loop runs longer than the buffer
//! has places.

#![forbid(unsafe_code)]

pub mod record;

pub use record::{Caller, Device, Entry, Format, Log, Loss, Record, State};
