//! The guest's log kept in sight: found once, then looked at many times a
//! second at the cost of a few short reads.
//!
//! The kernel's banner, at its place, is what tells that the memory is still
//! that kernel's: it is read before and after every look, since a reset puts
//! the image over the log while it is being read.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Low;
use super::sources::SharedSources;
use crate::arch::{Arch, Word};
use crate::guest::{AddressRule, Cpu, Memory, ReadError, View};
use crate::kernel::identity::{displacement_of, each_banner, usual_rule};
use crate::kernel::scan::{self, scan};
use crate::kernel::{
    Identity, KernelTypes, Names, Source, banner, identify, kallsyms, locate, open_found,
};
use crate::printk::{Error, Format, Log, LogBuffer, Progress};
use crate::report::{Report, Verdict};

/// How long to wait before a search of all memory; doubled for each further
/// one, up to the second.
const SEARCH: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(16)];

/// What leads to the log of the kernel in sight.
#[derive(Clone, Debug)]
enum Way {
    Names { names: Arc<Names>, displacement: u64 },
    Recognised(scan::Kind, KernelTypes),
}

/// A kernel in the guest.
#[derive(Clone, Debug)]
struct Kernel {
    arch: Arch,
    rule: AddressRule,
    way: Way,
    source: Source,
    /// Its banner, and where it is by real address.
    banner: Option<(u64, Vec<u8>)>,
}

/// A kernel where it was loaded, from where it may have moved or not.
struct Loaded {
    names: Arc<Names>,
    /// Its banner's real address.
    banner: u64,
    rule: AddressRule,
    /// How far it is from where it was linked to.
    displacement: u64,
}

/// What a look showed.
#[derive(Debug)]
pub(super) enum Look {
    /// No kernel has been entered.
    Nothing,
    /// The kernel that was in sight is no more.
    Gone,
    /// What it was at the last look.
    Same(Console),
    /// There is more, or it has begun again.
    More {
        /// The entries from where was asked for on.
        log: Log,
        /// How far the kernel has come.
        progress: Progress,
        /// The log has begun again.
        again: bool,
        /// Whether a console is there.
        console: Console,
    },
}

/// Whether a console is registered in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console {
    Registered,
    None,
    /// The kernel's names do not tell.
    Unknown,
}

/// The search for a kernel, and the kernel in sight.
pub(super) struct Sight {
    sources: SharedSources,
    /// How many of them were tried.
    tried: usize,
    /// What the guest's kernel may have.
    names: Vec<Arc<Names>>,
    kernel: Option<Kernel>,
    /// The one that was in sight last, whose log may still be reported.
    former: Option<Kernel>,
    /// One that lies in memory as it was loaded.
    loaded: Option<Loaded>,
    search_at: Option<Instant>,
    pause: Duration,
}

impl Sight {
    /// Nothing in sight yet; `sources` may have the names that lead there.
    pub(super) const fn new(sources: SharedSources) -> Self {
        Self {
            sources,
            tried: 0,
            names: Vec::new(),
            kernel: None,
            former: None,
            loaded: None,
            search_at: None,
            pause: SEARCH[0],
        }
    }

    /// Try one more source of names; whether there was one.
    fn try_another(&mut self) -> bool {
        let mut sources = self.sources.lock();
        while let Some(attempt) = sources.get(self.tried) {
            self.tried += 1;
            if let Ok(candidate) = &attempt.result {
                self.names.push(Arc::new(candidate.names.clone()));
                return true;
            }
        }
        false
    }

    /// Whether there is a kernel in sight.
    pub(super) const fn is_found(&self) -> bool {
        self.kernel.is_some()
    }

    /// Forget the kernel in sight: the guest was reset.
    pub(super) fn forget(&mut self) {
        self.former = self.kernel.take().or(self.former.take());
        self.search_at = None;
        self.pause = SEARCH[0];
    }

