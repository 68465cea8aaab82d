//! Chains written by hand into a small memory, right and wrong.

use super::*;
use crate::arch::{Arch, Endian};
use crate::guest::Image;

const PPC64: u64 = 0xc000_0000_0000_0000;
const SIZE: usize = 0x4_0000;

/// A small guest: code in the first half, stacks in the second.
struct Guest {
    arch: Arch,
    rule: AddressRule,
    memory: Vec<u8>,
}

impl Guest {
    fn new(arch: Arch) -> Self {
        let rule = match arch.word {
            Word::W64 => AddressRule::Linear64,
            Word::W32 => AddressRule::PPC32,
        };
        Self { arch, rule, memory: vec![0; SIZE] }
    }

    fn put(&mut self, real: u64, value: u64, size: usize) {
        let bytes = match self.arch.endian {
            Endian::Little => value.to_le_bytes()[..size].to_vec(),
            Endian::Big => value.to_be_bytes()[8 - size..].to_vec(),
        };
        self.memory[real as usize..][..size].copy_from_slice(&bytes);
    }

    fn word(&mut self, real: u64, value: u64) {
        self.put(real, value, self.arch.word.bytes());
    }

    fn code(&mut self, real: u64, instruction: u32) {
        self.put(real, instruction.into(), 4);
    }

    fn at(&self, real: u64) -> u64 {
        self.rule.effective(real)
    }

    /// A frame at `real` whose caller's is at `caller`, and in the caller's
    /// the return to just after a call at `call`.
    fn frame(&mut self, real: u64, caller: u64, call: u64) {
        self.word(real, self.at(caller));
        self.word(caller + self.slot(), self.at(call + 4));
        self.code(call, 0x4800_0001);
    }

    fn slot(&self) -> u64 {
        2 * self.arch.word.bytes() as u64 - if self.arch.word == Word::W32 { 4 } else { 0 }
    }

    fn cpu(&self, nip: u64, lr: u64, stack: u64) -> Cpu {
        let mut gpr = [0; 32];
        gpr[1] = self.at(stack);
        Cpu { index: 0, nip: self.at(nip), lr: self.at(lr), ctr: 0, msr: 0x30, gpr }
    }

    /// The trace of `cpu`, with a function of 0x100 bytes at each multiple
    /// of that: `f10` at 0x1000, ... and the kernel's entry at 0x100.
    fn trace(&self, cpu: &Cpu) -> Trace {
        let image = Image::new(0, self.memory.clone());
        let view = View::new(&image, self.arch, self.rule);
        let symbols = |address: u64| {
            let real = self.rule.real(address).filter(|real| *real < SIZE as u64 / 2)?;
            (self.rule.effective(real) == address).then_some(())?;
            let name = match real >> 8 {
                1 => "start_here_common".to_owned(),
                2 => ".do_softirq_own_stack".to_owned(),
                number => format!("f{number:x}"),
            };
            Some((name, real & 0xff))
        };
        Walker::new(view, &symbols).trace(cpu)
    }

    fn line(&self, cpu: &Cpu) -> String {
        self.trace(cpu).to_string()
    }
}

const ALL: [Arch; 3] = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];

/// f10 called f20 called f30, which is at +0x20 and has made its frame.
fn three(arch: Arch) -> Guest {
    let mut guest = Guest::new(arch);
    let make = if arch.word == Word::W64 { 0xf821_ff91 } else { 0x9421_fff0 };
    guest.code(0x3004, make);
    guest.frame(0x3_0000, 0x3_0080, 0x2010);
    guest.frame(0x3_0080, 0x3_0100, 0x1018);
    guest.frame(0x3_0100, 0x3_0180, 0x0114);
    guest
}

#[test]
fn a_chain_is_followed_to_the_kernels_entry() {
    for arch in ALL {
        let guest = three(arch);
        // The link register as the last call inside f30 left it.
        let trace = guest.trace(&guest.cpu(0x3020, 0x3018, 0x3_0000));
        assert_eq!(
            trace.to_string(),
            "f30+0x20 ← f20+0x14 ← f10+0x1c ← start_here_common+0x18",
            "{arch}"
        );
        assert_eq!(trace.end, End::Entry);
        // And as on entry.
        assert_eq!(
            guest.line(&guest.cpu(0x3020, 0x2014, 0x3_0000)),
            "f30+0x20 ← f20+0x14 ← f10+0x1c ← start_here_common+0x18",
            "{arch}"
        );
    }
}

