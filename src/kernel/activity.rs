//! What a processor is doing, judged by looks at it a moment apart.
//!
//! The judgement is pure: samples in, an [`Activity`] out. [`Sample::take`]
//! takes one, from a running guest that is never stopped, and [`watch`] as
//! many as a judgement needs.

use std::fmt;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use super::stack::{Kind, Trace, Walker};
use crate::guest::{AddressRule, Cpu};

/// `b .`, a branch to itself.
const SELF_BRANCH: u32 = 0x4800_0000;

/// Instructions of one loop lie within so many bytes.
const LOOP: u64 = 256;

/// How long a processor has to have run between two looks for them to tell
/// anything.
const RUN: Duration = Duration::from_millis(2);

/// How long [`watch`] waits between two looks.
const PAUSE: Duration = Duration::from_millis(4);

/// Functions in which a processor waits for work.
const IDLE: &[&str] = &[
    "arch300_idle_type",
    "arch_cpu_idle",
    "book3e_idle",
    "cpu_idle_poll",
    "cpuidle_enter",
    "cpuidle_enter_state",
    "cpuidle_idle_call",
    "default_idle_call",
    "do_idle",
    "e500_idle",
    "isa206_idle_insn_mayloss",
    "isa300_idle_stop_mayloss",
    "isa300_idle_stop_noloss",
    "nap_loop",
    "power4_idle",
    "power4_idle_nap",
    "power7_idle",
    "power7_idle_insn",
    "power9_idle",
    "power9_idle_stop",
    "power9_idle_type",
    "ppc6xx_idle",
    "pseries_lpar_idle",
    "snooze_loop",
    "stop_loop",
];

/// Functions in which a secondary processor waits to be let into the kernel.
const HELD: &[&str] = &[
    "__secondary_hold",
    "__secondary_hold_acknowledge",
    "__secondary_hold_spinloop",
    "fsl_secondary_thread_init",
    "generic_secondary_common_init",
    "generic_secondary_smp_init",
    "generic_secondary_thread_init",
    "smp_release_cpus",
];

/// One look at a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its registers.
    pub cpu: Cpu,
    /// The instruction it is at, where that can be read.
    pub instruction: Option<u32>,
    /// Its call chain.
    pub trace: Trace,
    /// How long the host has run it so far; `None` where unknown.
    pub run: Option<Duration>,
}

impl Sample {
    /// Look at the memory that `cpu`'s registers lead to. `run` is the
    /// processor's time on the host, [`crate::guest::cpu::run_time`].
    #[must_use]
    pub fn take(walker: &Walker<'_>, cpu: Cpu, run: Option<Duration>) -> Self {
        let instruction = walker.instruction(cpu.nip);
        let trace = walker.trace(&cpu);
        Self { cpu, instruction, trace, run }
    }

    fn function(&self) -> Option<&str> {
        self.trace.frames.first()?.function()
    }
}

/// What is known of where the kernel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The kernel's own code and data by effective address (`_stext` to
    /// `_end`), as they are in this guest; `None` where unknown.
    pub kernel: Option<Range<u64>>,
    /// How its effective addresses become real ones.
    pub rule: AddressRule,
}

impl Extent {
    /// Whether `address`, effective or real, is in the kernel.
    fn holds(&self, address: u64) -> Option<bool> {
        let kernel = self.kernel.as_ref()?;
        let real = |address| self.rule.real(address);
        Some(
            kernel.contains(&address)
                || real(kernel.start)
                    .zip(real(kernel.end - 1))
                    .is_some_and(|(start, last)| start <= address && address <= last),
        )
    }

    /// Whether `address` is one that a kernel's code can be at: its image,
    /// its modules.
    fn is_kernels(&self, address: u64) -> bool {
        match self.rule {
            AddressRule::Linear64 => address >> 60 >= 0xc,
            // The last megabyte is where firmware begins.
            AddressRule::Linear32 { page_offset, .. } => {
                (u64::from(page_offset)..0xfff0_0000).contains(&address)
            }
        }
    }
}

