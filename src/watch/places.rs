//! Where each processor is: from registers and stacks to a line each.
//!
//! The guest is looked at as it runs, a few times within a moment. Names are
//! asked for in bulk: a walk collects the addresses it cannot name, one pass
//! over the kernel's names finds them all, and the walk is taken again.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::arch::Arch;
use crate::guest::live::LiveMemory;
use crate::guest::{AddressRule, Cpu, View, cpu};
use crate::kernel::activity::{Activity, Extent, Place, Sample, watch};
use crate::kernel::stack::Walker;
use crate::kernel::{Candidate, Kallsyms, Names, Resolve, Source};
use crate::monitor::{self, Begun, CpuThread, Monitor, Shared};
use crate::report::CpuLine;
use crate::trace;

/// How long processors are looked at to tell those that are stuck from those
/// that move.
const MOST: Duration = Duration::from_millis(50);

/// How long QEMU may take for one list of registers.
const REPLY: Duration = Duration::from_millis(300);

/// How old registers may be to be walked from: a moving processor's stack is
/// another's by and by.
const FRESH: Duration = Duration::from_millis(5);

/// Names remembered from one question to the next; a guest that hangs has few.
const REMEMBERED: usize = 1 << 12;

/// How often a walk is taken again with the names that it lacked: those of
/// the chain, those of a caller in the link register, those beyond an
/// exception.
const ROUNDS: usize = 3;

/// Processors that get a line; further ones are counted.
const LINES: usize = 64;

/// Where the names of the guest's code are.
pub(super) enum Code {
    /// In a file.
    File(Box<Candidate>),
    /// In the guest itself.
    Guest(Box<Kallsyms>),
    /// Nowhere.
    Unknown,
}

/// What is known of the kernel that the processors are in.
pub(super) struct Ground {
    pub(super) arch: Arch,
    pub(super) rule: AddressRule,
    /// How far it runs from where it was linked to.
    pub(super) displacement: u64,
    /// Its own code and data by effective address, where known.
    pub(super) kernel: Option<Range<u64>>,
    pub(super) code: Code,
}

impl Ground {
    /// Nothing is known but what it is compiled for, or likely is.
    pub(super) const fn unknown(arch: Arch, rule: AddressRule) -> Self {
        Self { arch, rule, displacement: 0, kernel: None, code: Code::Unknown }
    }

    /// The kernel that `names` are of.
    pub(super) fn of(
        names: &Names,
        arch: Arch,
        rule: AddressRule,
        displacement: u64,
        code: Code,
    ) -> Self {
        let address = |name| Some(names.address(name)?.wrapping_add(displacement));
        let start = address("_stext").or_else(|| address("_text"));
        let kernel = start.zip(address("_end")).map(|(start, end)| start..end);
        let kernel = kernel.filter(|kernel| !kernel.is_empty());
        Self { arch, rule, displacement, kernel, code }
    }

    /// The same kernel by other names.
    pub(super) fn or_code(mut self, code: Code) -> Self {
        if matches!(self.code, Code::Unknown) {
            self.code = code;
        }
        self
    }

    /// Whether an address that no rule maps may be the kernel's: a stack in
    /// vmalloc space, to be read through the guest's page tables, the
    /// kernel's part of which is the same for all processors.
    const fn is_kernels(&self, address: u64) -> bool {
        match self.rule {
            AddressRule::Linear64 => address >> 60 >= 0xc,
            AddressRule::Linear32 { page_offset, .. } => {
                address >= page_offset as u64 && address <= 0xffff_ffff
            }
        }
    }

    fn resolve(&self, addresses: &[u64]) -> Vec<Option<(String, u64)>> {
        let linked: Vec<u64> =
            addresses.iter().map(|address| address.wrapping_sub(self.displacement)).collect();
        let begun = Instant::now();
        let places = match &self.code {
            Code::File(code) => code.resolve(&linked),
            Code::Guest(kallsyms) => kallsyms.resolve(&linked),
            Code::Unknown => Ok(Vec::new()),
        };
        trace!("{} addresses named in {:?}", addresses.len(), begun.elapsed());
        places.unwrap_or_else(|error| {
            trace!("no names for addresses: {error}");
            Vec::new()
        })
    }
}

