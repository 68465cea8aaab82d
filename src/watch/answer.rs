//! What can be said of a guest by the names of its kernel.
//!
//! Each source of names is consulted in turn; the first that is the guest's
//! own settles the answer, and what was wrong with those before it stands
//! above the log as a warning.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::time::{Duration, Instant};

use super::history::{end, leave_out};
use super::places::{Code, Ground};
use super::sources::Sources;
use crate::arch::{self, Arch};
use crate::guest::{AddressRule, Cpu, Memory, ReadError, View};
use crate::kernel::banner::REACH;
use crate::kernel::console::{Printed, printed};
use crate::kernel::identity::{displacement_of, each_banner, usual_rule};
use crate::kernel::scan::{self, Progress, scan};
use crate::kernel::search::{Attempt, Role};
use crate::kernel::{
    Identity, KernelTypes, LocateError, Names, Source, banner, identify, kallsyms, locate,
    open_found, salvage_named,
};
use crate::printk::{self, LayoutSource, LogBuffer, salvage};
use crate::report::{Report, Scope, Verdict};

/// How long a kernel may take to move itself to where it runs.
const MOVES: Duration = Duration::from_millis(200);

/// What one source of names had to say.
enum Word {
    /// The answer.
    Settled(Box<Report>, Ground),
    /// These names are not the guest's, or lead nowhere; why. What they know
    /// of the kernel's place may be right all the same.
    Refused(String, Option<Ground>),
}

impl Word {
    /// A bare verdict on the kernel of these names, compiled for `arch`.
    fn settled(verdict: Verdict, names: &Names, ground: Ground, arch: Arch) -> Self {
        Self::Settled(Box::new(report_of(verdict, arch, names)), ground)
    }
}

/// What a guest can be asked.
pub(super) struct Guest<'a> {
    /// Its memory.
    pub(super) memory: &'a dyn Memory,
    /// Whether that is all of it, and it may yet change. A file may hold any
    /// part of a guest.
    pub(super) live: bool,
    /// Its first processor, where QEMU tells; asked only where it matters.
    pub(super) cpu: &'a dyn Fn() -> Option<Cpu>,
    /// Whether the log is wanted, and not only whose code it runs.
    pub(super) log: bool,
    /// Whether records that a console has printed are left out.
    pub(super) unseen: bool,
}

/// A report, and what is known of the kernel that it is about.
pub(super) struct Answer {
    pub(super) report: Report,
    pub(super) ground: Ground,
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
) -> Result<Answer, ReadError> {
    let mut warnings = Vec::new();
    let mut place = None;
    let mut number = 0;
    while let Some(Attempt { path, role, result }) = sources.get(number) {
        number += 1;
        let candidate = match result {
            Ok(candidate) => candidate,
            Err(error) => {
                // What QEMU loads need not have symbols; what the user named
                // should.
                if *role == Role::Given {
                    warnings.push(of_no_use(path, error));
                }
                continue;
            }
        };
        let names = &candidate.names;
        if locate_name(names).is_none() {
            // Functions alone (kallsyms without CONFIG_KALLSYMS_ALL).
            if *role == Role::Given {
                warnings.push(of_no_use(path, &LocateError::NoName));
            }
            continue;
        }
        let arch = names.arch.unwrap_or(Arch::PPC64LE);
        let code = Code::File(Box::new(candidate.clone()));
        match guest.by_names(arch, path, names, code)? {
            Word::Settled(report, ground) => {
                let mut report = *report;
                warnings.append(&mut report.warnings);
                report.warnings = warnings;
                return Ok(Answer { report, ground });
            }
            Word::Refused(why, ground) => {
                // A file may be named by its symbols and by its kallsyms.
                if !warnings.contains(&why) {
                    warnings.push(why);
                }
                place = place.or(ground);
            }
        }
    }
    let mut answer = guest.without_files(progress)?;
    answer.report.warnings = warnings;
    if let Some(place) = place {
        answer.ground = place.or_code(answer.ground.code);
    }
    Ok(answer)
}