/// What a processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It has not executed anything yet.
    NotStarted,
    /// It waits for the kernel to let it in.
    Held,
    /// It executes what is not the kernel's: firmware, a boot loader.
    Firmware,
    /// It runs a user's program.
    User,
    /// It waits for work.
    Idle,
    /// It branches to itself for ever.
    SelfBranch,
    /// It was at the same instruction with the same registers each time.
    Stuck,
    /// It goes round in a few instructions.
    Loop,
    /// It gets about.
    Moving,
    /// It was looked at only once, or it did not run meanwhile.
    Seen,
}

/// Judge looks at one processor, in the order they were taken; `None`
/// without any.
///
/// Looks between which the host did not run the processor, because the guest
/// is paused or the host busy, count as one.
#[must_use]
pub fn judge(samples: &[Sample], extent: &Extent) -> Option<Activity> {
    let (last, before) = samples.split_last()?;
    Some(still(last, extent).unwrap_or_else(|| match before.first() {
        Some(first) if has_run(first, last) => movement(last, before),
        _ => Activity::Seen,
    }))
}

/// Look at all processors until each can be judged, but for no longer than
/// `most`; the judgements, each with the last look.
///
/// A guest in which nothing moves for certain (a branch to itself, idle, in
/// firmware) takes one look, and `most` is not asked. `look` gives all processors, in the same order
/// each time.
///
/// # Errors
/// As `look` fails the first time; later failures end the watch.
pub fn watch<E>(
    mut look: impl FnMut() -> Result<Vec<Sample>, E>,
    extent: &Extent,
    most: impl FnOnce() -> Duration,
) -> Result<Vec<(Activity, Sample)>, E> {
    let mut looks: Vec<Vec<Sample>> = look()?.into_iter().map(|sample| vec![sample]).collect();
    let open = |looks: &[Vec<Sample>]| {
        looks.iter().any(|samples| judge(samples, extent) == Some(Activity::Seen))
    };
    let until = if open(&looks) { Instant::now() + most() } else { Instant::now() };
    while open(&looks) && Instant::now() < until {
        thread::sleep(PAUSE);
        let Ok(next) = look() else { break };
        if next.len() != looks.len() {
            break;
        }
        for (samples, next) in looks.iter_mut().zip(next) {
            samples.push(next);
        }
    }
    let judged = |mut samples: Vec<Sample>| Some((judge(&samples, extent)?, samples.pop()?));
    Ok(looks.into_iter().filter_map(judged).collect())
}

/// Whether the host has run the processor from one look to the other.
fn has_run(first: &Sample, last: &Sample) -> bool {
    match (first.run, last.run) {
        (Some(first), Some(last)) => last.saturating_sub(first) >= RUN,
        _ => true,
    }
}

/// What one look tells.
fn still(sample: &Sample, extent: &Extent) -> Option<Activity> {
    let cpu = &sample.cpu;
    // As reset: at the reset vector, in low or high memory.
    if cpu.nip & 0xfffff == 0x100 && cpu.lr == 0 && cpu.stack() == 0 {
        return Some(Activity::NotStarted);
    }
    if cpu.user() {
        return Some(Activity::User);
    }
    // MSR SF on Book S, CM on Book E: no 64-bit kernel is in 32-bit mode, but
    // the firmware that lies where the kernel will be is.
    if extent.rule == AddressRule::Linear64 && cpu.msr & (1 << 63 | 1 << 31) == 0 {
        return Some(Activity::Firmware);
    }
    let in_kernel = extent.holds(cpu.nip).unwrap_or_else(|| sample.function().is_some());
    let in_module = cpu.translated() && extent.is_kernels(cpu.nip);
    if !in_kernel && !in_module {
        return Some(Activity::Firmware);
    }
    if sample.function().is_some_and(|name| HELD.contains(&name)) {
        return Some(Activity::Held);
    }
    if sample.instruction == Some(SELF_BRANCH) {
        return Some(Activity::SelfBranch);
    }
    is_idle(&sample.trace).then_some(Activity::Idle)
}

