//! Scans of crafted memory: every layout, and what must not be taken for a
//! log.

use super::*;
use crate::arch::{Endian, Word};
use crate::guest::Image;

/// Guest RAM being written by a kernel of some architecture.
struct Ram {
    arch: Arch,
    distance: u64,
    bytes: Vec<u8>,
}

impl Ram {
    fn new(arch: Arch, size: usize) -> Self {
        let distance = match arch.word {
            Word::W64 => 0xc000_0000_0000_0000,
            Word::W32 => 0xc000_0000,
        };
        Self { arch, distance, bytes: vec![0; size] }
    }

    fn ea(&self, real: usize) -> u64 {
        real as u64 + self.distance
    }

    fn put(&mut self, at: usize, raw: &[u8]) {
        self.bytes[at..at + raw.len()].copy_from_slice(raw);
    }

    fn u16(&mut self, at: usize, value: u16) {
        let raw = if self.big() { value.to_be_bytes() } else { value.to_le_bytes() };
        self.put(at, &raw);
    }

    fn u32(&mut self, at: usize, value: u32) {
        let raw = if self.big() { value.to_be_bytes() } else { value.to_le_bytes() };
        self.put(at, &raw);
    }

    fn u64(&mut self, at: usize, value: u64) {
        let raw = if self.big() { value.to_be_bytes() } else { value.to_le_bytes() };
        self.put(at, &raw);
    }

    fn word(&mut self, at: usize, value: u64) {
        match self.arch.word {
            Word::W64 => self.u64(at, value),
            Word::W32 => self.u32(at, value as u32),
        }
    }

    fn big(&self) -> bool {
        self.arch.endian == Endian::Big
    }

    fn scan(self) -> Outcome {
        scan(&Image::new(0, self.bytes), &mut |_, _| ControlFlow::Continue(())).unwrap()
    }
}

/// A ring of 2^6 descriptors at fixed places.
#[derive(Clone, Copy)]
struct Craft {
    /// `sizeof(struct prb_desc_ring)` in words.
    desc_ring_words: usize,
    info_size: usize,
    /// 7.x computes DESC0_ID in 64 bits.
    wide_ids: bool,
    head: usize,
    descs: usize,
    infos: usize,
    data: usize,
}

const BITS: u32 = 6;

const CRAFT: Craft = Craft {
    desc_ring_words: 6,
    info_size: 88,
    wide_ids: false,
    head: 0x4_0188,
    descs: 0x4_0200,
    infos: 0x4_1000,
    data: 0x5_0000,
};

impl Craft {
    fn first_id(&self, word: Word) -> u64 {
        let id = -(1i64 + (1 << BITS));
        match (word, self.wide_ids) {
            (Word::W64, true) => id as u64 & (u64::MAX >> 2),
            (Word::W64, false) => u64::from(id as u32),
            (Word::W32, _) => u64::from(id as u32 & (u32::MAX >> 2)),
        }
    }

    /// The head at `at`, with pointers to the arrays at their home.
    fn write_head(&self, ram: &mut Ram, at: usize, records: u64) {
        let word = ram.arch.word.bytes();
        let first = self.first_id(ram.arch.word);
        let text = at + self.desc_ring_words * word;
        let tail = if records == 0 { first } else { first + 1 };
        ram.u32(at, BITS);
        ram.word(at + word, ram.ea(self.descs));
        ram.word(at + 2 * word, ram.ea(self.infos));
        ram.word(at + 3 * word, first + records);
        ram.word(at + 4 * word, tail);
        ram.u32(text, BITS + 5);
        ram.word(text + word, ram.ea(self.data));
        let begin = (1u64 << (BITS + 5)).wrapping_neg();
        ram.word(text + 2 * word, begin + records * 32);
        ram.word(text + 3 * word, begin);
    }

