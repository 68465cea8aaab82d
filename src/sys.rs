//! The only unsafe code: the few system calls that no safe wrapper covers,
//! and what must happen between fork and exec.
//!
//! Each function is small, says what it relies on, and holds no policy.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{ForkResult, Pid};

/// Why the host refused, in its own words: what `error` displays, without the
/// number behind, which says nothing to a user.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}

/// Let all threads that are yet to come allocate from one heap. glibc would
/// make one for each, and [`give_back_memory`] leaves what is free at the end
/// of those (malloc.c, `__malloc_trim`).
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two integers, and may be called whenever malloc may.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Give back to the host what was freed: glibc keeps it, and a launcher is to
/// be small for hours between answers. What the next one is likely to take
/// stays: to have its pages given anew would make it wait.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called whenever malloc may.
    unsafe {
        libc::malloc_trim(128 << 10)
    };
}

/// What the Rust runtime changes before `main`, as it was before: bit `n`
/// (0 to 2) is set where descriptor `n` was closed, bit 3 where SIGPIPE was
/// ignored.
static AT_ENTRY: AtomicU8 = AtomicU8::new(0);
const SIGPIPE_IGNORED: u8 = 1 << 3;

/// Runs before the Rust runtime, which opens `/dev/null` over closed standard
/// descriptors and ignores SIGPIPE: QEMU must get them as they were.
extern "C" fn note_entry() {
    let mut found = 0;
    for fd in 0..3 {
        // SAFETY: F_GETFD reads one descriptor flag and touches no memory.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            found |= 1 << fd;
        }
    }
    if disposition(libc::SIGPIPE) == libc::SIG_IGN {
        found |= SIGPIPE_IGNORED;
    }
    AT_ENTRY.store(found, Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions that the C runtime calls
// once before main; `note_entry` has that signature and needs no runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_ENTRY: extern "C" fn() = note_entry;

/// The handler of a signal, as a number: `SIG_DFL`, `SIG_IGN` or a function.
fn disposition(signal: libc::c_int) -> libc::sighandler_t {
    // SAFETY: an all-zero sigaction is a valid value of that plain struct, and
    // with a null new action the call only writes the old one into it.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut old) == -1 {
            return libc::SIG_DFL;
        }
        old.sa_sigaction
    }
}

/// What a child must find as we found it: the signal mask, which signals are
/// ignored, which standard descriptors are closed and which others are open.
#[derive(Clone, Debug)]
pub struct Inheritance {
    mask: SigSet,
    ignored: Vec<libc::c_int>,
    closed: [bool; 3],
    descriptors: Vec<RawFd>,
}