#[test]
fn a_leaf_functions_caller_is_in_the_link_register() {
    for arch in ALL {
        let mut guest = three(arch);
        guest.code(0x3014, 0x4800_0001);
        for offset in [0, 0x20] {
            assert_eq!(
                guest.line(&guest.cpu(0x4000 + offset, 0x3018, 0x3_0000)),
                format!(
                    "f40+{offset:#x} ← f30+0x18 ← f20+0x14 ← f10+0x1c ← start_here_common+0x18"
                ),
                "{arch}"
            );
        }
        // A return address that no call leads to is no caller for certain.
        assert!(guest.line(&guest.cpu(0x4000, 0x3028, 0x3_0000)).contains("← f30+0x28 (?) ← f20"));
        // Beyond a frame the register may be stale, or the frame undone.
        let make = if arch.word == Word::W64 { 0xf821_ff91 } else { 0x9421_fff0 };
        guest.code(0x4000, make);
        assert!(guest.line(&guest.cpu(0x4020, 0x3018, 0x3_0000)).contains("← f30+0x18 (?) ← f20"));
        assert!(
            guest.line(&guest.cpu(0x4020, 0x3028, 0x3_0000)).starts_with("f40+0x20 ← f20+0x14")
        );
        assert!(guest.line(&guest.cpu(0x4000, 0x3018, 0x3_0000)).contains("← f30+0x18 ← f20"));
    }
}

#[test]
fn a_return_beyond_the_end_of_a_function_names_the_function() {
    let mut guest = three(Arch::PPC64LE);
    guest.frame(0x3_0000, 0x3_0080, 0x20fc);
    assert!(guest.line(&guest.cpu(0x3020, 0, 0x3_0000)).starts_with("f30+0x20 ← f20+0x100 ← f10"));
}

#[test]
fn frames_that_no_call_made_are_marked() {
    let mut guest = three(Arch::PPC64LE);
    guest.code(0x1018, 0x6000_0000);
    assert_eq!(
        guest.line(&guest.cpu(0x3020, 0, 0x3_0000)),
        "f30+0x20 ← f20+0x14 ← f10+0x1c (?) ← start_here_common+0x18"
    );
}

#[test]
fn real_mode_addresses_are_named_too() {
    for arch in ALL {
        let guest = three(arch);
        let mut cpu = guest.cpu(0x3020, 0, 0x3_0000);
        cpu.nip = 0x3020;
        cpu.msr = 0;
        assert!(guest.line(&cpu).starts_with("f30+0x20 ← f20+0x14 ←"), "{arch}");
        cpu.gpr[1] = 0x3_0000;
        assert!(guest.line(&cpu).starts_with("f30+0x20 ← f20+0x14 ←"), "{arch}");
    }
}

/// An exception's frame at `real`, from `nip` with the stack at `stack`.
fn exception(guest: &mut Guest, real: u64, marker: u64, nip: u64, stack: u64, msr: u64) {
    let (size, mark) = match guest.arch.word {
        Word::W64 if marker == 32 => (8, 0x5347_4552),
        Word::W64 => (8, 0x7265_6773_6865_7265),
        Word::W32 => (4, 0x7265_6773),
    };
    guest.word(real, guest.at(stack));
    guest.word(real + marker, mark);
    let registers = real + marker + 2 * size;
    for (number, value) in
        [(1, guest.at(stack)), (32, guest.at(nip)), (33, msr), (36, guest.at(0x2014)), (40, 0x901)]
    {
        guest.word(registers + number * size, value);
    }
}

#[test]
fn an_interrupted_function_is_shown_with_its_vector() {
    for (arch, marker) in
        [(Arch::PPC64LE, 32), (Arch::PPC64LE, 96), (Arch::PPC64, 96), (Arch::PPC32, 8)]
    {
        let mut guest = three(arch);
        // f50, called from f60 where exceptions come in.
        guest.frame(0x2_f000, 0x2_f080, 0x6000);
        exception(&mut guest, 0x2_f080, marker, 0x3020, 0x3_0000, 0x9030);
        guest.word(0x2_f080 + guest.slot(), guest.at(0x6004));
        assert_eq!(
            guest.line(&guest.cpu(0x5010, 0x5008, 0x2_f000)),
            "f50+0x10 ← f60+0x4 ← [interrupt 0x900] f30+0x20 ← f20+0x14 ← f10+0x1c \
             ← start_here_common+0x18",
            "{arch} {marker}"
        );
        // The remains of one: its stack pointer is not the chain's.
        guest.word(0x2_f080, guest.at(0x3_0080));
        assert!(!guest.line(&guest.cpu(0x5010, 0x5008, 0x2_f000)).contains("interrupt"));
        // From a program.
        exception(&mut guest, 0x2_f080, marker, 0x3020, 0x3_0000, 0xd030);
        let trace = guest.trace(&guest.cpu(0x5010, 0x5008, 0x2_f000));
        assert_eq!((trace.frames.len(), trace.end), (3, End::User));
    }
}

#[test]
fn an_interrupts_own_stack_is_left_where_it_is_known() {
    let mut guest = three(Arch::PPC64);
    // f50 on another stack above, called in do_softirq_own_stack.
    guest.frame(0x3_8000, 0x3_8080, 0x0210);
    guest.word(0x3_8080, guest.at(0x3_0000));
    guest.word(0x3_0000 + 16, guest.at(0x3024));
    guest.code(0x3020, 0x4800_0001);
    assert_eq!(
        guest.line(&guest.cpu(0x5010, 0x5008, 0x3_8000)),
        "f50+0x10 ← do_softirq_own_stack+0x14 ← f30+0x24 ← f20+0x14 ← f10+0x1c \
         ← start_here_common+0x18"
    );
    // The same step out of any other function is doubted from there on.
    guest.frame(0x3_8000, 0x3_8080, 0x7010);
    assert_eq!(
        guest.line(&guest.cpu(0x5010, 0x5008, 0x3_8000)),
        "f50+0x10 ← f70+0x14 ← f30+0x24 (?) ← f20+0x14 (?) ← f10+0x1c (?) \
         ← start_here_common+0x18 (?)"
    );
}

