//! How QEMU ended, passed on as our own end.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit status.
    Exited(u8),
    /// By the signal of this number.
    Killed(i32),
}

impl End {
    /// The end that `waitpid(2)` tells of, if it is one.
    #[must_use]
    pub fn of(status: ExitStatus) -> Option<Self> {
        match (status.code(), status.signal()) {
            // Only the low 8 bits of a status ever reach a parent.
            (Some(status), _) => Some(Self::Exited((status & 0xff) as u8)),
            (_, Some(signal)) => Some(Self::Killed(signal)),
            _ => None,
        }
    }

    /// End in the same way.
    #[must_use]
    pub fn pass_on(self) -> ExitCode {
        match self {
            Self::Exited(status) => ExitCode::from(status),
            Self::Killed(signal) => {
                crate::sys::die_by(signal);
                // A signal that does not kill us can't have killed QEMU.
                ExitCode::from(128u8.wrapping_add((signal & 0x7f) as u8))
            }
        }
    }
}
