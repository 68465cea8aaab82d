//! The user's keyboard, relayed to QEMU through a pty that stands in for
//! descriptor 0.
//!
//! QEMU stays in our session and process group and the pty is nobody's
//! controlling terminal, so `^C`, `^Z`, job control and hangups come from the
//! real terminal as ever. The slave has `EXTPROC` set: its line discipline
//! does nothing of its own, the real terminal does it all; and every change
//! QEMU makes to its modes raises a packet on the master, upon which the real
//! terminal is given the same modes. Nothing is polled.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};

use super::screen::write_shared;
use crate::sys;

/// The bit of a packet's first byte that tells of changed modes
/// (`TIOCPKT_IOCTL`, ioctl_tty(2)); 0 is data.
const PACKET_MODES: u8 = 0x40;
const PACKET_DATA: u8 = 0;

/// How much a reader in canonical mode is ahead of at most: half of what the
/// kernel holds for a terminal (`N_TTY_BUF_SIZE`).
const CANONICAL_AT_ONCE: usize = 2048;

/// The terminal's modes and flags as they were found, put back by
/// [`Modes::restore`].
pub struct Modes {
    termios: Option<Termios>,
    flags: [Option<OFlag>; 3],
}

impl Modes {
    /// Note how the standard descriptors are. QEMU sets `O_NONBLOCK` on the
    /// open files behind 0 and 1, which the shell shares.
    #[must_use]
    pub fn note() -> Self {
        let flags =
            |fd| fcntl(sys::standard(fd), FcntlArg::F_GETFL).ok().map(OFlag::from_bits_truncate);
        Self { termios: tcgetattr(sys::standard(0)).ok(), flags: [flags(0), flags(1), flags(2)] }
    }

    /// Have them put back also where this process crashes.
    ///
    /// # Errors
    /// Where the host refuses a signal handler.
    pub fn restore_on_crash(&self) -> io::Result<()> {
        let Some(termios) = &self.termios else { return Ok(()) };
        let blocking =
            self.flags.map(|flags| flags.is_some_and(|flags| !flags.contains(OFlag::O_NONBLOCK)));
        sys::restore_on_crash(termios.clone().into(), blocking)
    }

    /// Put them back, where this process is in the foreground; in the
    /// background the terminal is the shell's, but for a shell that waits at
    /// it and has left it as QEMU had it: `mirrored`.
    pub fn restore(&self, mirrored: Option<&Termios>) {
        for (fd, found) in (0..).zip(self.flags) {
            let now = fcntl(sys::standard(fd), FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
            if let (Some(found), Ok(now)) = (found, now)
                && now.contains(OFlag::O_NONBLOCK)
                && !found.contains(OFlag::O_NONBLOCK)
            {
                let _ = fcntl(sys::standard(fd), FcntlArg::F_SETFL(now - OFlag::O_NONBLOCK));
            }
        }
        let terminal = sys::standard(0);
        let (Some(found), Ok(now)) = (&self.termios, tcgetattr(terminal)) else { return };
        let ours = match holder(terminal) {
            Holder::Us => true,
            // Its prompt would have modes of its own.
            Holder::Shell => mirrored == Some(&now),
            Holder::Another => false,
        };
        if ours && now != *found {
            // Where it is blocked, a process in the background is let through
            // (tcsetattr(3p)).
            let stop = SigSet::from(Signal::SIGTTOU);
            let _ = stop.thread_block();
            let _ = tcsetattr(terminal, SetArg::TCSANOW, found);
            let _ = stop.thread_unblock();
        }
    }
}

impl Drop for Modes {
    /// A fault of our own leaves the terminal as it was found, too.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.restore(None);
        }
    }
}

/// Who has the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// We may set its modes without being stopped.
    Us,
    /// The leader of our session, with no job in the foreground.
    Shell,
    Another,
}