impl Inheritance {
    /// Take it down; to be called before any handler is installed and any
    /// descriptor opened.
    #[must_use]
    pub fn note() -> Self {
        let at_entry = AT_ENTRY.load(Ordering::Relaxed);
        let mut ignored: Vec<libc::c_int> = Signal::iterator()
            .map(|signal| signal as libc::c_int)
            .filter(|signal| *signal != libc::SIGPIPE && disposition(*signal) == libc::SIG_IGN)
            .collect();
        if at_entry & SIGPIPE_IGNORED != 0 {
            ignored.push(libc::SIGPIPE);
        }
        Self {
            mask: SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty()),
            ignored,
            closed: [0, 1, 2].map(|fd| at_entry & (1 << fd) != 0),
            descriptors: open_descriptors(),
        }
    }

    /// Whether `signal` was neither ignored nor blocked.
    #[must_use]
    pub fn lets_through(&self, signal: Signal) -> bool {
        !self.ignored.contains(&(signal as libc::c_int)) && !self.mask.contains(signal)
    }

    /// Whether standard descriptor `fd` (0 to 2) was open.
    #[must_use]
    pub fn was_open(&self, fd: usize) -> bool {
        self.closed.get(fd).is_some_and(|closed| !closed)
    }

    /// Close the inherited descriptors above 2: once QEMU has its own copies,
    /// ours would keep its peers from seeing it end.
    pub fn close_descriptors(&self) {
        for fd in &self.descriptors {
            // SAFETY: they were open before anything of ours was opened, and
            // nothing in this process owns them.
            unsafe { libc::close(*fd) };
        }
    }

    /// Give it back to this process, between fork and exec or before exec.
    fn restore(&self) -> io::Result<()> {
        for signal in &self.ignored {
            // SAFETY: setting SIG_IGN installs no code of ours.
            if unsafe { libc::signal(*signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        for (fd, closed) in (0..).zip(self.closed) {
            if closed {
                // SAFETY: the child is about to exec; nothing here uses a
                // standard descriptor any more.
                unsafe { libc::close(fd) };
            }
        }
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)?;
        Ok(())
    }
}

/// What differs in QEMU from us at the moment of exec.
#[derive(Debug)]
pub struct Child {
    /// Put back as it was at our own start.
    pub inheritance: Inheritance,
    /// Becomes descriptor 0, where we stand between the terminal and QEMU.
    pub stdin: Option<OwnedFd>,
    /// Descriptors that QEMU inherits under their numbers.
    pub kept: Vec<OwnedFd>,
    /// The process whose death takes the child with it; `None` where the
    /// child is to live alone.
    pub parent: Option<Pid>,
}

/// Arrange that `command` execs as `child` says. Works for `spawn` and `exec`.
pub fn prepare(command: &mut Command, child: Child) {
    let before_exec = move || -> io::Result<()> {
        if let Some(parent) = child.parent {
            // SIGKILL, since that is what killed the parent: every other
            // deadly signal is passed on while the parent lives.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
        }
        for fd in &child.kept {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        if let Some(stdin) = &child.stdin {
            nix::unistd::dup2_stdin(stdin)?;
        }
        child.inheritance.restore()
    };
    // SAFETY: between fork and exec only system calls are made: no allocation
    // (the error path builds an io::Error from a number), no lock. The process
    // forks before it starts any thread.
    unsafe { command.pre_exec(before_exec) };
}

/// Every signal held back, until [`Held::release`]: between the start of a
/// child and the handlers that pass its signals on, none may be lost, and the
/// child must not find handlers of ours before its exec.
#[must_use]
pub struct Held(SigSet);

/// Hold back every signal, and take those whose handling must not be as it
/// was inherited or as the Rust runtime has it: SIGCHLD, which tells of
/// QEMU's end, and SIGSEGV and SIGBUS, which the runtime would outlive once.
///
/// # Errors
/// As `pthread_sigmask(3)`.
pub fn hold_signals() -> io::Result<Held> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    for signal in [libc::SIGCHLD, libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: setting SIG_DFL installs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(Held(before))
}

impl Held {
    /// Let them come, and `needed` even where they were blocked before, but
    /// not `held`.
    ///
    /// # Errors
    /// As `pthread_sigmask(3)`.
    pub fn release(self, needed: &[Signal], held: &[Signal]) -> io::Result<()> {
        let mut mask = self.0;
        for signal in needed {
            mask.remove(*signal);
        }
        for signal in held {
            mask.add(*signal);
        }
        mask.thread_set_mask()?;
        Ok(())
    }
}

/// Which of the two processes this is after [`detach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// The one there was before.
    Original,
    /// The new one, in a session of its own, that nobody waits for.
    Companion,
}

/// Become two processes that know nothing of each other as far as `wait(2)`,
/// sessions and terminals go.
///
/// # Errors
/// As `fork(2)`; then there is only the original.
pub fn detach() -> io::Result<Detached> {
    // SAFETY: the process has no other thread, so that the child may do
    // whatever its parent might have done.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let _ = nix::unistd::setsid();
            // SAFETY: as above; the one in between ends without destructors.
            match unsafe { nix::unistd::fork() } {
                Ok(ForkResult::Child) => Ok(Detached::Companion),
                // SAFETY: _exit has no conditions.
                Ok(ForkResult::Parent { .. }) => unsafe { libc::_exit(0) },
                // SAFETY: as above.
                Err(_) => unsafe { libc::_exit(1) },
            }
        }
        ForkResult::Parent { child } => {
            // It ends at once. Where SIGCHLD is ignored this waits all the same.
            while nix::sys::wait::waitpid(child, None) == Err(Errno::EINTR) {}
            // A blocked SIGCHLD of its end would wait for QEMU's handler; the
            // default action discards it.
            if disposition(libc::SIGCHLD) == libc::SIG_DFL {
                // SAFETY: setting SIG_DFL installs no code of ours.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
            }
            Ok(Detached::Original)
        }
    }
}

/// A descriptor that is readable once the process has ended.
///
/// # Errors
/// As `pidfd_open(2)`, Linux 5.3.
pub fn pidfd(process: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call reads two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    new_descriptor(fd)
}

/// A copy of another process's descriptor, of the same open file.
///
/// # Errors
/// As `pidfd_getfd(2)`, Linux 5.6: the right to trace the process is needed.
pub fn descriptor_of(process: Pid, fd: RawFd) -> io::Result<OwnedFd> {
    let pidfd = pidfd(process)?;
    // SAFETY: the call reads three integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    new_descriptor(fd)
}

fn new_descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(returned)?;
    Ok(own(RawFd::try_from(fd).map_err(io::Error::other)?))
}