#[test]
fn loops_ends_and_lies_are_ends() {
    for arch in ALL {
        let mut guest = three(arch);
        let cpu = guest.cpu(0x3020, 0, 0x3_0000);
        // To itself.
        guest.word(0x3_0100, guest.at(0x3_0100));
        let trace = guest.trace(&cpu);
        assert!(trace.frames.len() < 10, "{trace}");
        assert_eq!(trace.end, End::Broken(guest.at(0x3_0100)));
        // Round and round.
        guest.word(0x3_0100, guest.at(0x3_0000));
        assert!(matches!(guest.trace(&cpu).end, End::Broken(_)));
        assert!(guest.trace(&cpu).frames.len() < FRAMES);
        // Odd, null, out of memory.
        guest.word(0x3_0100, guest.at(0x3_0181));
        assert_eq!(guest.trace(&cpu).end, End::Broken(guest.at(0x3_0181)));
        guest.word(0x3_0100, guest.at(0x70_0000));
        assert_eq!(guest.trace(&cpu).end, End::Unreadable(guest.at(0x70_0000)));
        guest.word(0x3_0100, 0);
        assert_eq!(guest.trace(&cpu).end, End::Entry);
        guest.word(0x3_0100, guest.at(0x3_0180));
        guest.word(0x3_0180 + guest.slot(), guest.at(0x1001));
        guest.word(0x3_0180, guest.at(0x3_0200));
        assert_eq!(guest.trace(&cpu).end, End::Broken(guest.at(0x3_0180)));
        for stack in [0, 1, 8, u64::MAX, !15, PPC64 | 0x8_0000_0000_0000] {
            let mut cpu = cpu.clone();
            cpu.gpr[1] = stack;
            let trace = guest.trace(&cpu);
            assert_eq!(trace.frames.len(), 1, "{stack:#x} {trace}");
        }
    }
}

#[test]
fn a_long_chain_is_cut() {
    let mut guest = Guest::new(Arch::PPC64LE);
    for number in 0..200 {
        guest.frame(0x2_0000 + number * 32, 0x2_0020 + number * 32, 0x1010);
    }
    let trace = guest.trace(&guest.cpu(0x3020, 0, 0x2_0000));
    assert_eq!((trace.frames.len(), trace.end), (FRAMES, End::Limit));
    assert!(trace.to_string().ends_with(" ← ..."));
}

#[test]
fn a_stack_in_vmalloc_space_is_read_through_page_tables() {
    let guest = three(Arch::PPC64LE);
    let image = Image::new(0, guest.memory.clone());
    let view = View::new(&image, guest.arch, guest.rule);
    const VMALLOC: u64 = 0xc008_0000_0000_0000;
    let mapped = |address: u64, buf: &mut [u8]| {
        let read = |at: u64| crate::guest::Memory::read(&image, at, buf).is_ok();
        address.checked_sub(VMALLOC).is_some_and(read)
    };
    let mut cpu = guest.cpu(0x3020, 0, 0x3_0000);
    cpu.gpr[1] = VMALLOC + 0x3_0000;
    let bare = Walker::new(view, &|_| None);
    assert_eq!(bare.trace(&cpu).end, End::Unreadable(VMALLOC + 0x3_0000));
    let trace = bare.with_mapped(&mapped).trace(&cpu);
    assert!(trace.frames.len() > 1, "{trace}");
    assert!(trace.to_string().starts_with("0xc000000000003020 ← 0xc000000000002014"), "{trace}");
}

#[test]
fn no_memory_makes_it_panic_or_go_on_for_ever() {
    use proptest::prelude::*;
    let words = proptest::collection::vec((0..SIZE as u64 / 8, 0..4_u8, any::<u64>()), 0..400);
    let config = ProptestConfig { cases: 200, ..ProptestConfig::default() };
    proptest!(config, |(words in words, nip in any::<u64>(), lr in any::<u64>(), stack in any::<u64>(), arch in 0..3_usize, near: bool)| {
        let mut guest = Guest::new(ALL[arch]);
        for (place, kind, value) in words {
            // Mostly what could be a chain.
            let value = match kind {
                0 => value,
                1 => guest.at((value % SIZE as u64) & !15),
                2 => guest.at((value % SIZE as u64) & !3),
                _ => 0x7265_6773_6865_7265,
            };
            guest.word(place * 8, value);
        }
        let mut cpu = guest.cpu(nip % SIZE as u64, lr % SIZE as u64, (stack % SIZE as u64) & !15);
        if !near {
            (cpu.nip, cpu.lr, cpu.gpr[1]) = (nip, lr, stack);
        }
        let trace = guest.trace(&cpu);
        prop_assert!(!trace.frames.is_empty() && trace.frames.len() <= FRAMES + 1);
    });
}