/// What several looks tell together.
fn movement(last: &Sample, before: &[Sample]) -> Activity {
    // All registers, since TCG brings the instruction address up to date only
    // now and then: a long loop looks like one place by that alone.
    if before.iter().all(|sample| sample.cpu == last.cpu) {
        return Activity::Stuck;
    }
    let all = |same: &dyn Fn(&Sample) -> bool| before.iter().all(same);
    let stack = |sample: &Sample| sample.cpu.stack() == last.cpu.stack();
    let near = |sample: &Sample| sample.cpu.nip.abs_diff(last.cpu.nip) < LOOP;
    if all(&|sample| stack(sample) && near(sample) && sample.function() == last.function()) {
        return Activity::Loop;
    }
    Activity::Moving
}

/// Whether the innermost functions are those of waiting for work.
fn is_idle(trace: &Trace) -> bool {
    trace
        .frames
        .iter()
        .take(3)
        // Beyond an interrupt it would be what was idle before.
        .take_while(|frame| !matches!(frame.kind, Kind::Interrupted(_)))
        .filter_map(|frame| frame.function())
        // As compiled: `name.constprop.0`.
        .filter_map(|name| name.split('.').next())
        .any(|name| IDLE.contains(&name) || name.split('_').any(|word| word == "cede"))
}

/// Where one processor is: a line for people.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The last look at it.
    pub sample: &'a Sample,
    /// What it is doing.
    pub activity: Activity,
}

impl fmt::Display for Place<'_> {
    /// `CPU 0 stuck in register_early_udbg_console+0x8 ← setup_arch+0x16c`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { cpu, trace, .. } = self.sample;
        write!(f, "CPU {} ", cpu.index)?;
        match self.activity {
            Activity::NotStarted => return f.write_str("not started"),
            Activity::Firmware => {
                write!(f, "in firmware at {:#x}", cpu.nip)?;
                return callers(trace, f);
            }
            Activity::User => return write!(f, "in a user program at {:#x}", cpu.nip),
            Activity::Held => f.write_str("held back in ")?,
            Activity::Idle => f.write_str("idle in ")?,
            Activity::SelfBranch => f.write_str("stuck in a branch to itself in ")?,
            Activity::Stuck => f.write_str("stuck in ")?,
            Activity::Loop => f.write_str("spinning in ")?,
            Activity::Moving => f.write_str("moving, just now in ")?,
            Activity::Seen => f.write_str("in ")?,
        }
        if cpu.real_mode() && cpu.nip >> 60 == 0 {
            f.write_str("real mode in ")?;
        }
        write!(f, "{trace}")
    }
}

/// The kernel's functions that firmware was called from, if it was.
fn callers(trace: &Trace, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let frames = trace.frames.iter().skip(1);
    let frames = frames.skip_while(|frame| !frame.reliable || frame.name.is_none());
    frames.take_while(|frame| frame.name.is_some()).try_for_each(|frame| write!(f, " ← {frame}"))
}

#[cfg(test)]
mod tests {
    use super::super::stack::{End, Frame};
    use super::*;

    fn extent() -> Extent {
        let kernel = Some(0xc000_0000_0000_0000..0xc000_0000_0200_0000);
        Extent { kernel, rule: AddressRule::Linear64 }
    }

    /// A look at a processor in the kernel, by its functions, innermost first.
    fn look(nip: u64, stack: u64, functions: &[&str]) -> Sample {
        let mut gpr = [0; 32];
        gpr[1] = stack;
        let frame = |(number, function): (usize, &&str)| Frame {
            address: nip,
            name: Some(((*function).to_owned(), 8)),
            kind: if number == 0 { Kind::At } else { Kind::Return },
            reliable: true,
        };
        let frames = functions.iter().enumerate().map(frame).collect();
        Sample {
            cpu: Cpu { index: 1, nip, lr: 0xc000_0000_0000_4444, ctr: 0, msr: 1 << 63 | 0x30, gpr },
            instruction: Some(0x6000_0000),
            trace: Trace { frames, end: End::Entry },
            run: None,
        }
    }

    const NIP: u64 = 0xc000_0000_0001_0000;
    const SP: u64 = 0xc000_0000_0100_0000;

