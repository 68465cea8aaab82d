//! A terminal with a program in it, driven by a test: it waits for
//! conditions, never for a time to pass.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, Termios, tcgetattr};

use super::PATIENCE;

nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);

/// A terminal, and everything that was written to it.
pub struct Pty {
    master: OwnedFd,
    /// Kept open so that modes and flags outlast the program, and shared with
    /// it as a shell shares its terminal with its jobs.
    slave: OwnedFd,
    text: Vec<u8>,
    /// Where the next [`Pty::wait_for`] begins to look.
    mark: usize,
}

impl Pty {
    /// A new terminal of 80 columns and 24 lines.
    pub fn open() -> io::Result<Self> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None)?;
        for fd in [&pair.master, &pair.slave] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { master: pair.master, slave: pair.slave, text: Vec::new(), mark: 0 })
    }

    /// Run `bash -c script` in it, as the leader of a session of its own;
    /// `dress` adds to the command.
    pub fn spawn(&self, script: &str, dress: impl FnOnce(&mut Command)) -> io::Result<Child> {
        // Under nohup a hangup would mean nothing to any of it, nor would an
        // interrupt in the background of a script.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,QUIT", "setsid", "--ctty", "bash", "-c", script]);
        dress(&mut command);
        command.stdin(Stdio::from(self.slave.try_clone()?));
        command.stdout(Stdio::from(self.slave.try_clone()?));
        command.stderr(Stdio::from(self.slave.try_clone()?));
        command.spawn()
    }

    /// Everything written so far.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Take what has been written, waiting at most `for_`.
    pub fn take(&mut self, for_: Duration) {
        let timeout = PollTimeout::try_from(for_).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if matches!(poll(&mut fds, timeout), Ok(1..)) && self.take_now() == 0 {
            // Hung up: it would come back at once, for ever.
            std::thread::sleep(for_);
        }
    }

    fn take_now(&mut self) -> usize {
        let mut taken = 0;
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = nix::unistd::read(&self.master, &mut bytes) {
            self.text.extend_from_slice(&bytes[..len]);
            taken += len;
        }
        taken
    }

    /// Wait until `condition` holds; whether it came to.
    pub fn until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.take_now();
            if condition(self) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            self.take(Duration::from_millis(5));
        }
    }

    /// Wait until `text` is written, after what was waited for before.
    pub fn wait_for(&mut self, text: &str) -> bool {
        let mut end = None;
        self.until(|pty| {
            end = memchr::memmem::find(&pty.text[pty.mark..], text.as_bytes());
            end.is_some()
        });
        let Some(end) = end else { return false };
        self.mark += end + text.len();
        true
    }

    /// Type, as fast as the terminal takes it.
    pub fn type_in(&mut self, mut bytes: &[u8]) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !bytes.is_empty() && Instant::now() < deadline {
            match nix::unistd::write(&self.master, bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    let flags = PollFlags::POLLIN | PollFlags::POLLOUT;
                    let mut fds = [PollFd::new(self.master.as_fd(), flags)];
                    let _ = poll(&mut fds, 50u8);
                    self.take_now();
                }
                Err(_) => return false,
            }
        }
        bytes.is_empty()
    }

    /// The modes as they are.
    pub fn modes(&self) -> Option<Termios> {
        tcgetattr(&self.slave).ok()
    }

    /// Whether a program reads single keys.
    pub fn is_raw(&self) -> bool {
        self.modes().is_some_and(|modes| !modes.local_flags.contains(LocalFlags::ICANON))
    }

    /// The modes and the flags of the open file, in words.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        match self.modes() {
            Some(modes) => {
                let cc = |index: SpecialCharacterIndices| modes.control_chars[index as usize];
                let _ = write!(
                    text,
                    "in {:?} out {:?} control {:?} local {:?} min {} time {}",
                    modes.input_flags,
                    modes.output_flags,
                    modes.control_flags,
                    modes.local_flags,
                    cc(SpecialCharacterIndices::VMIN),
                    cc(SpecialCharacterIndices::VTIME),
                );
            }
            None => text.push_str("no modes"),
        }
        let flags = fcntl(&self.slave, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        if flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK)) {
            text.push_str(" O_NONBLOCK");
        }
        text
    }

    /// Give the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
        let _ = unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&self.master), &raw const size) };
    }

    /// Hang up, as a terminal window that is closed; what was written.
    pub fn hang_up(mut self) -> Vec<u8> {
        self.take_now();
        self.text
    }
}
