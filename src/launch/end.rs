//! How QEMU ended, passed on as our own end.

use std::process::ExitCode;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit status.
    Exited(u8),
    /// By a signal.
    Killed(Signal),
}

impl End {
    /// The end that `waitpid(2)` tells of, if it is one.
    #[must_use]
    pub fn of(status: WaitStatus) -> Option<Self> {
        match status {
            // Only the low 8 bits of a status ever reach a parent.
            WaitStatus::Exited(_, status) => Some(Self::Exited((status & 0xff) as u8)),
            WaitStatus::Signaled(_, signal, _) => Some(Self::Killed(signal)),
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
                ExitCode::from(128u8.wrapping_add(signal as u8))
            }
        }
    }
}