/// The names of addresses, those found so far and those asked for since. Kept
/// from one question to the next, while the names are of the same file.
#[derive(Default)]
pub(super) struct Known {
    /// Where the names are from, and how far the kernel runs from there.
    of: Option<(Source, u64)>,
    names: BTreeMap<u64, Option<(String, u64)>>,
    asked: BTreeSet<u64>,
}

impl Known {
    /// Forget what is not of this kernel.
    fn keep(&mut self, ground: &Ground) {
        let of = match &ground.code {
            Code::File(code) => Some((code.names.source.clone(), ground.displacement)),
            // Found anew each time: it may be another kernel's.
            Code::Guest(_) | Code::Unknown => None,
        };
        if of.is_none() || self.of != of || self.names.len() > REMEMBERED {
            self.names.clear();
        }
        self.of = of;
        self.asked.clear();
    }
}

/// The registers of all processors, asked for while something else is done.
pub(super) struct Registers<'a> {
    monitor: &'a Shared,
    begun: Cell<Option<(Begun, Instant)>>,
    cpus: OnceCell<Vec<Cpu>>,
}

impl<'a> Registers<'a> {
    /// Ask for them now if they are `wanted` for sure and were not asked for
    /// `ahead`, else when they are.
    pub(super) fn ask(monitor: &'a Shared, wanted: bool, ahead: Option<(Begun, Instant)>) -> Self {
        let begun = ahead.filter(|(_, at)| at.elapsed() < FRESH);
        let begun = begun.or_else(|| wanted.then(|| Self::begin(&mut monitor.lock())).flatten());
        Self { monitor, begun: Cell::new(begun), cpus: OnceCell::new() }
    }

    /// Ask for them without waiting, and when that was.
    pub(super) fn begin(monitor: &mut Monitor) -> Option<(Begun, Instant)> {
        Some((monitor.begin_registers()?, Instant::now()))
    }

    /// The processors; none where QEMU does not tell soon.
    pub(super) fn cpus(&self) -> &[Cpu] {
        self.cpus.get_or_init(|| {
            let mut monitor = self.monitor.lock();
            let deadline = Instant::now() + REPLY;
            let text = match self.begun.take() {
                Some((begun, at)) if at.elapsed() < FRESH => monitor.finish(begun, deadline),
                _ => monitor.registers(deadline),
            };
            drop(monitor);
            text.map_or_else(
                |error| {
                    trace!("no registers: {error}");
                    Vec::new()
                },
                |text| cpu::parse(&text),
            )
        })
    }
}

/// Where the processors are, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// One of them is in the kernel, or in firmware that it called.
    InKernel,
    /// None is: they are in firmware, or have not begun.
    Outside,
    /// It cannot be told.
    Unknown,
}

/// The processors of a running guest.
pub(super) struct Processors<'a> {
    pub(super) monitor: &'a Shared,
    pub(super) memory: &'a LiveMemory,
    /// The first look at them.
    pub(super) registers: Registers<'a>,
    /// The host's threads that run them, as far as known.
    pub(super) threads: &'a mut Vec<CpuThread>,
    pub(super) known: &'a mut Known,
}