    fn write_arrays(&self, ram: &mut Ram, records: u64) {
        let word = ram.arch.word.bytes();
        let first = self.first_id(ram.arch.word);
        let last = self.descs + ((1 << BITS) - 1) * 3 * word;
        ram.word(last, first | 3 << (word * 8 - 2));
        ram.word(last + word, 1);
        ram.word(last + 2 * word, 1);
        for n in 0..records {
            let desc = self.descs + n as usize * 3 * word;
            ram.word(desc, (first + 1 + n) | 2 << (word * 8 - 2));
            ram.word(desc + word, n * 32);
            ram.word(desc + 2 * word, n * 32 + 32);
            ram.u64(self.infos + n as usize * self.info_size, n);
        }
    }

    /// The ring at home, the variable `prb` below it.
    fn write(&self, ram: &mut Ram, records: u64) {
        self.write_head(ram, self.head, records);
        self.write_arrays(ram, records);
        ram.word(self.head - 0x40, ram.ea(self.head));
    }
}

fn ring_of(outcome: &Outcome) -> (&Found, bool, Option<usize>) {
    match &outcome.verdict {
        Verdict::Live(found @ Found { kind: Kind::Ringbuffer { prb, empty, info_size }, .. }) => {
            assert_eq!(*prb, found.effective);
            (found, *empty, *info_size)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rings_of_every_layout_are_found() {
    for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
        for desc_ring_words in [5, 6] {
            for info_size in [88, 112] {
                for wide_ids in [false, true] {
                    let craft = Craft { desc_ring_words, info_size, wide_ids, ..CRAFT };
                    let mut ram = Ram::new(arch, 1 << 20);
                    craft.write(&mut ram, 9);
                    let outcome = ram.scan();
                    let (found, empty, size) = ring_of(&outcome);
                    assert_eq!(found.real, CRAFT.head as u64);
                    assert_eq!((found.arch, found.confirmed, empty), (arch, true, false));
                    assert_eq!(size, Some(info_size));
                    assert_eq!(found.rule.real(found.effective), Some(found.real));
                    assert_eq!(outcome.stale, []);
                }
            }
        }
    }
}

#[test]
fn the_stale_twin_is_put_aside_wherever_it_lies() {
    for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
        for twin_below in [false, true] {
            for records in [0, 1, 40] {
                let mut craft = CRAFT;
                let mut twin = 0x40_0000;
                if twin_below {
                    let shift = 0x40_0000;
                    craft.head += shift;
                    craft.descs += shift;
                    craft.infos += shift;
                    craft.data += shift;
                    twin = 0;
                }
                let mut ram = Ram::new(arch, 8 << 20);
                craft.write(&mut ram, records);
                let twin = (CRAFT.head & 0x3f_ffff) + twin;
                craft.write_head(&mut ram, twin, 0);
                ram.word(twin - 0x40, ram.ea(craft.head));
                let outcome = ram.scan();
                let (found, empty, _) = ring_of(&outcome);
                assert_eq!(found.real, craft.head as u64, "{arch} {twin_below} {records}");
                assert_eq!(empty, records == 0);
                assert!(found.confirmed);
                if twin_below || records == 0 {
                    assert_eq!(outcome.stale, [twin as u64]);
                }
            }
        }
    }
}

#[test]
fn images_of_a_kernel_not_entered_are_no_log() {
    for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
        let mut ram = Ram::new(arch, 8 << 20);
        CRAFT.write_head(&mut ram, CRAFT.head + 0x40_0000, 0);
        ram.word(CRAFT.head + 0x40_0000 - 0x40, ram.ea(CRAFT.head));
        let outcome = ram.scan();
        assert_eq!(outcome.verdict, Verdict::OnlyPristine(vec![CRAFT.head as u64 + 0x40_0000]));
        assert_eq!(outcome.stale, []);
    }
}