/// Pass a signal on with its sender's identity, which QEMU prints
/// ("terminating on signal 15 from pid …"). The kernel lets an unprivileged
/// process name a sender only with a negative code, so it arrives as queued.
///
/// # Errors
/// As `rt_sigqueueinfo(2)`.
pub fn forward_signal(to: Pid, signal: i32, sender: Option<(i32, u32)>) -> io::Result<()> {
    let Some((pid, uid)) = sender else {
        // SAFETY: kill touches no memory.
        return Errno::result(unsafe { libc::kill(to.as_raw(), signal) })
            .map(drop)
            .map_err(Into::into);
    };
    /// `siginfo_t` as the kernel lays it out for a queued signal.
    #[repr(C)]
    struct Queued {
        signo: i32,
        errno: i32,
        code: i32,
        #[cfg(target_pointer_width = "64")]
        padding: i32,
        pid: i32,
        uid: u32,
        value: usize,
        rest: [usize; 12],
    }
    let info = Queued {
        signo: signal,
        errno: 0,
        code: libc::SI_QUEUE,
        #[cfg(target_pointer_width = "64")]
        padding: 0,
        pid,
        uid,
        value: 0,
        rest: [0; 12],
    };
    // SAFETY: `info` is at least as long as what the kernel reads (128 bytes
    // on 64-bit hosts, checked below) and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, to.as_raw(), signal, &raw const info) };
    const _: () = assert!(
        cfg!(not(target_pointer_width = "64"))
            || size_of::<Queued>() >= size_of::<libc::siginfo_t>()
    );
    Errno::result(result).map(drop).map_err(Into::into)
}

/// Let the SIGTSTP that waits, if one still does, stop this process; returns
/// when continued. In an orphaned process group the kernel ignores it, as it
/// would for QEMU.
pub fn stop_here() {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTSTP);
    let _ = stop.thread_unblock();
    let _ = stop.thread_block();
}

/// How a child has ended, as `waitpid(2)` says it; `None` while it has not.
/// nix's own knows no real-time signals, and fails on them.
///
/// # Errors
/// As `waitpid(2)`.
pub fn take_end(child: Pid) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: waitpid writes one int, which outlives the call.
    let ended = unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::WNOHANG) };
    match ended {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => Ok(Some(ExitStatus::from_raw(status))),
    }
}

/// Die by the signal of this number as the default action has it; returns
/// where that signal does not kill.
pub fn die_by(signal: libc::c_int) {
    // The core that matters is QEMU's: ours would overwrite it.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: setting SIG_DFL installs no code of ours; the set is one of
    // ours, and raise touches no memory.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
}

/// What a terminal is given back by [`crashed`].
struct Terminal {
    termios: libc::termios,
    /// The standard descriptors that were blocking.
    blocking: [bool; 3],
}

/// Set once, before any of the handlers, and never freed.
static TERMINAL: AtomicPtr<Terminal> = AtomicPtr::new(std::ptr::null_mut());

/// Whether anything of ours or QEMU's has changed the terminal.
static TERMINAL_USED: AtomicBool = AtomicBool::new(false);

/// From now on the terminal is to be as it was, should we crash.
pub fn terminal_is_used() {
    TERMINAL_USED.store(true, Ordering::Relaxed);
}

/// Give the terminal on descriptor 0 its modes back where a fault of our own
/// ends this process without unwinding: an abort, or what the processor
/// refuses. Only once [`terminal_is_used`].
///
/// # Errors
/// As `sigaction(2)`.
pub fn restore_on_crash(termios: libc::termios, blocking: [bool; 3]) -> io::Result<()> {
    let terminal = Box::into_raw(Box::new(Terminal { termios, blocking }));
    TERMINAL.store(terminal, Ordering::Release);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
        let handler: extern "C" fn(libc::c_int) = crashed;
        // SAFETY: `crashed` calls only what signal-safety(7) permits; with
        // SA_RESETHAND a second fault, in it or after it, is the end. The
        // runtime has given each thread a stack for this, on which a stack
        // that overflowed is survived.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
            Errno::result(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
        }
    }
    // One from outside is passed on to QEMU, which it ends.
    // SAFETY: as above; abort(3) raises it once with this handler, and then
    // without.
    unsafe { signal_hook::low_level::register(libc::SIGABRT, give_terminal_back) }?;
    Ok(())
}

extern "C" fn crashed(signal: libc::c_int) {
    give_terminal_back();
    // By default now; it comes once this returns, as the fault itself does
    // where it was one.
    // SAFETY: raise touches no memory.
    unsafe { libc::raise(signal) };
}

