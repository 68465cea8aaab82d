//! What is known of the kernel in the guest: its names, its identity, and
//! where its log is.

#![forbid(unsafe_code)]

pub mod names;
pub mod scan;

pub use names::{Names, Source, Symbol};