    /// Look at the log from sequence number `from` on, unless it is as it was
    /// `before`. A kernel that is not at its place is searched for now and
    /// then, if there is `leisure`.
    ///
    /// # Errors
    /// As guest memory fails.
    pub(super) fn look(
        &mut self,
        memory: &dyn Memory,
        from: u64,
        before: Option<&Progress>,
        leisure: bool,
    ) -> Result<Look, ReadError> {
        if self.kernel.is_none() {
            self.kernel = self.find(memory, leisure)?;
        }
        let Some(kernel) = &self.kernel else { return Ok(Look::Nothing) };
        let look = if kernel.is_there(memory)? {
            match kernel.look(memory, from, before) {
                Ok(look) => kernel.is_there(memory)?.then_some(look),
                Err(Error::Read(error @ (ReadError::Gone | ReadError::Silent))) => {
                    return Err(error);
                }
                // Half set up, or half overwritten: the next look tells.
                Err(error) => {
                    crate::trace!("the log is out of sight: {error}");
                    None
                }
            }
        } else {
            None
        };
        if look.is_none() {
            self.forget();
        }
        Ok(look.unwrap_or(Look::Gone))
    }

    /// Whether a processor is known to be outside of the kernel in sight,
    /// which was then loaded where it will run, and not entered.
    pub(super) fn is_outside(&self, cpu: &Cpu) -> bool {
        let Some(Kernel { rule, way: Way::Names { names, displacement }, .. }) = &self.kernel
        else {
            return false;
        };
        names.holds(*rule, *displacement, cpu.nip) == Some(false)
    }

