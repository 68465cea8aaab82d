//! What can be said of a guest by the names of its kernel.
//!
//! Each source of names is consulted in turn; the first that is the guest's
//! own settles the answer, and what was wrong with those before it stands
//! above the log as a warning.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::sources::Sources;
use crate::arch::Arch;
use crate::guest::{AddressRule, Cpu, Memory, ReadError, View};
use crate::kernel::identity::{REACH, each_banner};
use crate::kernel::scan::{self, Progress, scan};
use crate::kernel::search::{Attempt, Role};
use crate::kernel::{
    Identity, LocateError, Names, Source, banner, identify, kallsyms, locate, open_found,
};
use crate::printk::{self, LogBuffer, salvage};
use crate::report::{Report, Verdict};

/// What one source of names had to say.
enum Word {
    /// The answer.
    Settled(Verdict),
    /// These names are not the guest's, or lead nowhere; why.
    Refused(String),
}

/// What a guest can be asked.
pub(super) struct Guest<'a> {
    /// Its memory.
    pub(super) memory: &'a dyn Memory,
    /// Its first processor, where QEMU tells.
    pub(super) cpu: Option<Cpu>,
}

/// The report by the first source of names that is the guest's, or, where
/// none is, by what can be recognised in its memory.
///
/// # Errors
/// As guest memory fails.
pub(super) fn consult(
    guest: &Guest<'_>,
    sources: &mut Sources,
    progress: Progress<'_>,
) -> Result<Report, ReadError> {
    let mut warnings = Vec::new();
    let mut number = 0;
    while let Some(Attempt { path, role, result }) = sources.get(number) {
        number += 1;
        let names = match result {
            Ok(candidate) => &candidate.names,
            Err(error) => {
                // What QEMU loads need not have symbols; what the user named
                // should.
                if *role == Role::Given {
                    warnings.push(format!("{}: {error}", path.display()));
                }
                continue;
            }
        };
        // A kernel without CONFIG_KALLSYMS_ALL knows its functions only.
        if locate_name(names).is_none() {
            if *role == Role::Given {
                let (path, why) = (path.display(), LocateError::NoName);
                warnings.push(format!("{path} does not lead to the log: {why}"));
            }
            continue;
        }
        let arch = names.arch.unwrap_or(Arch::PPC64LE);
        match guest.by_names(arch, path, names)? {
            Word::Settled(verdict) => {
                let mut report = report_of(verdict, arch, names);
                if report.kernel.is_none() && !matches!(report.verdict, Verdict::NotEntered { .. })
                {
                    report.kernel = guest.banner()?;
                }
                report.warnings = warnings;
                return Ok(report);
            }
            Word::Refused(why) => warnings.push(why),
        }
    }
    let mut report = match guest.by_its_kallsyms()? {
        Some(report) => report,
        None => guest.by_scan(progress)?,
    };
    report.warnings = warnings;
    Ok(report)
}

/// Report what the names of a kernel led to.
fn report_of(verdict: Verdict, arch: Arch, names: &Names) -> Report {
    let mut report = Report::new(verdict);
    report.kernel.clone_from(&names.banner);
    report.arch = Some(arch);
    report.source = Some(names.source.clone());
    report
}