impl Processors<'_> {
    /// A line for each processor; none where QEMU does not tell. Where they
    /// are, all together.
    pub(super) fn lines(self, ground: &Ground, registers: bool) -> (Vec<CpuLine>, Whereabouts) {
        let begun = Instant::now();
        let seen = match self.watch(ground) {
            Ok(seen) => seen,
            Err(error) => {
                trace!("no registers: {error}");
                return (Vec::new(), Whereabouts::Unknown);
            }
        };
        trace!("{} processors looked at in {:?}", seen.len(), begun.elapsed());
        let mut lines: Vec<CpuLine> = seen
            .iter()
            .take(LINES)
            .map(|(activity, sample)| line(*activity, sample, registers))
            .collect();
        if let (Some(more), Some(last)) = (seen.len().checked_sub(LINES + 1), lines.last_mut()) {
            last.text.push_str(&format!(" (and {} more CPUs)", more + 1));
        }
        let entered = seen.iter().any(|(activity, sample)| is_in_kernel(*activity, sample));
        // Without the kernel's extent, its own code in real mode looks alike.
        let told = ground.kernel.is_some() && !seen.is_empty();
        let is_out = |activity| matches!(activity, Activity::Firmware | Activity::NotStarted);
        let whereabouts = match entered {
            true => Whereabouts::InKernel,
            false if told && seen.iter().all(|(activity, _)| is_out(*activity)) => {
                Whereabouts::Outside
            }
            false => Whereabouts::Unknown,
        };
        (lines, whereabouts)
    }

    fn watch(self, ground: &Ground) -> Result<Vec<(Activity, Sample)>, monitor::Error> {
        let deadline = || Instant::now() + REPLY;
        let first = self.registers.cpus();
        let runs = |threads: &[CpuThread], cpus: &[Cpu]| -> Vec<_> {
            cpus.iter().map(|cpu| run(threads, cpu)).collect()
        };
        let mut ran = runs(self.threads, first);
        if ran.contains(&None) {
            // One was plugged in.
            *self.threads = self.monitor.lock().query_cpus(deadline()).unwrap_or_default();
            ran = runs(self.threads, first);
        }
        let threads = &*self.threads;
        let mut first = Some((first.to_vec(), ran));
        let extent = Extent { kernel: ground.kernel.clone(), rule: ground.rule };
        self.known.keep(ground);
        let known = RefCell::new(self.known);
        let symbols = |address: u64| {
            let mut known = known.borrow_mut();
            match known.names.get(&address) {
                Some(name) => name.clone(),
                None => {
                    known.asked.insert(address);
                    None
                }
            }
        };
        let mapped = |address: u64, buf: &mut [u8]| {
            ground.is_kernels(address) && self.memory.read_effective(0, address, buf).is_ok()
        };
        let view = View::new(self.memory, ground.arch, ground.rule);
        let walker = Walker::new(view, &symbols).with_mapped(&mapped);
        let look = || -> Result<_, monitor::Error> {
            let (cpus, ran) = match first.take() {
                Some(first) => first,
                None => {
                    let cpus = cpu::parse(&self.monitor.lock().registers(deadline())?);
                    let ran = runs(threads, &cpus);
                    (cpus, ran)
                }
            };
            for cpu in cpus.iter().filter(|cpu| cpu.lr != 0) {
                // Who called comes up only once the function is known.
                symbols(cpu.lr.wrapping_sub(1));
            }
            let take = |(cpu, ran): (&Cpu, &_)| Sample::take(&walker, cpu.clone(), *ran);
            let walk = || cpus.iter().zip(&ran).map(take).collect::<Vec<_>>();
            let mut samples = walk();
            for _ in 0..ROUNDS {
                let asked = std::mem::take(&mut known.borrow_mut().asked);
                if asked.is_empty() {
                    break;
                }
                let asked: Vec<u64> = asked.into_iter().collect();
                let mut names = ground.resolve(&asked).into_iter();
                let names = asked.into_iter().map(|address| (address, names.next().flatten()));
                known.borrow_mut().names.extend(names);
                samples = walk();
            }
            Ok(samples)
        };
        // Two looks at a guest that does not run are the same one.
        let most = || {
            let status = self.monitor.lock().query_status(deadline());
            if status.is_ok_and(|status| status.running) { MOST } else { Duration::ZERO }
        };
        watch(look, &extent, most)
    }
}

/// How long the host has run a processor.
fn run(threads: &[CpuThread], cpu: &Cpu) -> Option<Duration> {
    let thread = threads.iter().find(|thread| thread.index == u64::from(cpu.index))?;
    cpu::run_time(thread.thread)
}

/// Whether a processor is in the kernel's code, or on its way back to it.
fn is_in_kernel(activity: Activity, sample: &Sample) -> bool {
    let frames = match activity {
        Activity::NotStarted | Activity::User => return false,
        Activity::Firmware => sample.trace.frames.get(1..).unwrap_or_default(),
        _ => sample.trace.frames.as_slice(),
    };
    frames.iter().any(|frame| frame.reliable && frame.name.is_some())
}

fn line(activity: Activity, sample: &Sample, registers: bool) -> CpuLine {
    let number = sample.cpu.index;
    let place = Place { sample, activity }.to_string();
    let head = format!("CPU {number} ");
    let text = place.strip_prefix(&head).unwrap_or(&place).to_owned();
    let registers = if registers { sample.cpu.to_string() } else { String::new() };
    CpuLine { cpu: number, text, registers: registers.lines().map(str::to_owned).collect() }
}
