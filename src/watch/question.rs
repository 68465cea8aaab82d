//! What is asked, and where the answer goes.

use crate::cli::KeySequence;
use crate::terminal::Destination;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The log, and asked again what is new in it.
    News,
    /// The log.
    Log,
    /// All of the log, whatever the options leave out.
    All,
    /// Where each processor is, with its registers.
    Places,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked for.
    pub subject: Subject,
    /// Where the answer goes, unless the options name a file.
    pub destination: Destination,
    /// The keys that ask for all of the log, to be named where less is shown.
    pub for_all: Option<KeySequence>,
}
