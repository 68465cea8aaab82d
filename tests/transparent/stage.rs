//! Where the cases play: directories in which `qemu-system-ppc64`, and QEMU
//! for other targets, is the real one, qemu-logbuf in front of it, or a fake
//! in either place.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::run::Case;

/// What QEMU emulates in the cases: ppc64 in nearly all.
pub const TARGETS: [&str; 3] = ["ppc64", "ppc", "x86_64"];

/// The name that QEMU goes by.
pub fn name(target: &str) -> String {
    format!("qemu-system-{target}")
}

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
    /// The stock kernel that hangs silently, where tests/run-all has put it.
    pub hung: Option<PathBuf>,
    real: PathBuf,
    wrapped: PathBuf,
    fake: PathBuf,
    scratch: PathBuf,
    _root: TempDir,
}

impl Stage {
    /// Set it up around `qemu`, a `qemu-system-ppc64`, and those beside it.
    pub fn set(qemu: &Path) -> io::Result<Self> {
        let root = tempfile::Builder::new().prefix("transparent").tempdir()?;
        let place = |directory: &str, file: &dyn Fn(&str) -> PathBuf| -> io::Result<PathBuf> {
            let directory = root.path().join(directory);
            std::fs::create_dir(&directory)?;
            for name in TARGETS.map(name) {
                let file = file(&name);
                if file.exists() {
                    symlink(file, directory.join(name))?;
                }
            }
            Ok(directory)
        };
        let ours = PathBuf::from(env!("CARGO_BIN_EXE_qemu-logbuf"));
        let fake = std::env::current_exe()?;
        let version = Command::new(qemu).arg("-version").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let scratch = root.path().join("cases");
        std::fs::create_dir(&scratch)?;
        Ok(Self {
            version: version.lines().next().unwrap_or("QEMU").replace("emulator ", ""),
            hung: crate::lab::stock_hung_in("register_early_udbg_console"),
            real: place("real", &|name| qemu.with_file_name(name))?,
            wrapped: place("wrapped", &|_| ours.clone())?,
            fake: place("fake", &|_| fake.clone())?,
            scratch,
            _root: root,
        })
    }

    /// The 7 of 7.2.22.
    pub fn major(&self) -> u32 {
        let number = self.version.split(' ').find_map(|word| word.split_once('.'));
        number.and_then(|(major, _)| major.parse().ok()).expect("QEMU tells its version")
    }

    /// Why a case cannot be run here, if it cannot.
    pub fn lacks(&self, case: &Case) -> Option<String> {
        let name = name(case.target);
        if case.on(self.major()).is_none() {
            return Some(format!("{} has no such thing", self.version));
        }
        if !self.real.join(&name).exists() {
            return Some(format!("no {name} beside the QEMU under test"));
        }
        (case.kernel && self.hung.is_none())
            .then(|| "no stock kernel (tests/run-all fetches it)".to_owned())
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