/// The report by names that were found already, if they lead to a log. No file
/// is opened, and nothing but the guest is looked at.
pub(super) fn at_once(guest: &Guest<'_>, sources: &Sources) -> Option<Report> {
    let (path, candidate) = sources.at_hand()?;
    let names = &candidate.names;
    locate_name(names)?;
    let arch = names.arch.unwrap_or(Arch::PPC64LE);
    match guest.by_names(arch, path, names, Code::Unknown) {
        // What a warning stands above is worth a second look.
        Ok(Word::Settled(report, _)) if report.log().is_some() && report.warnings.is_empty() => {
            Some(*report)
        }
        Ok(_) | Err(_) => None,
    }
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
    fn by_names(
        &self,
        arch: Arch,
        path: &Path,
        names: &Names,
        code: Code,
    ) -> Result<Word, ReadError> {
        let settled = |verdict, ground| Ok(Word::settled(verdict, names, ground, arch));
        match identify(self.memory, arch, names)? {
            Identity::Here { rule, displacement } => {
                let ground = Ground::of(names, arch, rule, displacement, code);
                if self.log {
                    self.log_by_names(path, names, ground)
                } else {
                    settled(Verdict::Places, ground)
                }
            }
            Identity::Loaded { .. } if self.runs_another(arch) => {
                let path = path.display();
                let why = format!(
                    "the kernel of {path} lies in memory as it was loaded, but another one runs"
                );
                Ok(Word::Refused(why, None))
            }
            Identity::Loaded { real } => {
                // It may have begun where it was loaded (prom_init).
                let rule = usual_rule(arch, names);
                let displacement = displacement_of(names, rule, real).unwrap_or(0);
                let ground = Ground::of(names, arch, rule, displacement, code);
                settled(self.not_entered(""), ground)
            }
            Identity::Absent if !self.live => {
                let why = format!("the kernel of {} is not in this file", path.display());
                Ok(Word::Refused(why, None))
            }
            Identity::Absent => {
                let ground = Ground::unknown(arch, usual_rule(arch, names));
                let verdict = self.not_entered("no kernel is loaded yet");
                settled(verdict, ground)
            }
            Identity::Other(guests) => Ok(Word::Refused(stale(path, names, &guests), None)),
        }
    }

    /// The log of a kernel that is where its names say.
    fn log_by_names(&self, path: &Path, names: &Names, ground: Ground) -> Result<Word, ReadError> {
        let Ground { arch, rule, displacement, .. } = ground;
        let view = View::new(self.memory, arch, rule);
        let buffer = match self.locate(&view, names, displacement) {
            Ok(Some(buffer)) => buffer,
            Ok(None) => {
                let verdict = Verdict::EnteredSilent { format: None };
                return Ok(Word::settled(verdict, names, ground, arch));
            }
            Err(error) => {
                let path = path.display();
                let why = format!("{path} does not lead to the log: {error}");
                let Some(log) = salvage_named(&view, names, displacement) else {
                    return Ok(Word::Refused(why, Some(ground)));
                };
                let mut report = report_of(Verdict::Log(log), arch, names);
                report.warnings.push(format!("{error}; its text alone is shown"));
                return Ok(Word::Settled(Box::new(report), ground));
            }
        };
        let verdict = read(&buffer, &view)?;
        if matches!(verdict, Verdict::EnteredSilent { .. })
            && self.is_outside(rule, displacement, names)
        {
            // Loaded where it will run (Book E, 32-bit boards), so that its
            // empty log alone does not tell.
            return Ok(Word::settled(self.not_entered(""), names, ground, arch));
        }
        let mut report = report_of(verdict, arch, names);
        report.layout = buffer.layout();
        if report.kernel.is_none() {
            // A map does not hold it.
            let address = names.address("linux_banner").map(|at| at.wrapping_add(displacement));
            let mut bytes = [0; banner::LONGEST];
            if address.is_some_and(|address| view.read(address, &mut bytes).is_ok()) {
                report.kernel = banner::starting(&bytes).map(<[u8]>::to_vec);
            }
        }
        if self.unseen {
            leave_out_printed(&mut report, |next| {
                // Consoles go on printing what comes while this is read.
                printed(&view, names, displacement, next.saturating_add(1 << 16))
            });
        }
        Ok(Word::Settled(Box::new(report), ground))
    }

    /// The log buffer that names lead to. A kernel that is on its way to where
    /// it runs (`copy_and_flush`) has its banner there before its data; `None`
    /// where it takes long for that.
    fn locate(
        &self,
        view: &View<'_>,
        names: &Names,
        displacement: u64,
    ) -> Result<Option<LogBuffer>, LocateError> {
        let start = Instant::now();
        loop {
            let located = locate(view, names, displacement);
            if located.is_ok() || !self.live {
                return located.map(Some);
            }
            if start.elapsed() > MOVES {
                if self.is_on_its_way(view.rule(), displacement, names) {
                    return Ok(None);
                }
                // It may have arrived since.
                return locate(view, names, displacement).map(Some);
            }
            std::thread::sleep(MOVES / 20);
        }
    }

    /// What the guest itself has to say: by the names in its memory, where
    /// it keeps any that lead to the log, else by what can be recognised.
    fn without_files(&self, progress: Progress<'_>) -> Result<Answer, ReadError> {
        let found = kallsyms::find(&Low::of(self.memory))?;
        let Some(found) = found else { return self.by_scan(progress, Code::Unknown) };
        let (names, arch) = (found.guest_names(), found.arch());
        // Without CONFIG_KALLSYMS_ALL it knows functions only: these name
        // the places, and the log is for the scan to find.
        let leads = locate_name(&names).is_some() || !self.log;
        let code = Code::Guest(Box::new(found));
        if !leads {
            return self.by_scan(progress, code);
        }
        match self.by_names(arch, Path::new("kallsyms"), &names, code)? {
            Word::Settled(report, ground) => Ok(Answer { report: *report, ground }),
            Word::Refused(_, ground) => {
                let code = ground.map_or(Code::Unknown, |ground| ground.code);
                self.by_scan(progress, code)
            }
        }
    }

    /// What can be recognised without any names.
    fn by_scan(&self, progress: Progress<'_>, code: Code) -> Result<Answer, ReadError> {
        let unknown = || match &code {
            Code::Guest(kallsyms) => Ground::unknown(kallsyms.arch(), kallsyms.rule()),
            _ => Ground::unknown(Arch::PPC64LE, AddressRule::Linear64),
        };
        let bare = |verdict| Answer { report: Report::new(verdict), ground: unknown() };
        if !self.log {
            let mut answer = bare(Verdict::Places);
            answer.ground = answer.ground.or_code(code);
            return Ok(answer);
        }
        let outcome = scan(self.memory, progress)?;
        let found = match outcome.verdict {
            scan::Verdict::Live(found) => found,
            scan::Verdict::OnlyPristine(_) => return Ok(bare(self.not_entered(""))),
            scan::Verdict::Nothing if !self.live => {
                // What to do about it depends on what the file is.
                return Ok(bare(failed("no log of any format is in this file".to_owned(), "")));
            }
            scan::Verdict::Nothing => {
                return Ok(bare(self.not_entered("no log of any format is in memory")));
            }
        };
        let view = View::new(self.memory, found.arch, found.rule);
        let mut layout = LayoutSource::Known;
        let opened = open_found(&view, &found.kind, &KernelTypes::default());
        let verdict = match (opened, &found.kind) {
            (Ok(Some(buffer)), _) => {
                layout = buffer.layout();
                read(&buffer, &view)?
            }
            (Ok(None), &scan::Kind::Blocks { data, size, .. }) => {
                match salvage::text_ring(&view, data, size) {
                    Ok(log) => Verdict::Log(log),
                    Err(error) => undecodable(error)?,
                }
            }
            (Ok(None), _) => self.not_entered("no log of any format is in memory"),
            (Err(error), _) => undecodable(error)?,
        };
        let mut report = Report::new(verdict);
        report.arch = Some(found.arch);
        report.source = Some(Source::Scan);
        report.layout = layout;
        if self.unseen {
            leave_out_printed(&mut report, |_| Printed::Unknown("its names are not known"));
        }
        each_banner(self.memory, &mut |_, text| {
            report.kernel = Some(text.to_vec());
            ControlFlow::Break(())
        })?;
        let ground = Ground::unknown(found.arch, found.rule).or_code(code);
        Ok(Answer { report, ground })
    }

    /// That no kernel runs yet, and what else is known of that. Where the
    /// processors are instead is told by [`super::places`].
    fn not_entered(&self, detail: &str) -> Verdict {
        Verdict::NotEntered { detail: detail.to_owned() }
    }

    /// Whether the processor is in a kernel's linear map, translated, where a
    /// kernel that only lies where it was loaded cannot be: kexec went on to
    /// another. 32-bit firmware may be at such addresses too.
    fn runs_another(&self, arch: Arch) -> bool {
        let in_kernel = |cpu: &Cpu| cpu.translated() && !cpu.user() && cpu.nip >> 60 == 0xc;
        arch.word == arch::Word::W64 && (self.cpu)().as_ref().is_some_and(in_kernel)
    }

    /// Whether a kernel copies itself to where it runs at this moment, as
    /// copy_and_flush() does in real mode: its data is yet to come, and where
    /// its log will be lies what was loaded.
    fn is_on_its_way(&self, rule: AddressRule, displacement: u64, names: &Names) -> bool {
        // Book E has no real mode, and no copy.
        let copies = |cpu: Cpu| {
            cpu.real_mode() && !cpu.user() && names.holds(rule, displacement, cpu.nip) == Some(true)
        };
        rule == AddressRule::Linear64 && (self.cpu)().is_some_and(copies)
    }

    /// Whether the processor is known to be outside of the kernel.
    fn is_outside(&self, rule: AddressRule, displacement: u64, names: &Names) -> bool {
        let holds = |cpu: &Cpu| names.holds(rule, displacement, cpu.nip);
        (self.cpu)().as_ref().and_then(holds) == Some(false)
    }
}