    /// Whether a processor is in the first stage of a kernel that is not in
    /// sight: prom_init() and relocate() run where it was loaded.
    pub(super) fn is_in_first_stage(&self, memory: &dyn Memory, cpu: &Cpu) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.holds(memory, cpu.nip))
    }

    /// A report of what is known of the kernel that is in sight, or was last.
    pub(super) fn report(&self, verdict: Verdict) -> Report {
        let mut report = Report::new(verdict);
        if let Some(kernel) = self.kernel.as_ref().or(self.former.as_ref()) {
            report.arch = Some(kernel.arch);
            report.source = Some(kernel.source.clone());
            report.kernel = kernel.banner.as_ref().map(|(_, text)| text.clone());
        }
        report
    }

    fn find(&mut self, memory: &dyn Memory, leisure: bool) -> Result<Option<Kernel>, ReadError> {
        // Asking files may take long, and somebody else may be at it.
        if leisure && self.names.is_empty() {
            self.try_another();
        }
        for names in &self.names {
            if let Some(kernel) = at_its_place(memory, names) {
                return Ok(Some(kernel));
            }
        }
        let now = Instant::now();
        let at = *self.search_at.get_or_insert(now + self.pause);
        if !leisure || now < at {
            return Ok(None);
        }
        let found = self.search(memory);
        crate::trace!("searched in {:?}: {}", now.elapsed(), matches!(found, Ok(Some(_))));
        self.pause = (self.pause * 2).min(SEARCH[1]);
        self.search_at = Some(Instant::now() + self.pause);
        found
    }

    /// Look everywhere, which takes a while.
    fn search(&mut self, memory: &dyn Memory) -> Result<Option<Kernel>, ReadError> {
        let mut number = 0;
        while let Some(names) = self.names.get(number).cloned() {
            number += 1;
            let arch = names.arch.unwrap_or(Arch::PPC64LE);
            match identify(memory, arch, &names)? {
                Identity::Here { rule, displacement } => {
                    let source = names.source.clone();
                    let banner = banner_of(memory, rule, &names, displacement);
                    let way = Way::Names { names, displacement };
                    return Ok(Some(Kernel { arch, rule, way, source, banner }));
                }
                // It will run under these names, or whatever is there will.
                Identity::Loaded { real } => {
                    self.loaded = Loaded::new(names, arch, real);
                    return Ok(None);
                }
                Identity::Absent => return Ok(None),
                Identity::Other(_) => {}
            }
            if number == self.names.len() {
                self.try_another();
            }
        }
        let low = Low::of(memory);
        if let Some(found) = kallsyms::find(&low)? {
            let names = found.guest_names();
            let kernel = at_its_place(memory, &Arc::new(names));
            if let Some(kernel) = kernel.filter(|kernel| kernel.buffer(memory).is_ok()) {
                return Ok(Some(kernel));
            }
        }
        let mut progress = |_, _| ControlFlow::Continue(());
        let scan::Verdict::Live(found) = scan(memory, &mut progress)?.verdict else {
            return Ok(None);
        };
        if !matches!(found.kind, scan::Kind::Ringbuffer { .. } | scan::Kind::Variable { .. }) {
            // Text without a variable that leads to it does not tell how far
            // the kernel has come.
            return Ok(None);
        }
        let mut banner = None;
        each_banner(memory, &mut |real, text| {
            banner = Some((real, text.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(Some(Kernel {
            arch: found.arch,
            rule: found.rule,
            way: Way::Recognised(found.kind, KernelTypes::default()),
            source: Source::Scan,
            banner,
        }))
    }
}

impl Loaded {
    fn new(names: Arc<Names>, arch: Arch, banner: u64) -> Option<Self> {
        let rule = usual_rule(arch, &names);
        let displacement = displacement_of(&names, rule, banner)?;
        Some(Self { names, banner, rule, displacement })
    }

    /// Whether it is still there, and `nip` in it.
    fn holds(&self, memory: &dyn Memory, nip: u64) -> bool {
        let mut bytes = [0; banner::LONGEST];
        let is_there = memory.read(self.banner, &mut bytes).is_ok()
            && banner::starting(&bytes).is_some_and(|found| {
                self.names.banner.as_ref().is_none_or(|expected| expected == found)
            });
        is_there && self.names.holds(self.rule, self.displacement, nip) == Some(true)
    }
}

impl Kernel {
    /// Whether the memory is still this kernel's.
    fn is_there(&self, memory: &dyn Memory) -> Result<bool, ReadError> {
        let Some((real, text)) = &self.banner else { return Ok(true) };
        let mut bytes = vec![0; text.len()];
        match memory.read(*real, &mut bytes) {
            Ok(()) => Ok(bytes == *text),
            Err(ReadError::NotRam { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn buffer(&self, memory: &dyn Memory) -> Result<LogBuffer, Error> {
        let view = View::new(memory, self.arch, self.rule);
        match &self.way {
            Way::Names { names, displacement } => {
                locate(&view, names, *displacement).map_err(|error| match error {
                    crate::kernel::LocateError::Printk(error) => error,
                    crate::kernel::LocateError::NoName => Error::Replaced,
                })
            }
            Way::Recognised(kind, types) => open_found(&view, kind, types)?.ok_or(Error::Replaced),
        }
    }

    fn look(
        &self,
        memory: &dyn Memory,
        from: u64,
        before: Option<&Progress>,
    ) -> Result<Look, Error> {
        // Located anew: the kernel moves its log once, in setup_log_buf().
        let buffer = self.buffer(memory)?;
        let view = View::new(memory, self.arch, self.rule);
        let progress = buffer.progress(&view)?;
        if before == Some(&progress) {
            return Ok(Look::Same(self.console(&view, &progress)?));
        }
        let again = before.is_some_and(|before| progress.next_seq() < before.next_seq());
        let log = buffer.read_from(&view, if again { 0 } else { from })?;
        if log.format == Format::Salvage || !is_in_step(&log, &progress, self.arch) {
            // Its numbers make no sense at this moment: a kernel is copying
            // itself to where it runs, or another over it.
            return Err(Error::Replaced);
        }
        let console = self.console(&view, &progress)?;
        Ok(Look::More { log, progress, again, console })
    }

    /// Whether a console is registered: since 6.2 (848a9c1066e5 "printk:
    /// Convert console_drivers list to hlist") they are a list of that kind,
    /// before a chain of pointers; either begins with a null pointer as long
    /// as there is none. A kernel that has printed nothing may not have
    /// cleared its variables yet: what firmware left there is no console.
    fn console(&self, view: &View<'_>, progress: &Progress) -> Result<Console, Error> {
        if progress.next_seq() == 0 {
            return Ok(Console::None);
        }
        let Way::Names { names, displacement } = &self.way else { return Ok(Console::Unknown) };
        let first = names.address("console_list").or_else(|| names.address("console_drivers"));
        let Some(first) = first else { return Ok(Console::Unknown) };
        Ok(match view.word(first.wrapping_add(*displacement))? {
            0 => Console::None,
            _ => Console::Registered,
        })
    }
}

/// Whether a log ends about where the kernel was just before it was read.
fn is_in_step(log: &Log, progress: &Progress, arch: Arch) -> bool {
    /// No kernel prints more between two reads.
    const AHEAD: u64 = 1 << 20;
    // 32-bit kernels' numbers are known modulo 2^30 only.
    let next = progress.next_seq();
    arch.word == Word::W32
        || next < 1 << 48 && log.resume().is_none_or(|resume| resume <= next.saturating_add(AHEAD))
}

/// The kernel that `names` are of, where its banner is in its own place.
fn at_its_place(memory: &dyn Memory, names: &Arc<Names>) -> Option<Kernel> {
    let arch = names.arch.unwrap_or(Arch::PPC64LE);
    let rule = usual_rule(arch, names);
    let banner = banner_of(memory, rule, names, 0)?;
    if names.banner.as_ref().is_some_and(|expected| *expected != banner.1) {
        return None;
    }
    let way = Way::Names { names: Arc::clone(names), displacement: 0 };
    Some(Kernel { arch, rule, way, source: names.source.clone(), banner: Some(banner) })
}

/// The banner of the kernel that `names` are of, where it is.
fn banner_of(
    memory: &dyn Memory,
    rule: AddressRule,
    names: &Names,
    displacement: u64,
) -> Option<(u64, Vec<u8>)> {
    let real = rule.real(names.address("linux_banner")?.checked_add(displacement)?)?;
    let mut bytes = [0; banner::LONGEST];
    memory.read(real, &mut bytes).ok()?;
    Some((real, banner::starting(&bytes)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Symbol;
    use crate::printk::craft::{Line, RingPlan, RingWriter};

    /// What firmware left where the console's variable will be.
    #[test]
    fn a_kernel_that_has_not_cleared_its_variables_has_no_console() {
        let mut ring = RingWriter::new(RingPlan::SMALL);
        ring.sheet.put_word(0, ring.prb());
        ring.sheet.put_word(8, 0x4e80_0020_7c08_02a6);
        let symbol = |offset| Symbol { address: ring.sheet.address(offset), size: 8 };
        let symbols = [("prb", symbol(0)), ("console_list", symbol(8))];
        let names = Names {
            source: Source::Scan,
            arch: Some(Arch::PPC64LE),
            banner: None,
            symbols: symbols.into_iter().map(|(name, at)| (name.to_owned(), at)).collect(),
            types: KernelTypes::default(),
        };
        let way = Way::Names { names: Arc::new(names), displacement: 0 };
        let (arch, rule) = (Arch::PPC64LE, AddressRule::Linear64);
        let kernel = Kernel { arch, rule, way, source: Source::Scan, banner: None };
        let console = |ring: &RingWriter| match kernel.look(&ring.sheet.image(), 0, None) {
            Ok(Look::More { console, .. } | Look::Same(console)) => console,
            other => panic!("{other:?}"),
        };
        assert_eq!(console(&ring), Console::None);
        ring.print(&Line::new("a"));
        assert_eq!(console(&ring), Console::Registered);
    }
}
