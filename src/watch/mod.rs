//! When to report, and the way from a question to its answer.
//!
//! The [`Desk`] takes questions on the main thread; the [`Observer`] answers
//! them, on a thread that lives only as long as the answer takes, so that the
//! keyboard is never held up.

#![forbid(unsafe_code)]

mod answer;
mod desk;
mod effort;
mod observer;
mod sources;

pub use desk::Desk;
pub use observer::Observer;
pub use sources::Sources;