/// Leave out of a report what `printed` says a console has printed, given the
/// number of the next record.
fn leave_out_printed(report: &mut Report, printed: impl FnOnce(u64) -> Printed) {
    let Verdict::Log(log) = &mut report.verdict else { return };
    match printed(end(log)) {
        Printed::Nothing => {}
        Printed::Before(seq) => leave_out(log, seq),
        Printed::Unknown(why) => {
            report.warnings.push(format!(
                "what the consoles have printed is not known, as {why}; all records are shown"
            ));
            return;
        }
    }
    report.scope = Scope::Unseen;
}

/// The name by which the log would be found.
fn locate_name(names: &Names) -> Option<u64> {
    ["prb", "log_next_idx", "log_end"].iter().find_map(|name| names.address(name))
}

/// The memory that a kernel's image can be in: searching the rest for it
/// takes long, and finds nothing.
pub(super) struct Low<'a> {
    memory: &'a dyn Memory,
    ram: Vec<Range<u64>>,
}

impl<'a> Low<'a> {
    pub(super) fn of(memory: &'a dyn Memory) -> Self {
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

/// A file named by the user that does not lead to the log, in one sentence.
fn of_no_use(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{}: {why}; name the guest's vmlinux with symbols, or its System.map", path.display())
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
            "{} is Linux {} {}, the guest runs another build of it, {}; name the guest's own vmlinux",
            path.display(),
            release(&ours),
            build(&ours),
            build(&guests)
        );
    }
    format!(
        "{} is Linux {}, the guest runs Linux {}; name the guest's own vmlinux",
        path.display(),
        release(&ours),
        release(&guests)
    )
}