#[test]
fn the_larger_ring_is_followed_even_above_low_memory() {
    for (head, size) in [(0x6_0000, 1 << 20), (72 << 20, 80 << 20)] {
        let mut ram = Ram::new(Arch::PPC64LE, size);
        CRAFT.write(&mut ram, 9);
        let larger = Craft {
            head,
            descs: size - 0x2_0000,
            infos: size - 0x1_0000,
            data: size - 0x2_8000,
            ..CRAFT
        };
        larger.write_head(&mut ram, larger.head, 11);
        larger.write_arrays(&mut ram, 11);
        ram.word(CRAFT.head - 0x40, ram.ea(larger.head));
        // A relocation that still says what `prb` was at first.
        ram.word(CRAFT.head + 0x108, ram.ea(CRAFT.head - 0x40));
        ram.word(CRAFT.head + 0x110, 22);
        ram.word(CRAFT.head + 0x118, ram.ea(CRAFT.head));
        let outcome = ram.scan();
        let (found, ..) = ring_of(&outcome);
        assert_eq!(found.real, larger.head as u64);
        assert!(found.confirmed);
        assert_eq!(outcome.stale, [CRAFT.head as u64]);
        assert!(outcome.read <= 65 << 20);
    }
}

#[test]
fn a_page_offset_of_its_own_is_worked_out() {
    for (distance, base, rule) in [
        (0x8000_0000, 0, AddressRule::Linear32 { page_offset: 0x8000_0000, memstart: 0 }),
        (0xc400_0000, 0, AddressRule::Linear32 { page_offset: 0xc400_0000, memstart: 0 }),
        // Book-E, relocated to RAM that begins at 64 MiB for this kernel.
        (
            0xbc00_0000,
            0x400_0000,
            AddressRule::Linear32 { page_offset: 0xc000_0000, memstart: 0x400_0000 },
        ),
    ] {
        let mut ram = Ram::new(Arch::PPC32, 1 << 20);
        ram.distance = distance + base;
        CRAFT.write(&mut ram, 5);
        let memory = Image::new(base, ram.bytes);
        let outcome = scan(&memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let (found, ..) = ring_of(&outcome);
        assert_eq!((found.rule, found.real), (rule, base + CRAFT.head as u64));
        assert_eq!(found.effective, distance + base + CRAFT.head as u64);
    }
}

#[test]
fn a_used_ring_without_a_variable_is_likely_but_not_confirmed() {
    let mut ram = Ram::new(Arch::PPC64LE, 1 << 20);
    CRAFT.write_head(&mut ram, CRAFT.head, 9);
    CRAFT.write_arrays(&mut ram, 9);
    let outcome = ram.scan();
    let (found, ..) = ring_of(&outcome);
    assert!(!found.confirmed);
}

#[test]
fn a_ring_lies_across_two_chunks_and_above_a_gap() {
    let mut ram = Ram::new(Arch::PPC64, 3 << 20);
    let at = (2 << 20) - 16;
    let craft = Craft { head: at, ..CRAFT };
    craft.write(&mut ram, 9);
    assert_eq!(ring_of(&ram.scan()).0.real, at as u64);

    // All of it above a gap in RAM.
    let base = 0x1_0000_0000;
    let mut ram = Ram::new(Arch::PPC64, 1 << 20);
    ram.distance += base;
    CRAFT.write(&mut ram, 9);
    let memory = Image::new(0, vec![0; 1 << 20]).with(base, ram.bytes);
    let outcome = scan(&memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(ring_of(&outcome).0.real, base + CRAFT.head as u64);
}

#[test]
fn a_scan_can_be_cancelled_and_tells_how_far_it_is() {
    let mut seen = Vec::new();
    let memory = Image::new(0, vec![0; 5 << 20]).with(1 << 30, vec![0; 1 << 20]);
    let outcome = scan(&memory, &mut |done, total| {
        seen.push((done >> 20, total >> 20));
        ControlFlow::Continue(())
    });
    assert_eq!(outcome.unwrap().verdict, Verdict::Nothing);
    assert_eq!(seen.last(), Some(&(6, 6)));
    let cancelled = scan(&memory, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(ReadError::Cancelled)));
}
