//! A real QEMU with our monitor: one socket, one file for both its
//! configuration and what it saves, no names.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qemu_logbuf::guest::LiveMemory;
use qemu_logbuf::guest::live::Scratch;
use qemu_logbuf::monitor::{Monitor, Shared};

/// Long enough for a loaded machine.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub struct Qemu {
    child: Child,
    pub monitor: Shared,
    scratch: File,
    _bytes: tempfile::NamedTempFile,
}

impl Qemu {
    /// QEMU without guest bytes of ours; `None`, and said so, without a QEMU.
    pub fn plain(arguments: &[&str]) -> Option<Self> {
        Self::start(arguments, None, Stdio::piped())
    }

    /// The same, with a standard output of the caller's.
    pub fn writing_to(stdout: Stdio, arguments: &[&str]) -> Option<Self> {
        Self::start(arguments, None, stdout)
    }

    /// QEMU without display or devices on its standard streams, and `bytes`
    /// at real address `at`.
    pub fn with_bytes(arguments: &[&str], at: u64, bytes: &[u8]) -> Option<Self> {
        let arguments: Vec<&str> =
            ["-display", "none", "-nodefaults"].iter().chain(arguments).copied().collect();
        Self::start(&arguments, Some((at, bytes)), Stdio::piped())
    }

    fn start(arguments: &[&str], bytes: Option<(u64, &[u8])>, stdout: Stdio) -> Option<Self> {
        let program =
            std::env::var_os("QEMU_LOGBUF_TEST_QEMU").unwrap_or_else(|| "qemu-system-ppc64".into());
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let theirs = OwnedFd::from(theirs);
        let file = memfd_create(c"logbuf", MFdFlags::MFD_CLOEXEC).expect("a memfd");
        let mut scratch = File::from(file);
        let (socket, memfd) = (theirs.as_raw_fd(), scratch.as_raw_fd());
        write!(
            scratch,
            "[chardev \"lb\"]\n  backend = \"socket\"\n  fd = \"{socket}\"\n\
             [mon \"lb\"]\n  chardev = \"lb\"\n  mode = \"control\"\n"
        )
        .expect("written");
        let mut loaded = tempfile::NamedTempFile::new().expect("a file");

        let mut command = Command::new(program);
        command.arg("-readconfig").arg(format!("/proc/self/fd/{memfd}")).args(arguments);
        if let Some((at, bytes)) = bytes {
            loaded.write_all(bytes).expect("written");
            let path = loaded.path().display();
            command.arg("-device").arg(format!("loader,file={path},addr={at:#x},force-raw=on"));
        }
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let inherit = move |fd: RawFd| -> std::io::Result<()> {
            // SAFETY: both descriptors are open in the parent until after the
            // spawn, and so in the child.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        };
        // SAFETY: between fork and exec only fcntl is called, which is
        // async-signal-safe; nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                inherit(socket)?;
                inherit(memfd)
            });
        }
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: no qemu-system-ppc64");
                return None;
            }
            Err(error) => panic!("QEMU: {error}"),
        };
        drop(theirs);
        let monitor = match Monitor::connect(ours, soon()) {
            Ok(monitor) => Shared::new(monitor),
            Err(error) => {
                let output = child.wait_with_output().expect("its output");
                panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
            }
        };
        Some(Self { child, monitor, scratch, _bytes: loaded })
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Its guest's memory, by all means.
    pub fn memory(&self) -> LiveMemory {
        let file = self.scratch.try_clone().expect("a second handle");
        // The child's descriptor has the number of ours.
        let scratch = Scratch::new(file, self.scratch.as_raw_fd());
        LiveMemory::new(self.monitor.clone(), Some(self.pid()), Some(scratch))
    }

    /// Its guest's memory, as of a QEMU that inherited nothing.
    pub fn memory_without_file(&self) -> LiveMemory {
        LiveMemory::new(self.monitor.clone(), Some(self.pid()), None)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("QEMU");
    }

    pub fn wait(&mut self) {
        self.child.wait().expect("an end");
    }

    /// End it; what it said on stdout and stderr, but for the warnings of
    /// TCG's pseries.
    pub fn quit(&mut self) -> (String, String) {
        self.monitor.lock().quit(soon()).expect("an end");
        assert!(self.child.wait().expect("an end").success());
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("text");
        self.child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("text");
        let said = err.lines().filter(|line| !line.contains("TCG doesn't support"));
        (out, said.collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Ours, by its id, and harmless if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