fn holder(terminal: BorrowedFd<'_>) -> Holder {
    match nix::unistd::tcgetpgrp(terminal) {
        Ok(group) if group == nix::unistd::getpgrp() => Holder::Us,
        // A leader's group has its number, as its session has.
        Ok(group) if nix::unistd::getsid(None) == Ok(group) => Holder::Shell,
        Ok(_) => Holder::Another,
        // Not our controlling terminal: nobody is stopped over it.
        Err(Errno::ENOTTY) => Holder::Us,
        Err(_) => Holder::Another,
    }
}

fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    holder(terminal) == Holder::Us
}

/// The relay from the real terminal to the pty.
pub struct Relay {
    master: PtyMaster,
    slave: OwnedFd,
    /// Typed, and not yet taken by the pty.
    pending: Vec<u8>,
    /// The real terminal has come to an end of file that QEMU is to see.
    end_pending: bool,
    /// QEMU reads its stdin: what is typed is ours to pass on. Until then it
    /// is left where it is, for whoever reads the terminal next.
    active: bool,
    /// The modes that QEMU has set on its stdin.
    mirrored: Option<Termios>,
    /// The modes that we set on it ourselves: no news when they are told.
    adopted: Option<Termios>,
    /// Whether QEMU has made its stdin non-blocking, as last seen.
    nonblocking: bool,
    /// The pty takes no more; it tells when it does again.
    full: bool,
    /// QEMU was told to end.
    ending: bool,
}

impl Relay {
    /// A pty like the terminal on descriptor 0, and the end of it that is to
    /// become QEMU's descriptor 0.
    ///
    /// # Errors
    /// Where the host has no ptys, or descriptor 0 is no terminal.
    pub fn open(active: bool) -> io::Result<(Self, OwnedFd)> {
        let terminal = sys::standard(0);
        let mut termios = tcgetattr(terminal)?;
        let master =
            posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname_r(&master)?;
        let slave = nix::fcntl::open(
            name.as_str(),
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        termios.local_flags |= LocalFlags::EXTPROC;
        tcsetattr(&slave, SetArg::TCSANOW, &termios)?;
        sys::copy_window_size(terminal, master.as_fd());
        sys::set_packet_mode(master.as_fd())?;
        let child = slave.try_clone()?;
        let relay = Self {
            master,
            slave,
            pending: Vec::new(),
            end_pending: false,
            active,
            mirrored: None,
            adopted: None,
            nonblocking: false,
            full: false,
            ending: false,
        };
        Ok((relay, child))
    }

    /// The modes that QEMU has set on its stdin, as the terminal was given
    /// them.
    #[must_use]
    pub fn mirrored(&self) -> Option<Termios> {
        self.mirrored.clone()
    }

    /// The pty's master, to be polled for packets, and for room when
    /// [`Relay::is_full`].
    #[must_use]
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether more may be read from the terminal: QEMU reads its stdin and
    /// has taken what came before.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.active && self.pending.is_empty() && !self.end_pending
    }

