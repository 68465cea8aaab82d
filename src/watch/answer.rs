//! What can be said of a guest by the names of its kernel.
//!
//! Each source of names is consulted in turn; the first that is the guest's
//! own settles the answer, and what was wrong with those before it stands
//! above the log as a warning.

use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::guest::{Memory, ReadError, View};
use crate::kernel::{Identity, Names, SourceError, banner, identify, locate};
use crate::printk::{Log, LogBuffer};
use crate::report::{Report, Verdict};

/// A file that was asked for names, and what it gave.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) names: Result<Names, SourceError>,
}

/// What one source of names had to say.
enum Word {
    /// The answer.
    Settled(Verdict),
    /// These names are not the guest's, or lead nowhere; why.
    Refused(String),
}

/// The report by the first candidate that is the guest's.
///
/// # Errors
/// As guest memory fails.
pub(super) fn consult(memory: &dyn Memory, candidates: &[Candidate]) -> Result<Report, ReadError> {
    let mut warnings = Vec::new();
    for candidate in candidates {
        let names = match &candidate.names {
            Ok(names) => names,
            Err(error) => {
                warnings.push(format!("{}: {error}", candidate.path.display()));
                continue;
            }
        };
        let arch = names.arch.unwrap_or(Arch::PPC64LE);
        match by_names(memory, arch, &candidate.path, names)? {
            Word::Settled(verdict) => {
                let mut report = Report::new(verdict);
                report.kernel.clone_from(&names.banner);
                report.arch = Some(arch);
                report.source = Some(names.source.clone());
                report.warnings = warnings;
                return Ok(report);
            }
            Word::Refused(why) => warnings.push(why),
        }
    }
    Ok(Report::new(match warnings.pop() {
        Some(why) => failed(why, "name the right one with --logbuf-vmlinux=FILE"),
        None => failed(
            "no kernel symbols to find the log by".to_owned(),
            "name the vmlinux with --logbuf-vmlinux=FILE",
        ),
    }))
}

/// What the names of one file, of a kernel compiled for `arch`, say.
fn by_names(
    memory: &dyn Memory,
    arch: Arch,
    path: &Path,
    names: &Names,
) -> Result<Word, ReadError> {
    let not_entered = |detail: String| Ok(Word::Settled(Verdict::NotEntered { detail }));
    let (rule, displacement) = match identify(memory, arch, names)? {
        Identity::Here { rule, displacement } => (rule, displacement),
        Identity::Loaded { .. } => return not_entered("the CPU is in firmware".to_owned()),
        Identity::Absent => {
            return not_entered("the CPU is in firmware; no kernel is loaded yet".to_owned());
        }
        Identity::Other(guests) => return Ok(Word::Refused(stale(path, names, &guests))),
    };
    let view = View::new(memory, arch, rule);
    let buffer = match locate(&view, names, displacement) {
        Ok(buffer) => buffer,
        Err(error) => {
            return Ok(Word::Refused(format!(
                "{} does not lead to the log: {error}",
                path.display()
            )));
        }
    };
    Ok(Word::Settled(match buffer.read(&view) {
        Ok(log) if is_empty(&log) => {
            Verdict::EnteredSilent { format: Some(LogBuffer::format(&buffer)) }
        }
        Ok(log) => Verdict::Log(log),
        Err(crate::printk::Error::Read(error)) => return Err(error),
        Err(error) => failed(format!("the log could not be read: {error}"), "ask again"),
    }))
}

fn is_empty(log: &Log) -> bool {
    log.entries.is_empty()
}

/// A vmlinux that is not the guest's, in one sentence that names both.
fn stale(path: &Path, names: &Names, guests: &[u8]) -> String {
    let of = |banner: &[u8]| String::from_utf8_lossy(banner).into_owned();
    let ours = names.banner.as_deref().map(of).unwrap_or_default();
    let guests = of(guests);
    let release = |banner: &str| banner::release(banner.as_bytes()).unwrap_or("?").to_owned();
    if release(&ours) == release(&guests) {
        // Two builds of one release: what follows the compiler tells them apart.
        let build = |banner: &str| {
            banner.rfind(") #").map_or_else(|| banner.to_owned(), |at| banner[at + 2..].to_owned())
        };
        return format!(
            "{} is Linux {} {}, the guest runs another build of it, {}",
            path.display(),
            release(&ours),
            build(&ours),
            build(&guests)
        );
    }
    format!(
        "{} is Linux {}, the guest runs Linux {}",
        path.display(),
        release(&ours),
        release(&guests)
    )
}

/// A verdict that says what happened and what to do about it.
pub(super) fn failed(what: String, remedy: &str) -> Verdict {
    Verdict::Failed { what, remedy: remedy.to_owned() }
}