/// A verdict that says what happened and what to do about it.
pub(super) fn failed(what: String, remedy: &str) -> Verdict {
    Verdict::Failed { what, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::guest::Image;
    use crate::kernel::{KernelTypes, names::Symbol};
    use crate::printk::craft::{Line, RingPlan, RingWriter};

    /// A guest that holds a kernel's image above where that would run.
    fn asked(cpu: Option<Cpu>) -> Word {
        let banner = b"Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";
        let mut bytes = vec![0; 0x2000];
        bytes[0x1000..0x1000 + banner.len()].copy_from_slice(banner);
        bytes[0x1000 + banner.len()] = b'\n';
        let memory = Image::new(0, vec![0; 0x10000]).with(0x40_0000, bytes);
        let symbol = |address| Symbol { address, size: 0 };
        let symbols = [
            ("linux_banner".to_owned(), symbol(0xc000_0000_0000_1000)),
            ("prb".to_owned(), symbol(0xc000_0000_0000_1800)),
        ];
        let names = Names {
            source: Source::Scan,
            arch: Some(Arch::PPC64LE),
            banner: Some(banner.to_vec()),
            symbols: symbols.into(),
            types: KernelTypes::default(),
        };
        let guest =
            Guest { memory: &memory, live: true, cpu: &|| cpu.clone(), log: true, unseen: false };
        guest.by_names(Arch::PPC64LE, Path::new("vmlinux"), &names, Code::Unknown).expect("read")
    }

    fn at(nip: u64, msr: u64) -> Option<Cpu> {
        Some(Cpu { index: 0, nip, lr: 0, ctr: 0, msr, gpr: [0; 32] })
    }

    #[test]
    fn a_kernel_that_only_lies_in_memory_does_not_speak_for_one_that_runs() {
        let is_not_entered = |word| matches!(word, Word::Settled(report, _) if matches!(report.verdict, Verdict::NotEntered { .. }));
        assert!(is_not_entered(asked(None)));
        assert!(is_not_entered(asked(at(0x40_1234, 1 << 63))), "prom_init");
        assert!(is_not_entered(asked(at(0x1fe0_0000, 1 << 63))), "firmware");
        let another = asked(at(0xc000_0000_0123_4568, 1 << 63 | 0x30));
        assert!(matches!(another, Word::Refused(why, _) if why.contains("another one runs")));
    }

    #[test]
    fn text_where_a_kernel_copies_itself_to_is_not_its_log() {
        const BASE: u64 = 0xc000_0000_0000_0000;
        let banner = b"Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";
        let mut bytes = vec![0; 0x10000];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0x1000, banner);
        put(0x1000 + banner.len(), b"\n");
        put(0x1808, &(BASE + 0x4000).to_le_bytes());
        put(0x1810, &0x1000_u32.to_le_bytes());
        put(0x4008, b"what lay there before, or a line of a kernel of an unknown kind");
        let memory = Image::new(0, bytes);
        let names = [
            ("linux_banner", 0x1000),
            ("prb", 0x1800),
            ("log_buf", 0x1808),
            ("log_buf_len", 0x1810),
            ("_stext", 0),
            ("_end", 0x10000),
        ];
        let names = Names {
            source: Source::Scan,
            arch: Some(Arch::PPC64LE),
            banner: Some(banner.to_vec()),
            symbols: names
                .map(|(name, at)| (name.to_owned(), Symbol { address: BASE + at, size: 0 }))
                .into(),
            types: KernelTypes::default(),
        };
        let verdict = |cpu: Option<Cpu>| {
            let cpu = || cpu.clone();
            let guest = Guest { memory: &memory, live: true, cpu: &cpu, log: true, unseen: false };
            let path = Path::new("vmlinux");
            match guest.by_names(Arch::PPC64LE, path, &names, Code::Unknown).expect("read") {
                Word::Settled(report, _) => report.verdict,
                Word::Refused(why, _) => panic!("{why}"),
            }
        };
        assert!(matches!(verdict(at(0x8000, 1 << 63)), Verdict::EnteredSilent { .. }));
        let running = at(BASE + 0x8000, 1 << 63 | 0x30);
        assert!(matches!(verdict(running), Verdict::Log(log) if log.entries.len() == 1));
    }

    /// A kernel whose data comes to its place after so many reads.
    struct Moving {
        before: Image,
        after: Image,
        reads: Cell<usize>,
    }

    impl Memory for Moving {
        fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            let left = self.reads.get();
            self.reads.set(left.saturating_sub(1));
            if left > 0 { &self.before } else { &self.after }.read(real, buf)
        }

        fn ram(&self) -> &[Range<u64>] {
            self.after.ram()
        }
    }

    #[test]
    fn a_kernel_that_moves_to_its_place_is_waited_for() {
        let mut ring = RingWriter::new(RingPlan::SMALL);
        ring.print(&Line::new("a"));
        let before = ring.sheet.image();
        ring.sheet.put_word(0, ring.prb());
        let symbol = Symbol { address: ring.sheet.address(0), size: 8 };
        let names = Names {
            source: Source::Scan,
            arch: Some(Arch::PPC64LE),
            banner: None,
            symbols: [("prb".to_owned(), symbol)].into_iter().collect(),
            types: KernelTypes::default(),
        };
        let memory = Moving { before, after: ring.sheet.image(), reads: Cell::new(4) };
        let located = |live| {
            let guest = Guest { memory: &memory, live, cpu: &|| None, log: true, unseen: false };
            let view = View::new(&memory, Arch::PPC64LE, AddressRule::Linear64);
            guest
                .locate(&view, &names, 0)
                .map(|buffer| buffer.expect("it is there").read(&view))
                .map(|log| log.map(|log| log.records().count()))
        };
        assert!(located(false).is_err(), "a file does not change");
        assert!(matches!(located(true), Ok(Ok(1))));
    }
}
