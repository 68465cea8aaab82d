//! The real QEMU: find it, start it, pass on its end.

#![forbid(unsafe_code)]

mod companion;
mod end;
mod find;
mod session;
mod signals;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::Pid;

pub use end::End;
pub use find::{NotFound, Qemu, find};

use crate::cli::{CommandLine, KeySequence, Options, QEMU_KEYS};
use crate::monitor::{Channel, StdioUse, channel};
use crate::sys::{self, Child, Inheritance};
use crate::terminal::{Keys, Modes, Relay, is_terminal};
use crate::watch::{Desk, Observer, Plan, Sources, hold};

use session::Session;
use signals::Signals;

/// Carried only across an exec of QEMU in our place: the process id, by which
/// a wrapper that leads back to us is recognised.
const EXEC_GUARD: &str = "QEMU_LOGBUF_EXEC";

/// Why QEMU could not be started, with the exit status a shell would give.
#[derive(Debug)]
pub enum LaunchError {
    /// There is none.
    NotFound(NotFound),
    /// The one that was found leads back to us.
    Loop,
    /// The key the user chose is one of QEMU's own.
    Key(KeySequence),
    /// A verdict is wanted of a QEMU that leaves us.
    NoVerdict,
    /// It could not be executed.
    Exec(OsString, io::Error),
    /// The host refused something we cannot do without.
    Host(io::Error),
}

impl LaunchError {
    /// As a shell: 127 where there is nothing to run, 126 where it can't be.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Key(_) | Self::NoVerdict => 2,
            Self::NotFound(NotFound::Named(path)) if path.exists() => 126,
            Self::NotFound(_) | Self::Loop => 127,
            Self::Exec(_, error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec(..) => 126,
            Self::Host(_) => 125,
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(why) => write!(f, "{why}"),
            Self::Loop => f.write_str(
                "the QEMU found in PATH is a wrapper that leads back to qemu-logbuf; name the real one with --logbuf-qemu=PATH",
            ),
            Self::Key(key) => write!(
                f,
                "bad value for --logbuf-key (or QEMU_LOGBUF_KEY): {key} is QEMU's own; QEMU takes {} after its escape",
                String::from_utf8_lossy(QEMU_KEYS)
            ),
            Self::NoVerdict => f.write_str(
                "with -daemonize nobody stays to give the verdict that --logbuf-stop-on and --logbuf-expect are for; leave out -daemonize, or these",
            ),
            Self::Exec(path, error) => write!(
                f,
                "{} cannot be run: {}; name the real QEMU with --logbuf-qemu=PATH",
                path.to_string_lossy(),
                sys::reason(error)
            ),
            Self::Host(error) => write!(
                f,
                "cannot start QEMU: {}; free some descriptors or processes and try again",
                sys::reason(error)
            ),
        }
    }
}

impl std::error::Error for LaunchError {}

impl From<io::Error> for LaunchError {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

/// Run QEMU with `words`, as `argv0` and `options` say, to its end.
///
/// # Errors
/// [`LaunchError`] where it could not be started.
pub fn run(
    inheritance: Inheritance,
    argv0: &std::ffi::OsStr,
    words: &[OsString],
    mut options: Options,
) -> Result<End, LaunchError> {
    if channel::is_wrapped(words) || came_back() {
        return Err(LaunchError::Loop);
    }
    let qemu = find(argv0, options.qemu.as_deref()).map_err(LaunchError::NotFound)?;
    let line = CommandLine::read(words);
    crate::trace!("QEMU is {}; {line:?}", qemu.path.display());
    let keys = Keys::new(options.key, line.stdio, line.escape);
    if let Some(key) = keys.sequence().filter(|_| keys.are_qemus(line.stdio)) {
        return Err(LaunchError::Key(key));
    }
    let vmlinux = options.vmlinux.as_mut();
    let output = options.output.as_mut();
    let _held = [
        vmlinux.and_then(|path| hold(path, File::options().read(true))),
        output.and_then(|path| hold(path, File::options().append(true))),
    ];
    let plan = Plan::new(&options);
    if line.daemonize {
        if options.wants_verdict && plan.judges() {
            // QEMU's own status, of a start that went well, would be a good one.
            return Err(LaunchError::NoVerdict);
        }
        if !plan.is_idle() {
            warn(
                "with -daemonize nobody stays to look out for events; leave out -daemonize, or the --logbuf options",
            );
        }
        return Err(become_qemu(&qemu, words, inheritance));
    }
    if options.same_pid || line.libvirt {
        // Nobody goes by the status of libvirt's.
        if options.same_pid && plan.judges() {
            warn(
                "with --logbuf-same-pid the exit status is QEMU's own and no verdict; leave it out to have one",
            );
        }
        return companion::start(&qemu, words, &line, &inheritance, &options);
    }
    start(&qemu, words, &line, inheritance, &options, plan, keys)
}

/// Say something that is not worth a QEMU that is not started.
fn warn(what: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "qemu-logbuf: {what}");
}