    /// Whether typed bytes wait for the pty to tell of room.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// Whether typed bytes wait for QEMU to read what it has.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty() && !self.full
    }

    /// Whether QEMU has read all that was typed. Asked of poll(2), which
    /// delivers what the kernel still has on its way to QEMU before it says
    /// that there is nothing (n_tty.c, `n_tty_poll`).
    #[must_use]
    pub fn is_read(&self) -> bool {
        let mut fds = [PollFd::new(self.slave.as_fd(), PollFlags::POLLIN)];
        self.pending.is_empty() && poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Whether an end of file waits for QEMU to have read what came before.
    #[must_use]
    pub const fn ends(&self) -> bool {
        self.end_pending
    }

    /// Take packets from the master: modes that QEMU set, or bytes that it
    /// wrote to its stdin.
    pub fn take_packets(&mut self) {
        let mut packet = [0; 4096];
        loop {
            match self.master.read(&mut packet) {
                Ok(len) if len > 0 => match packet[0] {
                    PACKET_DATA => drop(write_shared(sys::standard(0), &packet[1..len])),
                    kind if kind & PACKET_MODES != 0 => self.mirror(),
                    _ => {}
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    /// Give the real terminal the modes that QEMU set on its stdin.
    fn mirror(&mut self) {
        let Ok(mut termios) = tcgetattr(&self.slave) else { return };
        if self.adopted.as_ref() == Some(&termios) {
            return;
        }
        self.active = true;
        sys::terminal_is_used();
        termios.local_flags -= LocalFlags::EXTPROC;
        let terminal = sys::standard(0);
        // QEMU sets its modes when it is continued, and gives them back when
        // it ends. From the background that would stop a job that was told to
        // end, and it would never do so; and a shell that reads would be told
        // that nothing is there.
        if self.ending && !in_foreground(terminal) {
            return;
        }
        self.mirror_flags();
        // In the background this stops the job by SIGTTOU, as it would QEMU.
        while tcsetattr(terminal, SetArg::TCSANOW, &termios) == Err(Errno::EINTR) {}
        // As the terminal tells it, to be compared with what it tells later.
        self.mirrored = Some(tcgetattr(terminal).unwrap_or_else(|_| termios.clone()));
        crate::trace!("terminal modes follow QEMU's: {:?}", termios.local_flags);
    }

    /// Give QEMU's stdin the modes of the real terminal, where QEMU has set
    /// none on it: curses sets them on its stdout, and would read a `^D` as an
    /// end of file from a stdin that still reads lines.
    fn adopt(&mut self) {
        if self.mirrored.is_some() {
            return;
        }
        let (Ok(mut wanted), Ok(now)) = (tcgetattr(sys::standard(0)), tcgetattr(&self.slave))
        else {
            return;
        };
        wanted.local_flags |= LocalFlags::EXTPROC;
        let read_as = |modes: &Termios| (modes.local_flags, modes.input_flags, modes.control_chars);
        if read_as(&wanted) != read_as(&now) {
            let _ = tcsetattr(&self.slave, SetArg::TCSANOW, &wanted);
            self.adopted = tcgetattr(&self.slave).ok();
        }
    }

    /// QEMU makes the open file behind its stdin non-blocking, which whoever
    /// shares the terminal sees. Only a change is passed on: a shell that
    /// stopped the job may have undone it since.
    fn mirror_flags(&mut self) {
        let flags = |fd| fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        let Ok(theirs) = flags(self.slave.as_fd()) else { return };
        let nonblocking = theirs.contains(OFlag::O_NONBLOCK);
        if nonblocking == self.nonblocking {
            return;
        }
        self.nonblocking = nonblocking;
        let terminal = sys::standard(0);
        if let Ok(mut now) = flags(terminal) {
            now.set(OFlag::O_NONBLOCK, nonblocking);
            let _ = fcntl(terminal, FcntlArg::F_SETFL(now));
        }
    }

    /// QEMU was told to end.
    pub const fn expect_end(&mut self) {
        self.ending = true;
    }

    /// Set them again: the shell has had the terminal in between.
    pub fn mirror_again(&mut self) {
        if self.mirrored.is_some() && in_foreground(sys::standard(0)) {
            self.mirror();
        }
    }

    /// The terminal has a new size.
    pub fn resize(&self) {
        sys::copy_window_size(sys::standard(0), self.master.as_fd());
    }

    /// Read what was typed; `None` at the end of input. An empty answer means
    /// that nothing is there after all.
    pub fn read_typed<'a>(&mut self, into: &'a mut [u8]) -> Option<&'a [u8]> {
        match nix::unistd::read(sys::standard(0), into) {
            Ok(0) => None,
            Ok(len) => Some(&into[..len]),
            Err(Errno::EAGAIN | Errno::EINTR) => Some(&[]),
            Err(_) => None,
        }
    }

    /// Pass bytes on to QEMU, now or as soon as there is room.
    pub fn send(&mut self, typed: &[u8]) {
        self.adopt();
        self.pending.extend_from_slice(typed);
        self.flush();
    }

    /// Pass on what waits for room.
    pub fn flush(&mut self) {
        self.full = false;
        while !self.pending.is_empty() {
            let room = self.room();
            let chunk = &self.pending[..room.min(self.pending.len())];
            if chunk.is_empty() {
                return;
            }
            match self.master.write(chunk) {
                Ok(len) => drop(self.pending.drain(..len)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.full = true;
                    return;
                }
                // Nobody reads it any more.
                Err(_) => self.pending.clear(),
            }
            if room < usize::MAX {
                return;
            }
        }
    }

    /// How much may be written at once. A reader of single keys pushes back
    /// by itself. In canonical mode with `EXTPROC` the kernel counts complete
    /// lines that it does not mark (n_tty.c, `chars_in_buffer`): it neither
    /// tells of room nor keeps what is too much, so the reader gets little at
    /// a time.
    fn room(&self) -> usize {
        let canonical = tcgetattr(&self.slave)
            .is_ok_and(|termios| termios.local_flags.contains(LocalFlags::ICANON));
        if canonical {
            CANONICAL_AT_ONCE.saturating_sub(sys::unread(self.slave.as_fd()))
        } else {
            usize::MAX
        }
    }

    /// The terminal came to an end of file (`^D` in a cooked mode): QEMU is
    /// to read one too, and then no more, as it would from the terminal.
    pub fn end(&mut self) {
        self.active = false;
        self.end_pending = true;
        self.flush_end();
    }

    /// Pass the end of file on once QEMU has read what came before it. A lone
    /// EOF character is turned into one for a reader in canonical mode with
    /// `EXTPROC` (n_tty.c, `copy_from_read_buf`, since 2.6.39).
    pub fn flush_end(&mut self) {
        if !self.end_pending || !self.is_read() {
            return;
        }
        self.end_pending = false;
        if let Ok(termios) = tcgetattr(&self.slave)
            && termios.local_flags.contains(LocalFlags::ICANON)
        {
            let end = termios.control_chars[SpecialCharacterIndices::VEOF as usize];
            let _ = self.master.write(&[end]);
        }
    }

    /// QEMU has ended: what was typed ahead and it did not read goes back to
    /// the terminal, for whoever reads it next, where the kernel lets us.
    /// To be called before the terminal gets its own modes back: what was
    /// typed then was neither echoed nor edited.
    pub fn give_back(mut self) {
        let mut typed = self.unread_by_qemu();
        if typed.is_empty() || !may_type() || !in_foreground(sys::standard(0)) {
            return;
        }
        let terminal = sys::standard(0);
        let Ok(found) = tcgetattr(terminal) else { return };
        let mut raw = found.clone();
        cfmakeraw(&mut raw);
        raw.output_flags = found.output_flags;
        let _ = tcsetattr(terminal, SetArg::TCSANOW, &raw);
        // In order: what the terminal still holds was typed later.
        let mut bytes = [0; 4096];
        while sys::unread(terminal) > 0
            && let Some(more @ [_, ..]) = self.read_typed(&mut bytes)
        {
            typed.extend_from_slice(more);
        }
        for byte in typed {
            if sys::type_byte(terminal, byte).is_err() {
                break;
            }
        }
        let _ = tcsetattr(terminal, SetArg::TCSANOW, &found);
    }

    /// What QEMU was given and did not read.
    fn unread_by_qemu(&mut self) -> Vec<u8> {
        let mut typed = Vec::new();
        let mut bytes = [0; 4096];
        let _ = fcntl(&self.slave, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK));
        while sys::unread(self.slave.as_fd()) > 0
            && let Ok(len @ 1..) = nix::unistd::read(&self.slave, &mut bytes)
        {
            typed.extend_from_slice(&bytes[..len]);
        }
        typed.append(&mut self.pending);
        typed
    }
}

/// Whether this kernel still lets a program type into its terminal (it can be
/// turned off since Linux 6.2; older ones have no such file).
fn may_type() -> bool {
    std::fs::read("/proc/sys/dev/tty/legacy_tiocsti").map_or(true, |word| !word.starts_with(b"0"))
}