    fn judged(samples: &[Sample]) -> Activity {
        judge(samples, &extent()).expect("samples")
    }

    #[test]
    fn two_looks_tell_stuck_from_moving() {
        let at = |nip, stack| look(nip, stack, &["f", "g"]);
        assert_eq!(judge(&[], &extent()), None);
        assert_eq!(judged(&[at(NIP, SP)]), Activity::Seen);
        assert_eq!(judged(&[at(NIP, SP), at(NIP, SP)]), Activity::Stuck);
        assert_eq!(judged(&[at(NIP, SP), at(NIP + 12, SP)]), Activity::Loop);
        assert_eq!(judged(&[at(NIP, SP), at(NIP + 12, SP - 64)]), Activity::Moving);
        assert_eq!(judged(&[at(NIP, SP), at(NIP + 0x1000, SP)]), Activity::Moving);
        assert_eq!(judged(&[at(NIP, SP), look(NIP + 8, SP, &["h"])]), Activity::Moving);
        assert_eq!(judged(&[at(NIP + 8, SP), at(NIP, SP), at(NIP, SP)]), Activity::Loop);
        let mut counting = at(NIP, SP);
        counting.cpu.gpr[9] += 1;
        assert_eq!(judged(&[counting, at(NIP, SP)]), Activity::Loop);
    }

    #[test]
    fn a_processor_that_did_not_run_is_neither_stuck_nor_moving() {
        let ran = |millis| Sample {
            run: Some(Duration::from_millis(millis)),
            ..look(NIP, SP, &["f", "g"])
        };
        assert_eq!(judged(&[ran(5), ran(6)]), Activity::Seen);
        assert_eq!(judged(&[ran(5), ran(6), ran(7)]), Activity::Stuck);
        assert_eq!(judged(&[ran(7), ran(5)]), Activity::Seen);
    }

    #[test]
    fn a_watch_ends_when_all_is_known_or_the_time_is_up() {
        let mut looks = 0;
        let mut branch = look(NIP, SP, &["f"]);
        branch.instruction = Some(SELF_BRANCH);
        let mut watched = |samples: Vec<Vec<Sample>>| {
            looks = 0;
            let mut samples = samples.into_iter();
            let most = Duration::from_millis(100);
            let seen = watch(
                || {
                    looks += 1;
                    samples.next().ok_or("no more")
                },
                &extent(),
                || most,
            );
            let seen = seen.map(|seen| seen.into_iter().map(|(activity, _)| activity).collect());
            (seen, looks)
        };
        let f = look(NIP, SP, &["f"]);
        let told = (Ok(vec![Activity::SelfBranch]), 1);
        assert_eq!(watched(vec![vec![branch.clone()], vec![branch.clone()]]), told);
        let told = (Ok(vec![Activity::Stuck, Activity::SelfBranch]), 2);
        let both = vec![f.clone(), branch];
        assert_eq!(watched(vec![both.clone(), both.clone(), both.clone()]), told);
        assert_eq!(watched(vec![both.clone(), vec![f]]).1, 2, "a processor was unplugged");
        assert_eq!(watched(vec![both]).1, 2, "QEMU has ended");
        assert_eq!(watched(vec![]), (Err("no more"), 1));
        assert_eq!(watched(vec![vec![]]), (Ok(vec![]), 1));
        let paused = Sample { run: Some(Duration::ZERO), ..look(NIP, SP, &["f"]) };
        assert_eq!(watched(vec![vec![paused]; 1000]).0, Ok(vec![Activity::Seen]));
    }

    #[test]
    fn a_branch_to_itself_needs_one_look() {
        let mut sample = look(NIP, SP, &["f"]);
        sample.instruction = Some(SELF_BRANCH);
        assert_eq!(judged(&[sample.clone()]), Activity::SelfBranch);
        sample.instruction = Some(0x4800_0001);
        assert_eq!(judged(&[sample]), Activity::Seen);
    }

