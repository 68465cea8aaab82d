//! Lines over a socket that never blocks.

use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};

use super::Error;

/// The longest line that is taken, in bytes. QEMU's longest are those of
/// `info registers -a`, 2 KiB a processor.
pub const LONGEST_LINE: usize = 4 << 20;

/// How much is read before the caller gets a look at the clock, in bytes.
const AT_ONCE: usize = 1 << 20;

/// The socket, with what was read and not yet asked for, and what was asked
/// to be sent and not yet taken.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    inbox: Vec<u8>,
    /// Where the first unread line begins in `inbox`.
    start: usize,
    /// Up to where `inbox` is known to hold no further newline.
    searched: usize,
    outbox: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Result<Self, Error> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, inbox: Vec::new(), start: 0, searched: 0, outbox: Vec::new() })
    }

    /// Queue bytes and send what goes at once.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.outbox.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        while !self.outbox.is_empty() {
            // Never a SIGPIPE, whatever the program does with that signal.
            match send(self.stream.as_raw_fd(), &self.outbox, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Send bytes and, with the first of them, a descriptor.
    pub(super) fn send_with(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Error> {
        self.flush()?;
        let fds = [fd.as_raw_fd()];
        let with = [ControlMessage::ScmRights(&fds)];
        let (socket, bytes) = (self.stream.as_raw_fd(), [IoSlice::new(bytes)]);
        let sent = loop {
            match sendmsg::<()>(socket, &bytes, &with, MsgFlags::MSG_NOSIGNAL, None) {
                Err(nix::Error::EINTR) => {}
                sent => break sent?,
            }
        };
        let [bytes] = bytes;
        self.send(bytes.get(sent..).unwrap_or_default())
    }

    /// Send and receive what goes without waiting. Whether there may be more
    /// to receive at once.
    ///
    /// What was received before a failure can still be had by `next_line`.
    pub(super) fn exchange(&mut self) -> Result<bool, Error> {
        // A peer that has closed may have said something first: read even if
        // it takes nothing any more.
        let flushed = self.flush();
        let mut chunk = [0; 16 << 10];
        let mut room = AT_ONCE;
        while room > 0 {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Error::Gone),
                Ok(count) => {
                    self.inbox.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    room = room.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return flushed.map(|()| false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        flushed.map(|()| true)
    }

    /// The next whole line that has arrived, without its end.
    pub(super) fn next_line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let unsearched = self.inbox.get(self.searched..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', unsearched).map(|at| self.searched + at) else {
                self.searched = self.inbox.len();
                self.inbox.drain(..self.start);
                self.searched -= self.start;
                self.start = 0;
                if self.inbox.len() > LONGEST_LINE {
                    self.inbox = Vec::new();
                    self.searched = 0;
                    return Err(Error::Malformed(format!(
                        "a line of more than {LONGEST_LINE} bytes"
                    )));
                }
                if self.inbox.is_empty() {
                    // One long reply is no reason to keep its room.
                    self.inbox.shrink_to(64 << 10);
                }
                return Ok(None);
            };
            let line = self.inbox.get(self.start..end).unwrap_or_default().trim_ascii();
            let line = line.to_vec();
            self.start = end + 1;
            self.searched = self.start;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Wait until there is something to receive, or room for what is to be
    /// sent, but not past `deadline`.
    pub(super) fn wait(&self, deadline: Instant) -> Result<(), Error> {
        let mut wanted = PollFlags::POLLIN;
        if !self.outbox.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // Rounded up, or the last millisecond would be spent spinning.
            let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stream.as_fd(), wanted)], timeout) {
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
