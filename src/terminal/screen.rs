//! Where reports go, each in one piece.
//!
//! A report is one write(2) to an open file of its own: the kernel does not
//! interleave a terminal's writers within a write, and the open file that is
//! shared with QEMU is non-blocking by its doing.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{OutputFlags, tcgetattr};
use nix::unistd::Pid;

use crate::sys;

/// Where a report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The terminal on descriptor 0: where the key was pressed.
    Terminal,
    /// Standard error: what was asked for by signal.
    Stderr,
    /// Standard error of another process, as it is at that moment.
    StderrOf(Pid),
    /// Standard output, where it is nobody's but ours.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// Whether standard descriptor `fd` is a terminal.
#[must_use]
pub fn is_terminal(fd: i32) -> bool {
    std::io::IsTerminal::is_terminal(&sys::standard(fd))
}

impl Destination {
    const fn standard(&self) -> Option<i32> {
        match self {
            Self::Terminal => Some(0),
            Self::Stderr => Some(2),
            Self::Stdout => Some(1),
            Self::StderrOf(_) | Self::File(_) => None,
        }
    }

    /// Whether it is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::StderrOf(process) => {
                open_stderr_of(*process).is_ok_and(|file| std::io::IsTerminal::is_terminal(&file))
            }
            _ => self.standard().is_some_and(is_terminal),
        }
    }

    /// Whether it is a terminal that does not return the carriage by itself
    /// at the end of a line. QEMU leaves that on (`OPOST`), but it need not
    /// be so.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let modes = match self {
            Self::StderrOf(process) => {
                open_stderr_of(*process).ok().and_then(|file| tcgetattr(file).ok())
            }
            _ => self.standard().and_then(|fd| tcgetattr(sys::standard(fd)).ok()),
        };
        modes.is_some_and(|modes| {
            !modes.output_flags.contains(OutputFlags::OPOST | OutputFlags::ONLCR)
        })
    }

    /// Its width in columns, where it is a terminal that says.
    #[must_use]
    pub fn columns(&self) -> Option<u16> {
        match self {
            Self::StderrOf(process) => {
                open_stderr_of(*process).ok().and_then(|file| sys::columns(file.as_fd()))
            }
            _ => self.standard().and_then(|fd| sys::columns(sys::standard(fd))),
        }
    }

    /// Whether others write there too: the guest, to a terminal.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Stdout)
    }

    /// Write a whole report.
    ///
    /// # Errors
    /// As the file or terminal fails.
    pub fn write(&self, report: &[u8]) -> io::Result<()> {
        match self {
            Self::File(path) => {
                let mut file = File::options().append(true).create(true).open(path)?;
                file.write_all(report)
            }
            Self::StderrOf(process) => {
                // A terminal or a file is shared with nobody when opened once
                // more; but a file that is not appended to must be shared,
                // lest the two write over each other.
                let file = match open_stderr_of(*process) {
                    Ok(own) if std::io::IsTerminal::is_terminal(&own) => own,
                    own => match sys::descriptor_of(*process, 2) {
                        Ok(shared) => File::from(shared),
                        Err(_) => own?,
                    },
                };
                write_shared(file.as_fd(), report)
            }
            Self::Terminal | Self::Stderr | Self::Stdout => {
                let fd = self.standard().unwrap_or(2);
                if is_terminal(fd) {
                    let own = File::options()
                        .write(true)
                        .custom_flags(nix::libc::O_NOCTTY)
                        .open(format!("/proc/self/fd/{fd}"));
                    if let Ok(mut own) = own {
                        return own.write_all(report);
                    }
                }
                write_shared(sys::standard(fd).as_fd(), report)
            }
        }
    }
}

/// Open what another process has as its standard error once more.
fn open_stderr_of(process: Pid) -> io::Result<File> {
    File::options()
        .append(true)
        .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK)
        .open(format!("/proc/{process}/fd/2"))
}

/// Write to a descriptor that others share and may have made non-blocking.
pub(super) fn write_shared(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