impl Guest<'_> {
    /// What the names of one file, of a kernel compiled for `arch`, say.
    fn by_names(&self, arch: Arch, path: &Path, names: &Names) -> Result<Word, ReadError> {
        let (rule, displacement) = match identify(self.memory, arch, names)? {
            Identity::Here { rule, displacement } => (rule, displacement),
            Identity::Loaded { .. } => return Ok(Word::Settled(self.not_entered(""))),
            Identity::Absent => {
                return Ok(Word::Settled(self.not_entered("; no kernel is loaded yet")));
            }
            Identity::Other(guests) => return Ok(Word::Refused(stale(path, names, &guests))),
        };
        let view = View::new(self.memory, arch, rule);
        let buffer = match locate(&view, names, displacement) {
            Ok(buffer) => buffer,
            Err(error) => {
                let path = path.display();
                return Ok(Word::Refused(format!("{path} does not lead to the log: {error}")));
            }
        };
        let verdict = read(&buffer, &view)?;
        if matches!(verdict, Verdict::EnteredSilent { .. })
            && self.is_outside(rule, displacement, names)
        {
            // Loaded where it will run (Book E, 32-bit boards), so that its
            // empty log alone does not tell.
            return Ok(Word::Settled(self.not_entered("")));
        }
        Ok(Word::Settled(verdict))
    }

    /// What the kernel's own names in its memory say, where it keeps any.
    fn by_its_kallsyms(&self) -> Result<Option<Report>, ReadError> {
        let Some(found) = kallsyms::find(&Low::of(self.memory))? else { return Ok(None) };
        let names = found.guest_names();
        // Without CONFIG_KALLSYMS_ALL it knows functions only.
        if locate_name(&names).is_none() {
            return Ok(None);
        }
        Ok(match self.by_names(found.arch(), Path::new("kallsyms"), &names)? {
            Word::Settled(verdict) => Some(report_of(verdict, found.arch(), &names)),
            Word::Refused(_) => None,
        })
    }

    /// What can be recognised without any names.
    fn by_scan(&self, progress: Progress<'_>) -> Result<Report, ReadError> {
        let outcome = scan(self.memory, progress)?;
        let found = match outcome.verdict {
            scan::Verdict::Live(found) => found,
            scan::Verdict::OnlyPristine(_) => return Ok(Report::new(self.not_entered(""))),
            scan::Verdict::Nothing => {
                let detail = "; no log of any format is in memory";
                return Ok(Report::new(self.not_entered(detail)));
            }
        };
        let view = View::new(self.memory, found.arch, found.rule);
        let verdict = match (open_found(&view, &found.kind), &found.kind) {
            (Ok(Some(buffer)), _) => read(&buffer, &view)?,
            (Ok(None), &scan::Kind::Blocks { data, size, .. }) => {
                match salvage::text_ring(&view, data, size) {
                    Ok(log) => Verdict::Log(log),
                    Err(error) => undecodable(error)?,
                }
            }
            (Ok(None), _) => self.not_entered("; no log of any format is in memory"),
            (Err(error), _) => undecodable(error)?,
        };
        let mut report = Report::new(verdict);
        report.arch = Some(found.arch);
        report.source = Some(Source::Scan);
        report.kernel = self.banner()?;
        Ok(report)
    }

    /// What the kernel in memory says of itself.
    fn banner(&self) -> Result<Option<Vec<u8>>, ReadError> {
        let mut banner = None;
        each_banner(self.memory, &mut |_, text| {
            banner = Some(text.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(banner)
    }

    /// That no kernel runs yet, and where the processor is instead.
    fn not_entered(&self, more: &str) -> Verdict {
        let at = match &self.cpu {
            Some(cpu) => format!("CPU {} is in firmware at {:#x}", cpu.index, cpu.nip),
            None => "the CPU is in firmware".to_owned(),
        };
        Verdict::NotEntered { detail: format!("{at}{more}") }
    }

    /// Whether the processor is known to be outside of the kernel.
    fn is_outside(&self, rule: AddressRule, displacement: u64, names: &Names) -> bool {
        let real = |name| rule.real(names.address(name)?.checked_add(displacement)?);
        let start = real("_stext").or_else(|| real("_text"));
        let (Some(cpu), Some(start), Some(end)) = (&self.cpu, start, real("_end")) else {
            return false;
        };
        // In real mode, which begins a kernel, the address is the real one.
        let at = rule.real(cpu.nip).unwrap_or(cpu.nip);
        !(start..end).contains(&at)
    }
}

/// The name by which the log would be found.
fn locate_name(names: &Names) -> Option<u64> {
    ["prb", "log_next_idx", "log_end"].iter().find_map(|name| names.address(name))
}

/// The memory that a kernel's image can be in: searching the rest for it
/// takes long, and finds nothing.
struct Low<'a> {
    memory: &'a dyn Memory,
    ram: Vec<Range<u64>>,
}

impl<'a> Low<'a> {
    fn of(memory: &'a dyn Memory) -> Self {
        let below = |range: &Range<u64>| range.start..range.end.min(REACH);
        let ram = memory.ram().iter().map(below).filter(|range| !range.is_empty()).collect();
        Self { memory, ram }
    }
}

impl Memory for Low<'_> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(real, buf)
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}

/// All that a log buffer holds, or that it holds nothing.
fn read(buffer: &LogBuffer, view: &View<'_>) -> Result<Verdict, ReadError> {
    match buffer.read(view) {
        Ok(log) if log.entries.is_empty() => {
            Ok(Verdict::EnteredSilent { format: Some(buffer.format()) })
        }
        Ok(log) => Ok(Verdict::Log(log)),
        Err(error) => undecodable(error),
    }
}

/// A log that was found and could not be decoded.
fn undecodable(error: printk::Error) -> Result<Verdict, ReadError> {
    match error {
        printk::Error::Read(error) => Err(error),
        error => Ok(failed(format!("the log could not be read: {error}"), "ask again")),
    }
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