    #[test]
    fn idle_processors_are_known_by_where_they_wait() {
        let idle = |functions: &[&str]| judged(&[look(NIP, SP, functions)]) == Activity::Idle;
        assert!(idle(&["plpar_hcall_norets", "cede_processor", "shared_cede_loop"]));
        assert!(idle(&["plpar_hcall_norets_notrace", "check_and_cede_processor.constprop.0"]));
        assert!(idle(&["snooze_loop"]));
        assert!(idle(&["arch_local_irq_restore", "arch_cpu_idle", "default_idle_call"]));
        assert!(!idle(&["init_idle", "sched_init", "start_kernel"]), "that is a hang");
        assert!(!idle(&["napi_poll", "net_rx_action"]));
        let mut busy = look(NIP, SP, &["tick", "timer", "do_idle"]);
        busy.trace.frames[2].kind = Kind::Interrupted(0x900);
        assert_eq!(judged(&[busy]), Activity::Seen);
    }

    #[test]
    fn outside_the_kernel_is_firmware_a_program_or_a_module() {
        let outside = |nip: u64, msr: u64| {
            let mut sample = look(nip, SP, &[]);
            sample.cpu.msr = msr;
            judged(&[sample])
        };
        assert_eq!(outside(0x3fe0_1234, 1 << 63), Activity::Firmware);
        assert_eq!(outside(0x1_0000, 1 << 63), Activity::Seen, "the kernel in real mode");
        assert_eq!(outside(0xc008_0000_0001_0000, 1 << 63 | 0x30), Activity::Seen, "a module");
        assert_eq!(outside(0x148, 0), Activity::Firmware, "in 32-bit mode");
        assert_eq!(outside(0x1000_0000, 0x4030), Activity::User);
        let kernel = Some(0xc000_0000..0xc080_0000);
        let extent32 = Extent { kernel, rule: AddressRule::PPC32 };
        let mut sample = look(0xfff0_1234, SP, &[]);
        sample.cpu.msr = 0x30;
        assert_eq!(judge(&[sample.clone()], &extent32), Some(Activity::Firmware));
        sample.cpu.nip = 0x1000;
        assert_eq!(judge(&[sample.clone()], &extent32), Some(Activity::Seen), "real mode");
        sample.cpu.nip = 0xd100_0000;
        assert_eq!(judge(&[sample], &extent32), Some(Activity::Seen), "a module");
        let extent = Extent { kernel: None, rule: AddressRule::Linear64 };
        assert_eq!(judge(&[look(0x100_0000, SP, &[])], &extent), Some(Activity::Firmware));
        assert_eq!(judge(&[look(0x100_0000, SP, &["f"])], &extent), Some(Activity::Seen));
    }

    #[test]
    fn a_processor_that_was_not_started_or_let_in_is_told() {
        let mut reset = look(0x100, 0, &[]);
        reset.cpu.lr = 0;
        reset.cpu.msr = 0;
        assert_eq!(judged(&[reset.clone(), reset.clone()]), Activity::NotStarted);
        reset.cpu.nip = 0xfff0_0100;
        assert_eq!(judged(&[reset]), Activity::NotStarted);
        let held = look(0x60, 0, &["__secondary_hold"]);
        assert_eq!(judged(&[held.clone(), held]), Activity::Held);
    }

    #[test]
    fn a_place_is_one_line() {
        let mut sample = look(NIP, SP, &["f", "g"]);
        let line = |sample: &Sample, activity| Place { sample, activity }.to_string();
        assert_eq!(line(&sample, Activity::Stuck), "CPU 1 stuck in f+0x8 ← g+0x8");
        assert_eq!(line(&sample, Activity::NotStarted), "CPU 1 not started");
        sample.cpu.nip = 0x1_0000;
        sample.cpu.msr = 1 << 63;
        assert_eq!(line(&sample, Activity::Loop), "CPU 1 spinning in real mode in f+0x8 ← g+0x8");
        assert_eq!(line(&sample, Activity::Firmware), "CPU 1 in firmware at 0x10000 ← g+0x8");
        sample.trace.frames[1].reliable = false;
        assert_eq!(line(&sample, Activity::Firmware), "CPU 1 in firmware at 0x10000");
    }
}
