//! When to report, and the way from a question to its answer.
//!
//! The [`Desk`] takes questions on the main thread; the [`Observer`] answers
//! them, on a thread that lives only as long as the answer takes, so that the
//! keyboard is never held up.

#![forbid(unsafe_code)]

mod answer;
mod attach;
mod desk;
mod file;
mod history;
mod observer;
mod places;
mod press;
mod question;
mod sources;

pub use attach::attach;
pub use desk::Desk;
pub use file::read;
pub use observer::Observer;
pub use question::{Question, Subject};
pub use sources::Sources;
