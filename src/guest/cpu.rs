//! The registers of the guest's processors, as QEMU prints them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

/// One processor's registers at one moment. Narrower ones are widened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// QEMU's number of the processor.
    pub index: u32,
    /// Address of the next instruction.
    pub nip: u64,
    /// Link register: where the last call returns to.
    pub lr: u64,
    /// Count register: where the last indirect branch went.
    pub ctr: u64,
    /// Machine state.
    pub msr: u64,
    /// General registers 0 to 31.
    pub gpr: [u64; 32],
}

impl Cpu {
    /// The stack pointer.
    #[must_use]
    pub const fn stack(&self) -> u64 {
        self.gpr[1]
    }

    /// Whether external interrupts are taken (MSR EE).
    #[must_use]
    pub const fn interrupts(&self) -> bool {
        self.msr & 0x8000 != 0
    }

    /// Whether it runs a user's program (MSR PR).
    #[must_use]
    pub const fn user(&self) -> bool {
        self.msr & 0x4000 != 0
    }

    /// Whether instruction addresses are translated (MSR IR). On Book E the
    /// bit chooses one of two translated spaces instead.
    #[must_use]
    pub const fn translated(&self) -> bool {
        self.msr & 0x20 != 0
    }

    /// Whether its addresses are real ones, with 64-bit registers. Only Book S
    /// has such a mode: elsewhere MSR IR says nothing of translation.
    #[must_use]
    pub const fn real_mode(&self) -> bool {
        self.msr >> 63 == 1 && !self.translated()
    }
}

impl fmt::Display for Cpu {
    /// The registers over several lines, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nip, lr, ctr, msr, .. } = self;
        write!(f, "NIP {nip:016x} LR {lr:016x} CTR {ctr:016x} MSR {msr:016x}")?;
        for (line, registers) in self.gpr.chunks(4).enumerate() {
            write!(f, "\nGPR{:02}", 4 * line)?;
            for register in registers {
                write!(f, " {register:016x}")?;
            }
        }
        Ok(())
    }
}

/// How long the host has run its thread of id `thread` so far: of a thread
/// that QEMU runs a processor in, how long the processor has run. Brought up
/// to date every few milliseconds.
#[must_use]
pub fn run_time(thread: i32) -> Option<Duration> {
    // One read gives all of it.
    let mut stat = [0; 64];
    let len = File::open(format!("/proc/{thread}/schedstat")).ok()?.read(&mut stat).ok()?;
    let stat = std::str::from_utf8(stat.get(..len)?).ok()?;
    let nanos = stat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// The processors in the text of `info registers -a`, ascending. One whose
/// instruction address or stack pointer is missing is left out.
#[must_use]
pub fn parse(text: &str) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = text.split("\nCPU#").skip(1).filter_map(cpu).collect();
    if cpus.is_empty() {
        // The first line may be the first processor's.
        cpus.extend(text.strip_prefix("CPU#").and_then(cpu));
    }
    cpus.sort_by_key(|cpu| cpu.index);
    cpus
}

/// One processor: its number, then lines of names and values.
fn cpu(text: &str) -> Option<Cpu> {
    let (number, lines) = text.split_once('\n')?;
    let mut gpr = [None; 32];
    let (mut nip, mut lr, mut ctr, mut msr) = (None, None, None, None);
    for line in lines.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(number) = first.strip_prefix("GPR") {
            let from: usize = number.parse().ok()?;
            for (place, word) in gpr.iter_mut().skip(from).take(4).zip(words) {
                *place = hex(word);
            }
            continue;
        }
        // Other versions put other registers in between.
        if !matches!(first, "NIP" | "MSR") {
            continue;
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        for pair in words.windows(2) {
            let &[name, value] = pair else { continue };
            match name {
                "NIP" => nip = hex(value),
                "LR" => lr = hex(value),
                "CTR" => ctr = hex(value),
                "MSR" => msr = hex(value),
                _ => {}
            }
        }
    }
    gpr[1]?;
    Some(Cpu {
        index: number.trim().parse().ok()?,
        nip: nip?,
        lr: lr?,
        ctr: ctr?,
        msr: msr?,
        gpr: gpr.map(Option::unwrap_or_default),
    })
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_of_a_real_pseries_is_read() {
        let cpus = parse(include_str!("testdata/registers-pseries-smp2-7.2"));
        assert_eq!(cpus.len(), 2);
        let [first, second] = &cpus[..] else { panic!("two") };
        assert_eq!((first.index, first.nip, first.lr, first.msr), (0, 0x100, 0, 0));
        assert_eq!(first.gpr[3], 0x1fe0_0000);
        assert_eq!((second.index, second.nip, second.gpr[3]), (1, 0x100, 0));
        assert!(!first.user() && !first.translated() && !first.interrupts());
    }

    #[test]
    fn narrow_registers_and_further_ones_between_are_read() {
        let text = "\r\nCPU#3\r\n\
            NIP c000d0f4   LR c000c2a8 CTR 00000001 XER 00000000 PIR 00000003 CPU#3\r\n\
            MSR 00009032 HID0 00000000  HF 6c000000 iidx 3 didx 3\r\n\
            GPR00 c000c2a8 c0f5bf10 c0e9a7c0 00000000\r\n\
            GPR04 00000004 00000005 00000006 00000007\r\n";
        let cpus = parse(text);
        assert_eq!(cpus.len(), 1);
        let cpu = &cpus[0];
        assert_eq!((cpu.index, cpu.nip, cpu.lr, cpu.ctr), (3, 0xc000_d0f4, 0xc000_c2a8, 1));
        assert_eq!((cpu.stack(), cpu.gpr[7], cpu.gpr[8]), (0xc0f5_bf10, 7, 0));
        assert!(cpu.translated() && cpu.interrupts() && !cpu.user());
        assert_eq!(parse(&text.replace("\r\n", "\n")), cpus);
        assert_eq!(parse(text.trim_start()), cpus);
        assert!(cpu.to_string().starts_with("NIP 00000000c000d0f4 LR 00000000c000c2a8"));
        assert_eq!(cpu.to_string().lines().count(), 9);
    }

    #[test]
    fn a_threads_time_on_the_host_grows_as_it_runs() {
        let this = nix::unistd::gettid().as_raw();
        let Some(before) = run_time(this) else { return };
        let busy = std::time::Instant::now();
        while run_time(this) == Some(before) {
            assert!(busy.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(run_time(i32::MAX), None);
    }

    #[test]
    fn what_is_not_registers_gives_no_processors() {
        for text in ["", "CPU#", "\nCPU#0\n", "\nCPU#x\nNIP 1 LR 2\n", "No CPU available\r\n"] {
            assert_eq!(parse(text), [], "{text:?}");
        }
        let broken = "\nCPU#0\nNIP 1 LR 2 CTR 3\nMSR 4\nGPR99 1 2\nGPR30 1 2 3 4\nGPR-1 1\n";
        assert_eq!(parse(broken), []);
        assert_eq!(parse(&broken.replace("MSR", "\nCPU#")), []);
    }
}
