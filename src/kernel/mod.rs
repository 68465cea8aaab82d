//! What is known of the kernel in the guest: its names, its identity, and
//! where its log is.

#![forbid(unsafe_code)]

pub mod activity;
pub mod names;
pub mod stack;

pub use names::{Names, Source, Symbol};
