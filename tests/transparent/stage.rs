//! Where the cases play: directories in which `qemu-system-ppc64` is the real
//! QEMU, qemu-logbuf in front of it, or a fake in either place.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The name everything goes by.
pub const NAME: &str = "qemu-system-ppc64";

/// How QEMU is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By itself.
    Bare,
    /// Through qemu-logbuf, which stays as its parent.
    Parent,
    /// Through qemu-logbuf, which becomes QEMU.
    SamePid,
}

impl Manner {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Parent => "as its parent",
            Self::SamePid => "with its pid",
        }
    }
}

/// Directories for PATH.
pub struct Stage {
    pub version: String,
    real: PathBuf,
    wrapped: PathBuf,
    fake: PathBuf,
    scratch: PathBuf,
    _root: TempDir,
}

impl Stage {
    /// Set it up around `qemu`.
    pub fn set(qemu: &Path) -> io::Result<Self> {
        let root = tempfile::Builder::new().prefix("transparent").tempdir()?;
        let place = |directory: &str, file: &Path| -> io::Result<PathBuf> {
            let directory = root.path().join(directory);
            std::fs::create_dir(&directory)?;
            symlink(file, directory.join(NAME))?;
            Ok(directory)
        };
        let version = Command::new(qemu).arg("-version").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let scratch = root.path().join("cases");
        std::fs::create_dir(&scratch)?;
        Ok(Self {
            version: version.lines().next().unwrap_or("QEMU").replace("emulator ", ""),
            real: place("real", qemu)?,
            wrapped: place("wrapped", Path::new(env!("CARGO_BIN_EXE_qemu-logbuf")))?,
            fake: place("fake", &std::env::current_exe()?)?,
            scratch,
            _root: root,
        })
    }

    /// The 7 of 7.2.22.
    pub fn major(&self) -> u32 {
        let number = self.version.split(' ').find_map(|word| word.split_once('.'));
        number.and_then(|(major, _)| major.parse().ok()).expect("QEMU tells its version")
    }

    /// PATH for a case.
    pub fn path(&self, manner: Manner, fake: bool) -> OsString {
        let qemu = if fake { &self.fake } else { &self.real };
        let mut path = OsString::new();
        if manner != Manner::Bare {
            path.push(&self.wrapped);
            path.push(":");
        }
        path.push(qemu);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// An empty working directory for a case.
    pub fn directory(&self, case: &str, manner: Manner) -> io::Result<PathBuf> {
        let name: String =
            case.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let directory = self.scratch.join(format!("{name}-{}", manner as u8));
        // A second try begins anew.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory)?;
        Ok(directory)
    }
}