/// In a signal handler, perhaps of a process in disorder.
fn give_terminal_back() {
    // SAFETY: null or what restore_on_crash leaked; nothing writes to it.
    let Some(terminal) = (unsafe { TERMINAL.load(Ordering::Acquire).as_ref() }) else { return };
    // SAFETY: integers and one termios that outlives the calls, all of which
    // signal-safety(7) permits. In the background the terminal is the
    // shell's, and setting its modes would stop us.
    unsafe {
        let group = libc::tcgetpgrp(0);
        if !TERMINAL_USED.load(Ordering::Relaxed) || group != -1 && group != libc::getpgrp() {
            return;
        }
        for (fd, blocking) in (0..).zip(terminal.blocking) {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            if blocking && flags != -1 {
                libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK);
            }
        }
        libc::tcsetattr(0, libc::TCSANOW, &raw const terminal.termios);
    }
}

mod ioctl {
    nix::ioctl_write_ptr_bad!(tiocpkt, nix::libc::TIOCPKT, nix::libc::c_int);
    nix::ioctl_read_bad!(fionread, nix::libc::FIONREAD, nix::libc::c_int);
    nix::ioctl_read_bad!(tiocgwinsz, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    nix::ioctl_write_ptr_bad!(tiocsti, nix::libc::TIOCSTI, nix::libc::c_char);
    nix::ioctl_write_ptr_bad!(tiocswinsz, nix::libc::TIOCSWINSZ, nix::libc::winsize);
}

/// Packet mode on a pty's master: each read begins with a byte that tells
/// data from changes of the slave's modes.
///
/// # Errors
/// As `ioctl_tty(2)`.
pub fn set_packet_mode(master: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCPKT reads one int, which outlives the call.
    unsafe { ioctl::tiocpkt(master.as_raw_fd(), &1) }?;
    Ok(())
}

/// Give `to` the window size of `from`; both are terminals.
pub fn copy_window_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    // SAFETY: both calls read or write one winsize, which outlives them.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        if ioctl::tiocgwinsz(from.as_raw_fd(), &raw mut size).is_ok() {
            let _ = ioctl::tiocswinsz(to.as_raw_fd(), &raw const size);
        }
    }
}

/// Put a byte into a terminal's input, as if it had been typed.
///
/// # Errors
/// As `TIOCSTI` in ioctl_tty(2): not all kernels allow it.
pub fn type_byte(terminal: BorrowedFd<'_>, byte: u8) -> io::Result<()> {
    // SAFETY: TIOCSTI reads one byte, which outlives the call.
    unsafe { ioctl::tiocsti(terminal.as_raw_fd(), &libc::c_char::from_ne_bytes([byte])) }?;
    Ok(())
}

/// How many bytes a terminal's reader has not read yet.
#[must_use]
pub fn unread(terminal: BorrowedFd<'_>) -> usize {
    let mut count = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    match unsafe { ioctl::fionread(terminal.as_raw_fd(), &raw mut count) } {
        Ok(_) => usize::try_from(count).unwrap_or(0),
        Err(_) => 0,
    }
}

/// The columns of a terminal, where it says.
#[must_use]
pub fn columns(terminal: BorrowedFd<'_>) -> Option<u16> {
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        ioctl::tiocgwinsz(terminal.as_raw_fd(), &raw mut size).ok()?;
        (size.ws_col > 0).then_some(size.ws_col)
    }
}

/// The open descriptors above 2.
fn open_descriptors() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let listed: Vec<RawFd> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The directory being read was among them and is closed by now.
    // SAFETY: F_GETFD reads one descriptor flag and touches no memory.
    let is_open = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
    listed.into_iter().filter(|fd| *fd > 2).filter(is_open).collect()
}

/// The standard descriptor 0, 1 or 2. The Rust runtime made sure all three
/// are open, and nothing here closes them.
#[must_use]
pub fn standard(fd: RawFd) -> BorrowedFd<'static> {
    assert!((0..3).contains(&fd));
    // SAFETY: open for the life of the process, see above.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Take ownership of a descriptor that a system call has just returned.
#[must_use]
pub fn own(fd: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller got it from the kernel and hands over its only copy.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Work on many bytes that gains from wide vectors.
pub trait Vectorised {
    /// Do it. To be inlined with all it calls: only what is compiled into
    /// [`with_vectors`] has them.
    fn run(self);
}

/// Run `work` compiled for the vectors this processor has, where the build
/// may assume only those that all of its kind have.
pub fn with_vectors(work: impl Vectorised) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(work: impl Vectorised) {
            work.run();
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the one feature the function needs.
            return unsafe { wide(work) };
        }
    }
    work.run();
}