/// Whether an exec of ours has come back to us.
fn came_back() -> bool {
    std::env::var(EXEC_GUARD).is_ok_and(|pid| pid == std::process::id().to_string())
}

/// Let QEMU take our place: it detaches itself, and a parent would only be in
/// its way.
fn become_qemu(qemu: &Qemu, words: &[OsString], inheritance: Inheritance) -> LaunchError {
    let mut command = Command::new(&qemu.path);
    command.arg0(&qemu.argv0).args(words).env(EXEC_GUARD, std::process::id().to_string());
    sys::prepare(&mut command, Child { inheritance, stdin: None, kept: Vec::new(), parent: None });
    LaunchError::Exec(qemu.path.clone().into(), command.exec())
}

/// QEMU follows its parent, and that is us: so we follow ours.
fn follow(parent: Pid) {
    let term = nix::sys::signal::Signal::SIGTERM;
    let _ = nix::sys::prctl::set_pdeathsig(term);
    if nix::unistd::getppid() != parent {
        let _ = nix::sys::signal::raise(term);
    }
}

/// Start QEMU as our child and stay until it ends.
fn start(
    qemu: &Qemu,
    words: &[OsString],
    line: &CommandLine,
    inheritance: Inheritance,
    options: &Options,
    plan: Plan,
    keys: Keys,
) -> Result<End, LaunchError> {
    let parent = nix::unistd::getppid();
    let held = sys::hold_signals()?;
    let modes = Modes::note();
    let on_terminal = inheritance.was_open(0) && is_terminal(0);
    let relay = on_terminal.then(|| Relay::open(line.reads_stdin_unseen)).and_then(|relay| {
        relay.inspect_err(|error| crate::trace!("no key can be watched for: {error}")).ok()
    });
    let (relay, stdin) = relay.unzip();
    // Without a channel QEMU still runs; only the log can't be had.
    let channel = Channel::open();
    let sources = Sources::new(line, options);

    let mut command = Command::new(&qemu.path);
    command.arg0(&qemu.argv0);
    let (channel, kept) = match channel {
        Ok(mut channel) => {
            command.args(&channel.words);
            let kept = std::mem::take(&mut channel.inherited);
            (Ok(channel), kept)
        }
        Err(error) => (Err(error), Vec::new()),
    };
    command.args(words);
    let child = Child { inheritance: inheritance.clone(), stdin, kept, parent: Some(Pid::this()) };
    sys::prepare(&mut command, child);
    let child =
        command.spawn().map_err(|error| LaunchError::Exec(qemu.path.clone().into(), error))?;
    // Drops our copies of what QEMU inherited.
    drop(command);
    let pid = Pid::from_raw(child.id().try_into().unwrap_or(0));
    crate::trace!("QEMU runs as {pid}");
    let signals = Signals::catch(&inheritance)?;
    modes.restore_on_crash()?;
    // Others may have the terminal too: what this QEMU leaves alone is theirs.
    let used = line.reads_stdin_unseen || line.stdio != StdioUse::None;
    if used {
        sys::terminal_is_used();
    }
    held.release(signals::NEEDED, signals::HELD)?;
    inheritance.close_descriptors();
    if line.exit_with_parent {
        follow(parent);
    }
    // So that `pkill -USR1 qemu-logbuf` works whatever the link is called.
    let _ = nix::sys::prctl::set_name(c"qemu-logbuf");

    let observer = Observer::new(sources, channel, pid, options);
    let desk = Desk::open(observer, plan)?;
    let mut session =
        Session { qemu: pid, signals, relay, mirrored: None, keys, help_until: None, desk };
    let end = session.run();
    let mirrored = session.mirrored.as_ref();
    if used || mirrored.is_some() || end.is_err() {
        modes.restore(mirrored);
    }
    Ok(end?)
}
