//! A report on a QEMU that was not started by us, over the QMP socket it has.
//!
//! The socket is used as any client would, for questions only, and left
//! again: QEMU and guest stay as they were. (Where its memory may not be read,
//! QEMU is lent a file meanwhile.) QEMU speaks to one client at a time, so one
//! that is at it already keeps us out.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use serde_json::json;

use super::observer::Observer;
use super::plan::Plan;
use super::question::{Question, Subject};
use super::sources::Sources;
use super::vigil::Vigil;
use crate::cli::{Options, fields, property};
use crate::monitor::{self, Monitor};
use crate::sys::reason;
use crate::terminal::Destination;
use crate::trace;

/// How long QEMU may take for its greeting.
const GREETING: Duration = Duration::from_secs(3);

/// The exit status of a program ended by SIGINT, as a shell has it.
const INTERRUPTED: i32 = 130;

/// Why there is no report.
#[derive(Debug)]
enum AttachError {
    /// There is no such process, or its command line can't be read.
    Process(i32, std::io::Error),
    /// It is a launcher of ours.
    Ours(i32),
    /// It has no QMP socket with a path.
    NoSocket(i32),
    /// The socket can't be connected to.
    Connect(PathBuf, std::io::Error),
    /// Nobody answers there.
    Silent(PathBuf),
    /// Whoever answers is no QEMU, or leaves.
    Monitor(PathBuf, monitor::Error),
    /// The host refused something we cannot do without.
    Host(std::io::Error),
    /// It ended, and no kernel had come.
    NoKernel,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid, error) if error.kind() == std::io::ErrorKind::NotFound => write!(
                f,
                "there is no process {pid}; name QEMU's with --logbuf-attach, or its QMP socket"
            ),
            Self::Process(pid, error) => write!(
                f,
                "process {pid} cannot be looked at: {}; name its QMP socket with --logbuf-attach",
                reason(error)
            ),
            Self::Ours(pid) => write!(
                f,
                "process {pid} is qemu-logbuf itself; run kill -USR1 {pid} for a report from it"
            ),
            Self::NoSocket(pid) => write!(
                f,
                "process {pid} has no QMP socket; QEMU needs -qmp unix:PATH,server=on,wait=off for that"
            ),
            Self::Connect(path, error) => {
                let why = reason(error);
                write!(
                    f,
                    "{} cannot be connected to: {why}; name the -qmp socket of a QEMU that runs",
                    path.display()
                )
            }
            Self::Silent(path) => write!(
                f,
                "nobody answers at {}; QEMU speaks to one QMP client at a time, so end the other one, or give QEMU a second -qmp",
                path.display()
            ),
            Self::Host(error) => {
                write!(f, "cannot follow: {}; free some descriptors and try again", reason(error))
            }
            Self::NoKernel => f.write_str(
                "QEMU ended, and no kernel had printed anything; attach to it while one does",
            ),
            Self::Monitor(path, error) => {
                write!(
                    f,
                    "{} is no QMP socket of QEMU's: {error}; name another one",
                    path.display()
                )
            }
        }
    }
}

/// Report on the QEMU that `target` names, by its QMP socket's path or its
/// process id, to standard output or where the options say; or follow its log
/// until it ends. Whether there was a log.
///
/// # Errors
/// Where that QEMU cannot be asked, in one sentence.
pub fn attach(target: &OsStr, options: &Options) -> Result<bool, Box<dyn fmt::Display>> {
    // Nothing needs to be undone, and a report is written in one piece.
    let _ = ctrlc::set_handler(|| std::process::exit(INTERRUPTED));
    let mut observer =
        connect(target, options).map_err(|error| -> Box<dyn fmt::Display> { Box::new(error) })?;
    // Who asks every launcher by its name does not mean this one.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::default());
    observer.prepare();
    observer.lend_file();
    let done = if options.follow.is_some() {
        follow(&observer, options)
    } else {
        let destination = Destination::Stdout;
        Ok(observer.answer(&Question { subject: Subject::Log, destination, for_all: None }))
    };
    observer.take_file_back();
    done.map_err(|error| -> Box<dyn fmt::Display> { Box::new(error) })
}

