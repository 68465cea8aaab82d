//! How a monitor can fail.

use std::fmt;
use std::io;

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// QEMU has closed the connection, or ended.
    Gone,
    /// QEMU has not answered by the deadline.
    Silent,
    /// QEMU refused, in its own words.
    Refused(String),
    /// What came is not QMP; what it was.
    Malformed(String),
    /// The host failed.
    Io(io::ErrorKind),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("QEMU has closed its monitor"),
            Self::Silent => f.write_str("QEMU does not answer its monitor"),
            Self::Refused(words) => write!(f, "QEMU refused: {words}"),
            Self::Malformed(what) => write!(f, "QEMU's monitor does not speak QMP: {what}"),
            Self::Io(kind) => write!(f, "QEMU's monitor: {kind}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected => Self::Gone,
            kind => Self::Io(kind),
        }
    }
}

impl From<nix::Error> for Error {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}
