//! Where the guest's kernel may have its names from: files, asked one after
//! another and only as far as needed.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::cli::{CommandLine, Options};
use crate::kernel::Candidate;
use crate::kernel::search::{Attempt, Request, Role, Search};
use crate::trace;

/// The files asked for names so far, and those yet to ask.
#[derive(Debug)]
pub struct Sources {
    attempts: Vec<Attempt>,
    search: Search,
    /// QEMU's kernel, where its name is of an inherited descriptor, which is
    /// about to be closed.
    _held: Option<File>,
}

impl Sources {
    /// The files that a command line and our options lead to; none is opened
    /// yet.
    #[must_use]
    pub fn new(line: &CommandLine, options: &Options) -> Self {
        let mut request = Request {
            given: options.vmlinux.clone(),
            kernel: line.kernel.clone(),
            ..Request::default()
        };
        // A pipe's bytes are QEMU's; opening one might even wait.
        let is_file = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.is_file());
        request.kernel = request.kernel.filter(is_file);
        let held = request.kernel.as_mut().and_then(|path| hold(path, File::options().read(true)));
        Self { attempts: Vec::new(), search: Search::new(request), _held: held }
    }

    /// What the user named, and the kernel of a QEMU that runs already.
    #[must_use]
    pub fn of(given: Option<PathBuf>, kernel: Option<PathBuf>) -> Self {
        let request = Request { given, kernel, ..Request::default() };
        Self { attempts: Vec::new(), search: Search::new(request), _held: None }
    }

    /// Ask files until one has names, so that they are at hand later, also if
    /// a new build takes the file's place.
    pub fn prepare(&mut self) {
        let mut number = 0;
        while self.get(number).is_some_and(|attempt| attempt.result.is_err()) {
            number += 1;
        }
    }

    /// The first names, if they were found already, and the file they are of;
    /// where there is no word to say of the files before it.
    pub fn at_hand(&self) -> Option<(&Path, &Candidate)> {
        let found = self.attempts.iter().position(|attempt| attempt.result.is_ok())?;
        let (before, found) = self.attempts.split_at_checked(found)?;
        let Attempt { path, result: Ok(candidate), .. } = found.first()? else { return None };
        let silent = before.iter().all(|attempt| attempt.role != Role::Given);
        silent.then_some((path, candidate))
    }

    /// What the file of that number gave; `None` after the last.
    pub fn get(&mut self, number: usize) -> Option<&Attempt> {
        while self.attempts.len() <= number {
            let attempt = self.search.next()?;
            let path = attempt.path.display();
            match &attempt.result {
                Ok(candidate) => trace!("{path}: {} names", candidate.names.symbols.len()),
                Err(error) => trace!("{path}: {error}"),
            }
            self.attempts.push(attempt);
        }
        self.attempts.get(number)
    }
}

/// Open a file once more that is named by an inherited descriptor, since those
/// are closed as soon as QEMU has them; its name from then on is in `path`.
pub fn hold(path: &mut PathBuf, how: &OpenOptions) -> Option<File> {
    if !["/proc/self/fd", "/dev/fd"].iter().any(|fds| path.starts_with(fds)) {
        return None;
    }
    let file = how.open(&*path).ok()?;
    *path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    Some(file)
}

/// Sources that the observer and the vigil take turns at.
#[derive(Clone, Debug)]
pub(super) struct SharedSources(Arc<Mutex<Sources>>);

impl SharedSources {
    pub(super) fn new(sources: Sources) -> Self {
        Self(Arc::new(Mutex::new(sources)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Sources> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sources, if nobody is at them.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Sources>> {
        match self.0.try_lock() {
            Ok(sources) => Some(sources),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::kernel::testing::Kernel;

    #[test]
    fn names_are_at_hand_of_the_first_file_that_has_any() {
        let tree = tempfile::tempdir().expect("a directory");
        let path = |name: &str| tree.path().join(name);
        for name in ["stripped", "vmlinux", "other"] {
            let mut kernel = Kernel::new(Arch::PPC64LE).with_banner("Linux version 6.1.0 (a@b)");
            kernel.local("prb", kernel.base + 0x140);
            kernel.stripped = name == "stripped";
            std::fs::write(path(name), kernel.build()).expect("written");
        }
        let first = |sources: &Sources| sources.at_hand().map(|(path, _)| path.to_owned());
        let mut sources = Sources::of(None, Some(path("stripped")));
        assert_eq!(first(&sources), None, "nothing was asked yet");
        sources.prepare();
        assert_eq!(first(&sources), Some(path("vmlinux")));
        let mut sources = Sources::of(Some(path("other")), Some(path("stripped")));
        while sources.get(sources.attempts.len()).is_some() {}
        assert!(sources.attempts.len() > 1, "a later one has names too");
        assert_eq!(first(&sources), Some(path("other")));
        let mut sources = Sources::of(Some(path("none")), Some(path("other")));
        sources.prepare();
        assert_eq!(first(&sources), None, "there is a word to say of what was named");
    }
}
