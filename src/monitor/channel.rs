//! The monitor added to QEMU, out of everybody's sight.
//!
//! It is read from a memfd by `-readconfig`, which, unlike `-qmp` and `-mon`,
//! leaves QEMU's own default monitor alone (qemu_parse_config_group only
//! fills in options, 5.2 to 11.1). Its transport is one end of a socketpair:
//! there is no path, and nobody else can connect.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};

/// The name of the chardev and monitor, and of the memfd.
const NAME: &str = "qemu-logbuf";

/// Our descriptors in QEMU begin here where the limit allows it, so that the
/// numbers QEMU hands out itself are those of a bare run.
const HIGH: u64 = 1000;

/// Our side of the channel, and what QEMU needs for its side.
pub struct Channel {
    /// Our end of the monitor.
    pub monitor: UnixStream,
    /// The file that QEMU can be told to write guest memory to.
    pub scratch: File,
    /// The number of that file in QEMU.
    pub scratch_in_qemu: RawFd,
    /// What QEMU inherits.
    pub inherited: Vec<OwnedFd>,
    /// The words to put before QEMU's own.
    pub words: [OsString; 2],
}

impl Channel {
    /// A channel for a QEMU about to be started.
    ///
    /// # Errors
    /// Where the host lacks sockets, memfds or `/proc`, or descriptors.
    pub fn open() -> io::Result<Self> {
        let (monitor, theirs) = UnixStream::pair()?;
        let theirs = high(theirs.as_fd())?;
        let mut scratch = scratch_file()?;
        let inherited_scratch = high(scratch.as_fd())?;
        let socket = theirs.as_raw_fd();
        write!(
            scratch,
            "[chardev \"{NAME}\"]\n  backend = \"socket\"\n  fd = \"{socket}\"\n\
             [mon \"{NAME}\"]\n  chardev = \"{NAME}\"\n  mode = \"control\"\n"
        )?;
        let scratch_in_qemu = inherited_scratch.as_raw_fd();
        let path = format!("/proc/self/fd/{scratch_in_qemu}");
        // Without /proc QEMU could not read it and would not start.
        std::fs::metadata(&path)?;
        Ok(Self {
            monitor,
            scratch,
            scratch_in_qemu,
            inherited: vec![theirs, inherited_scratch],
            words: ["-readconfig".into(), path.into()],
        })
    }
}

/// A file without a name, for QEMU to write guest memory to.
///
/// # Errors
/// Where the host lacks memfds.
pub fn scratch_file() -> io::Result<File> {
    Ok(memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?.into())
}

/// A copy of a descriptor under a high number.
fn high(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
    let lowest = RawFd::try_from(HIGH.min(limit.saturating_sub(8))).unwrap_or(3).max(3);
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    Ok(crate::sys::own(number))
}

/// Whether a command line already holds a channel of ours: then the QEMU that
/// was started is a wrapper, perhaps one that adds words in front, that led
/// back here.
#[must_use]
pub fn is_wrapped(words: &[OsString]) -> bool {
    words.windows(2).any(|pair| {
        pair[0] == "-readconfig"
            && pair[1].to_str().is_some_and(|path| {
                path.starts_with("/proc/self/fd/")
                    && std::fs::read_link(path).is_ok_and(|target| {
                        target.to_string_lossy().starts_with(&format!("/memfd:{NAME}"))
                    })
            })
    })
}
