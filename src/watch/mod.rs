//! When to report, and the way from a question to its answer.
//!
//! The [`Desk`] takes questions on the main thread; the [`Observer`] answers
//! them, on a thread that lives only as long as the answer takes, so that the
//! keyboard is never held up; or at once, where nobody has to be waited for.
//! Where something is to happen by itself, the vigil looks out for it, on
//! another thread.

#![forbid(unsafe_code)]

mod answer;
mod attach;
mod boot;
mod closing;
mod desk;
mod effort;
mod file;
mod follow;
mod history;
mod observer;
mod orders;
mod places;
pub mod plan;
mod press;
mod question;
mod sight;
mod sources;
mod vigil;

pub use attach::attach;
pub use desk::Desk;
pub use file::read;
pub use observer::Observer;
pub use plan::Plan;
pub use question::{Question, Subject};
pub use sources::{Sources, hold};
