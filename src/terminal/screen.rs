//! Where reports go, each in one piece.
//!
//! A report is one write(2) to an open file of its own: the kernel does not
//! interleave a terminal's writers within a write, and the open file that is
//! shared with QEMU is non-blocking by its doing.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
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

    /// Whether it is a pipe, which can be told to take only what it has room
    /// for ([`Destination::write_at_once`]).
    #[must_use]
    pub fn is_pipe(&self) -> bool {
        self.standard().is_some_and(|fd| is_pipe(sys::standard(fd)))
    }

    /// Write as much of a report as a pipe takes without waiting for its
    /// reader; how many bytes that was. Of anything else than a pipe nobody
    /// can tell how long it takes, and it is left to [`Destination::write`].
    #[must_use]
    pub fn write_at_once(&self, report: &[u8]) -> usize {
        self.standard().map_or(0, |fd| write_at_once(sys::standard(fd), report))
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

fn is_pipe(fd: BorrowedFd<'_>) -> bool {
    let kind = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
    fstat(fd).is_ok_and(|file| kind(file.st_mode) == SFlag::S_IFIFO)
}

fn write_at_once(fd: BorrowedFd<'_>, report: &[u8]) -> usize {
    if !is_pipe(fd) {
        return 0;
    }
    // An open file of its own: others share the one that is there.
    let own = File::options()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let Ok(mut own) = own else { return 0 };
    let mut written = 0;
    while let Some(rest @ [_, ..]) = report.get(written..) {
        match own.write(rest) {
            Ok(len @ 1..) => written += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Full, or nobody reads it: the rest is as any other report's.
            Ok(0) | Err(_) => break,
        }
    }
    written
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

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Read, pipe};

    use super::*;

    #[test]
    fn a_pipe_takes_what_it_has_room_for_and_keeps_nobody() {
        let (mut reader, writer): (_, PipeWriter) = pipe().expect("a pipe");
        let report: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        assert_eq!(write_at_once(writer.as_fd(), &report[..10]), 10);
        let written = write_at_once(writer.as_fd(), &report[10..]);
        assert!((4096 - 10..1 << 20).contains(&written), "{written}");
        assert_eq!(write_at_once(writer.as_fd(), &report), 0, "it is full");
        let mut read = vec![0; 10 + written];
        reader.read_exact(&mut read).expect("they are there");
        assert_eq!(read, report[..10 + written]);
        // The open file that others share still waits.
        assert!(!blocks_not(writer.as_fd()));
        drop(reader);
        assert_eq!(write_at_once(writer.as_fd(), &report), 0, "nobody reads it");
    }

    fn blocks_not(fd: BorrowedFd<'_>) -> bool {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = fcntl(fd, FcntlArg::F_GETFL).expect("flags");
        OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn what_is_no_pipe_is_left_alone() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(write_at_once(file.as_fd(), b"report"), 0);
        assert_eq!(file.metadata().expect("a file").len(), 0);
    }
}
