//! QEMU under the process id it was called by, and a companion that holds the
//! monitor.
//!
//! Who starts QEMU may go by its process id: for statistics, for pinning, for
//! a status (libvirt does). Then the original process becomes QEMU, and the
//! log is read by a companion that nobody waits for: detached, named
//! `qemu-logbuf`, without a descriptor of the caller's, it answers SIGUSR1
//! until QEMU ends. There is no key: nothing stands between QEMU and its
//! terminal.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{fs, io};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::LaunchError;
use super::end::End;
use super::find::Qemu;
use super::signals::Signals;
use crate::cli::{CommandLine, Options};
use crate::monitor::Channel;
use crate::sys::{self, Child, Detached, Inheritance};
use crate::terminal::Destination;
use crate::watch::{Desk, Observer, Plan, Question, Sources, Subject};

/// Let QEMU take our place, with a companion beside it. Returns in the
/// companion, once QEMU has ended, and where QEMU could not be executed.
pub fn start(
    qemu: &Qemu,
    words: &[OsString],
    line: &CommandLine,
    inheritance: &Inheritance,
    options: &Options,
) -> Result<End, LaunchError> {
    let mut command = Command::new(&qemu.path);
    command.arg0(&qemu.argv0);
    let mut kept = Vec::new();
    // Without a companion QEMU still runs; only the log can't be had.
    match Channel::open().and_then(|channel| Ok((channel, sys::pidfd(Pid::this())?))) {
        Ok((mut channel, pidfd)) => {
            let original = Pid::this();
            let inherited = std::mem::take(&mut channel.inherited);
            let words = channel.words.clone();
            match sys::detach() {
                Ok(Detached::Companion) => {
                    drop(inherited);
                    // There is nobody to tell of a failure.
                    let _ = accompany(original, pidfd, channel, line, inheritance, options);
                    return Ok(End::Exited(0));
                }
                Ok(Detached::Original) => {
                    command.args(words);
                    kept = inherited;
                }
                Err(error) => crate::trace!("no companion: {error}"),
            }
        }
        Err(error) => crate::trace!("no companion: {error}"),
    }
    command.args(words);
    let inheritance = inheritance.clone();
    sys::prepare(&mut command, Child { inheritance, stdin: None, kept, parent: None });
    Err(LaunchError::Exec(qemu.path.clone().into(), command.exec()))
}

/// The companion's life: answer until QEMU ends.
fn accompany(
    qemu: Pid,
    pidfd: OwnedFd,
    channel: Channel,
    line: &CommandLine,
    inheritance: &Inheritance,
    options: &Options,
) -> io::Result<()> {
    let (line, options) = from_anywhere(line, options);
    let mut signals = Signals::catch_questions()?;
    let _ = nix::sys::prctl::set_name(c"qemu-logbuf");
    let plan = Plan::new(&options);
    let stderr = stderr_of(qemu, &plan);
    // Some may be among the descriptors that are let go.
    let sources = Sources::new(&line, &options);
    let_go(inheritance, &stderr)?;
    SigSet::empty().thread_set_mask()?;
    crate::trace!("companion of {qemu}");
    let observer = Observer::new(sources, Ok(channel), qemu, &options).beside(qemu);
    let plan = plan.beside(qemu, stderr.clone());
    let mut desk = Desk::open(observer, plan)?;
    loop {
        let [asked, ended, done, monitor] = {
            let mut fds = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(desk.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(desk.monitor_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            [0, 1, 2, 3].map(|at| fds.get(at).and_then(PollFd::any).unwrap_or(false))
        };
        if asked && signals.asked() {
            desk.ask(Question {
                subject: Subject::Log,
                destination: stderr.clone(),
                for_all: None,
            });
        }
        if done {
            desk.collect();
        }
        if monitor {
            desk.drain_monitor();
        }
        if ended {
            // The status is QEMU's: nobody waits for us.
            let _ = desk.finish(false);
            return Ok(());
        }
    }
}

/// Where to report: QEMU's standard error, borrowed when it is needed. Only our
/// own copy leads there where QEMU's end is to be reported, since there is
/// nobody to borrow from then, and on a host that lets nobody but a parent
/// trace a process (Yama).
fn stderr_of(qemu: Pid, plan: &Plan) -> Destination {
    match sys::descriptor_of(qemu, 2) {
        _ if plan.needs_the_last_words() => Destination::Stderr,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Destination::Stderr,
        _ => Destination::StderrOf(qemu),
    }
}

/// Keep nothing of the caller's open that is not needed: it may wait for an
/// end of file, or for a directory to be free.
fn let_go(inheritance: &Inheritance, stderr: &Destination) -> io::Result<()> {
    inheritance.close_descriptors();
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    if *stderr != Destination::Stderr {
        nix::unistd::dup2_stderr(&null)?;
    }
    std::env::set_current_dir("/")
}

/// The user's file names, good in any directory.
fn from_anywhere(line: &CommandLine, options: &Options) -> (CommandLine, Options) {
    let absolute = |path: &mut Option<PathBuf>| {
        if let Some(path) = path
            && let Ok(absolute) = std::path::absolute(&*path)
        {
            *path = absolute;
        }
    };
    let (mut line, mut options) = (line.clone(), options.clone());
    absolute(&mut line.kernel);
    absolute(&mut options.vmlinux);
    absolute(&mut options.output);
    (line, options)
}