/// Show the log's records from the first on, and each as it is printed, until
/// QEMU ends or nobody reads them any more.
fn follow(observer: &Observer, options: &Options) -> Result<bool, AttachError> {
    let host = AttachError::Host;
    let (bell, desk) = UnixStream::pair().map_err(host)?;
    bell.set_nonblocking(true).map_err(host)?;
    let Some(access) = observer.access() else { return Ok(false) };
    // Nobody gives orders, and nobody asked for findings.
    let (_orders, taken) = channel();
    let (findings, _found) = channel();
    let vigil = Vigil::new(Plan::following(options), access, (taken, bell), (findings, desk));
    if vigil.run() { Ok(true) } else { Err(AttachError::NoKernel) }
}

fn connect(target: &OsStr, options: &Options) -> Result<Observer, AttachError> {
    let pid = target.to_str().and_then(|text| text.parse::<i32>().ok());
    let paths = match pid.filter(|pid| *pid > 0) {
        Some(pid) => sockets(pid)?,
        None => vec![PathBuf::from(target)],
    };
    let mut failed = AttachError::NoSocket(pid.unwrap_or_default());
    for path in paths {
        match open(&path) {
            Ok((mut monitor, socket)) => {
                let qemu = getsockopt(&socket, sockopt::PeerCredentials).ok();
                let qemu = qemu.map(|peer| peer.pid()).filter(|pid| *pid > 0).or(pid);
                let kernel = kernel(&mut monitor, qemu);
                trace!("attached to {} of {qemu:?}, kernel {kernel:?}", path.display());
                let sources = Sources::of(options.vmlinux.clone(), kernel);
                return Ok(Observer::attached(sources, monitor, socket, qemu, options));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Connect to the socket at `path`, and see QEMU's greeting.
fn open(path: &Path) -> Result<(Monitor, UnixStream), AttachError> {
    let connect = |error| AttachError::Connect(path.to_owned(), error);
    let socket = UnixStream::connect(path).map_err(connect)?;
    let second = socket.try_clone().map_err(connect)?;
    match Monitor::connect(socket, Instant::now() + GREETING) {
        Ok(monitor) => Ok((monitor, second)),
        Err(monitor::Error::Silent) => Err(AttachError::Silent(path.to_owned())),
        Err(error) => Err(AttachError::Monitor(path.to_owned(), error)),
    }
}

/// The kernel file that QEMU was given, as we can open it.
fn kernel(monitor: &mut Monitor, qemu: Option<i32>) -> Option<PathBuf> {
    let arguments = json!({ "path": "/machine", "property": "kernel" });
    let answer = monitor.execute("qom-get", Some(arguments), Instant::now() + GREETING).ok()?;
    let name = answer.as_str().filter(|name| !name.is_empty())?;
    let path = Path::new(name);
    let Some(qemu) = qemu else { return Some(path.to_owned()).filter(|path| path.is_file()) };
    seen_by(qemu, path).into_iter().find(|path| path.is_file())
}

/// The paths under which we may see what process `pid` calls `path`.
fn seen_by(pid: i32, path: &Path) -> Vec<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    for own in ["/proc/self/fd", "/dev/fd"] {
        if let Ok(number) = path.strip_prefix(own) {
            return vec![process.join("fd").join(number)];
        }
    }
    match path.strip_prefix("/") {
        // In a chroot or a mount namespace of its own it is another file.
        Ok(below) => {
            let own = process.join("root").join(below);
            if is_same(&own, path) {
                return vec![path.to_owned()];
            }
            vec![own, path.to_owned()]
        }
        Err(_) => vec![process.join("cwd").join(path)],
    }
}

/// Whether two paths lead to one file.
fn is_same(a: &Path, b: &Path) -> bool {
    let file = |path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    file(a).is_some() && file(a) == file(b)
}

/// The sockets on which QEMU, running as `pid`, takes QMP clients.
fn sockets(pid: i32) -> Result<Vec<PathBuf>, AttachError> {
    let process = |error| AttachError::Process(pid, error);
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(process)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim() == "qemu-logbuf" {
        return Err(AttachError::Ours(pid));
    }
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let paths = qmp_paths(&words);
    if paths.is_empty() {
        return Err(AttachError::NoSocket(pid));
    }
    let exists = |path: &PathBuf| path.exists();
    Ok(paths
        .into_iter()
        .map(|path| seen_by(pid, &path).into_iter().find(exists).unwrap_or(path))
        .collect())
}

/// The paths of the QMP sockets that a command line of QEMU's names.
fn qmp_paths(words: &[&[u8]]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut chardevs = Vec::new();
    let mut controls = Vec::new();
    for pair in words.windows(2) {
        let &[option, value] = pair else { continue };
        let Some(option) = option.strip_prefix(b"-") else { continue };
        let fields = fields(value);
        let property = |name: &[u8]| property(value, name);
        match option.strip_prefix(b"-").unwrap_or(option) {
            b"qmp" | b"qmp-pretty" => {
                paths.extend(
                    fields.first().and_then(|first| first.strip_prefix(b"unix:")).map(path),
                );
            }
            b"chardev" if fields.first().is_some_and(|kind| kind == b"socket") => {
                if let (Some(id), Some(name)) = (property(b"id"), property(b"path")) {
                    chardevs.push((id, path(&name)));
                }
            }
            b"mon" if property(b"mode").is_some_and(|mode| mode == b"control") => {
                // The chardev comes first also without its name.
                let id = property(b"chardev");
                controls.extend(id.or_else(|| fields.first().cloned()));
            }
            _ => {}
        }
    }
    let of_mon = |id: &Vec<u8>| chardevs.iter().find(|(known, _)| known == id);
    paths.extend(controls.iter().filter_map(of_mon).map(|(_, path)| path.clone()));
    paths
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_tells_where_qmp_clients_are_taken() {
        let paths = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            qmp_paths(&words).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(paths("qemu -M pseries -nographic"), [""; 0]);
        assert_eq!(paths("qemu -qmp unix:/run/q,server=on,wait=off -m 1"), ["/run/q"]);
        assert_eq!(paths("qemu --qmp-pretty unix:a,,b,server -qmp tcp:x"), ["a,b"]);
        let mon = "qemu -chardev socket,id=c,path=/q,server=on -chardev socket,id=d,path=/r \
                   -mon chardev=c,mode=control -mon d,mode=readline";
        assert_eq!(paths(mon), ["/q"]);
        assert_eq!(paths("qemu -chardev socket,id=c,path=/q -mon c,mode=control"), ["/q"]);
    }

    #[test]
    fn what_another_process_names_is_looked_for_where_it_sees_it() {
        let seen = |name: &str| {
            let paths = seen_by(7, Path::new(name));
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let elsewhere = "/nonexistent/vmlinux";
        assert_eq!(seen(elsewhere), ["/proc/7/root/nonexistent/vmlinux", elsewhere]);
        let own = seen_by(std::process::id().cast_signed(), Path::new("/proc/version"));
        assert_eq!(own, [Path::new("/proc/version")]);
        assert_eq!(seen("vmlinux"), ["/proc/7/cwd/vmlinux"]);
        assert_eq!(seen("/proc/self/fd/9"), ["/proc/7/fd/9"]);
    }

    #[test]
    fn who_cannot_be_asked_is_named() {
        let said = |target: &str| match connect(OsStr::new(target), &Options::default()) {
            Ok(_) => panic!("attached"),
            Err(error) => error.to_string(),
        };
        assert!(said("/nonexistent/qmp").contains("/nonexistent/qmp cannot be connected to"));
        let own = std::process::id().to_string();
        assert!(said(&own).contains("has no QMP socket"), "{}", said(&own));
        // More than a process id goes to.
        assert!(said("2147483647").starts_with("there is no process 2147483647; "));
    }
}
