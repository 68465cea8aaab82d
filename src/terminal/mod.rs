//! What the user types on its way to QEMU, the key among it, and the report
//! written in one piece.
//!
//! Only descriptor 0 is ever stood in for, and only where it is a terminal;
//! what QEMU writes never passes through here.

#![forbid(unsafe_code)]

mod keys;
mod screen;
mod stdin;

pub use keys::{Action, Keys};
pub use screen::{Destination, is_terminal};
pub use stdin::{Modes, Relay};
