//! Finding the real QEMU behind the name we were started by.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The QEMU that is run when we are started under our own name.
const USUAL: &str = "qemu-system-ppc64";

/// Where execvp(3) looks where nobody has set PATH.
const USUAL_PATH: &str = "/bin:/usr/bin";

/// The QEMU to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// The file to exec.
    pub path: PathBuf,
    /// Its `argv[0]`: QEMU begins its messages with it.
    pub argv0: OsString,
}

/// Why there is no QEMU to run; each is one sentence with what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// Nothing of that name in PATH.
    Nothing(OsString),
    /// Only ourselves, under that name.
    OnlyUs(OsString, PathBuf),
    /// What the user named is not an executable file.
    Named(PathBuf),
    /// What the user named is ourselves.
    NamedUs(PathBuf),
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing(name) => write!(
                f,
                "no {0} in PATH; install QEMU (Debian: apt install {1}) or name it with --logbuf-qemu=PATH",
                name.to_string_lossy(),
                if name.as_bytes().starts_with(b"qemu-system-ppc") {
                    "qemu-system-ppc"
                } else {
                    "qemu-system"
                },
            ),
            Self::OnlyUs(name, path) => write!(
                f,
                "the only {} in PATH is qemu-logbuf itself ({}); install QEMU or name it with --logbuf-qemu=PATH",
                name.to_string_lossy(),
                path.display()
            ),
            Self::Named(path) => write!(
                f,
                "{} is not an executable file; name the real QEMU with --logbuf-qemu=PATH",
                path.display()
            ),
            Self::NamedUs(path) => write!(
                f,
                "{} is qemu-logbuf itself; name the real QEMU with --logbuf-qemu=PATH",
                path.display()
            ),
        }
    }
}

/// The QEMU meant by `argv0`: `named` by the user, or the first in PATH of
/// the name we go by that is not ourselves.
///
/// # Errors
/// [`NotFound`], as one sentence.
pub fn find(argv0: &OsStr, named: Option<&Path>) -> Result<Qemu, NotFound> {
    let under_its_name =
        Path::new(argv0).file_name().filter(|name| name.as_bytes().starts_with(b"qemu-system-"));
    let name = under_its_name.unwrap_or(OsStr::new(USUAL));
    // Started as QEMU, QEMU's own argv[0] is what the user typed; started as
    // ourselves, it is what the user would have typed.
    let argv0 = |otherwise: &OsStr| match under_its_name {
        Some(_) => argv0.to_owned(),
        None => otherwise.to_owned(),
    };
    let ourselves = Ourselves::new();
    if let Some(named) = named {
        let path = in_path(named.as_os_str()).next();
        let path = path.ok_or_else(|| NotFound::Named(named.to_owned()))?;
        if ourselves.is(&path) {
            return Err(NotFound::NamedUs(named.to_owned()));
        }
        return Ok(Qemu { argv0: argv0(named.as_os_str()), path });
    }
    let mut only_us = None;
    for path in in_path(name) {
        if ourselves.is(&path) {
            only_us.get_or_insert(path);
        } else {
            return Ok(Qemu { argv0: argv0(name), path });
        }
    }
    Err(match only_us {
        Some(path) => NotFound::OnlyUs(name.to_owned(), path),
        None => NotFound::Nothing(name.to_owned()),
    })
}

/// The executable files that `name` may mean, in the order of PATH.
fn in_path(name: &OsStr) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    let here = std::env::current_dir().unwrap_or_default();
    which::which_in_all(name, Some(path), here).into_iter().flatten()
}

/// Our own executable, to be told from QEMU's.
struct Ourselves {
    metadata: Option<Metadata>,
}

impl Ourselves {
    const EXE: &'static str = "/proc/self/exe";

    fn new() -> Self {
        Self { metadata: std::fs::metadata(Self::EXE).ok() }
    }

    /// Whether `path` leads to the file we run from, or to a copy of it.
    fn is(&self, path: &Path) -> bool {
        let (Some(ours), Ok(other)) = (&self.metadata, std::fs::metadata(path)) else {
            return false;
        };
        (ours.dev(), ours.ino()) == (other.dev(), other.ino())
            || (ours.len() == other.len() && same_bytes(Path::new(Self::EXE), path))
    }
}

/// Whether two files hold the same bytes; read in step, to the first that
/// differs.
fn same_bytes(a: &Path, b: &Path) -> bool {
    let (Ok(mut a), Ok(mut b)) = (File::open(a), File::open(b)) else {
        return false;
    };
    let (mut from_a, mut from_b) = ([0; 16384], [0; 16384]);
    loop {
        let Ok(len) = a.read(&mut from_a) else { return false };
        if len == 0 {
            return true;
        }
        if b.read_exact(&mut from_b[..len]).is_err() || from_a[..len] != from_b[..len] {
            return false;
        }
    }
}
