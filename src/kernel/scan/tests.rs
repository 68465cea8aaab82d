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
                    assert!(outcome.stale.is_empty());
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
                let mut twin = 0x10_0000;
                if twin_below {
                    let shift = 0x10_0000;
                    craft.head += shift;
                    craft.descs += shift;
                    craft.infos += shift;
                    craft.data += shift;
                    twin = 0;
                }
                let mut ram = Ram::new(arch, 2 << 20);
                craft.write(&mut ram, records);
                let twin = (CRAFT.head & 0xf_ffff) + twin;
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
        let mut ram = Ram::new(arch, 2 << 20);
        CRAFT.write_head(&mut ram, CRAFT.head + 0x10_0000, 0);
        ram.word(CRAFT.head + 0x10_0000 - 0x40, ram.ea(CRAFT.head));
        let outcome = ram.scan();
        assert_eq!(outcome.verdict, Verdict::OnlyPristine(vec![CRAFT.head as u64 + 0x10_0000]));
        assert!(outcome.stale.is_empty());
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

/// A record of format B as log_store() lays it out; gives its length.
fn put_record(ram: &mut Ram, at: usize, header: usize, time: u64, text: &str, dict: &str) -> usize {
    let align = if header == 20 { 4 } else { 8 };
    let len = (header + text.len() + dict.len()).next_multiple_of(align);
    ram.u64(at, time);
    ram.u16(at + 8, len as u16);
    ram.u16(at + 10, text.len() as u16);
    ram.u16(at + 12, dict.len() as u16);
    ram.bytes[at + 15] = 0xc2;
    if header > 16 {
        ram.u32(at + 16, 0x8000_0000);
    }
    ram.put(at + header, text.as_bytes());
    ram.put(at + header + text.len(), dict.as_bytes());
    len
}

/// A buffer of `size` bytes at `start` into which `count` records were
/// stored; gives where the oldest and the next are.
fn put_records(
    ram: &mut Ram,
    start: usize,
    size: usize,
    header: usize,
    count: usize,
) -> (usize, usize) {
    let (mut next, mut first) = (0, 0);
    let mut live: Vec<(usize, usize)> = Vec::new();
    for n in 0..count {
        let text = format!("message {n} {}", "x".repeat(n * 7 % 60));
        let dict = if n % 5 == 0 { "SUBSYSTEM=pci\0DEVICE=+pci:0000:00:00.0" } else { "" };
        let room = (header + text.len() + dict.len()).next_multiple_of(8);
        // log_make_free_space() leaves room for the marker.
        if next + room + header > size {
            live.retain(|(at, _)| *at < next);
            ram.bytes[start + next..start + next + 16].fill(0);
            next = 0;
        }
        live.retain(|(at, len)| *at + *len <= next || *at >= next + room);
        let time = if n < 3 { 0 } else { n as u64 * 1_000_000 };
        let len = put_record(ram, start + next, header, time, &text, dict);
        live.push((next, len));
        next += len;
        first = live[0].0;
    }
    (first, next)
}

#[test]
fn record_buffers_are_found_whole_and_in_order() {
    for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
        for header in [16, 20, 24] {
            for (size, count) in [(0x4000, 4), (0x4000, 120), (0x2000, 300)] {
                let mut ram = Ram::new(arch, 1 << 20);
                let start = 0x8_0048;
                let (first, next) = put_records(&mut ram, start, size, header, count);
                ram.word(0x1_0000, ram.ea(start));
                ram.u32(0x1_0010, size as u32);
                let outcome = ram.scan();
                let Verdict::Live(found) = &outcome.verdict else { panic!("{outcome:?}") };
                assert_eq!((found.arch, found.confirmed), (arch, true));
                let effective = found.rule.effective(start as u64);
                let kind = Kind::Variable {
                    buffer: effective,
                    len: size as u64,
                    first_idx: first as u32,
                    next_idx: next as u32,
                    header,
                };
                assert_eq!(found.kind, kind, "{arch} {header} {count}");
            }
        }
    }
}

#[test]
fn the_larger_record_buffer_is_the_one_its_variable_names() {
    let (first, larger) = (0x8_0048, 65 << 20);
    let scanned = |variables: &[(usize, usize)]| {
        let mut ram = Ram::new(Arch::PPC64, 66 << 20);
        put_records(&mut ram, first, 0x4000, 16, 9);
        put_records(&mut ram, larger, 0x8000, 16, 11);
        for &(at, buffer) in variables {
            ram.word(at, ram.ea(buffer));
            // log_buf_len.
            ram.word(at + 8, (if buffer == first { 0x4000 } else { 0x8000 }) << 32);
        }
        let outcome = ram.scan();
        let Verdict::Live(found) = outcome.verdict else { panic!() };
        assert!(found.confirmed);
        (found.real as usize, outcome.read)
    };
    assert_eq!(scanned(&[(0x1_0000, larger)]).0, larger);
    // The variable of the kernel as it was loaded still leads to the first.
    assert_eq!(scanned(&[(0x1_0000, larger), (0x41_0000, first)]).0, larger);
    // Where the kernel's own does too, there is no other to look for.
    let (found, read) = scanned(&[(0x1_0000, first), (0x41_0000, first)]);
    assert!(found == first && read <= 64 << 20, "{found:#x} {read:#x}");
}

fn put_text(ram: &mut Ram, start: usize, size: usize, count: usize) -> usize {
    let mut at = 0;
    for n in 0..count {
        for byte in format!("<{}>[{:5}.{:06}] message {n}\n", n % 8, n / 10, n).bytes() {
            ram.bytes[start + at % size] = byte;
            at += 1;
        }
    }
    at
}

#[test]
fn text_is_found_with_its_seam() {
    for arch in [Arch::PPC64, Arch::PPC32] {
        for (size, count) in [(0x2000, 7), (0x1000, 300)] {
            let mut ram = Ram::new(arch, 1 << 20);
            // The kernel's own strings, which are no log.
            ram.put(0x2000, "<6>one\n\0<3>two\n\0<4>three %d\n\0".repeat(9).as_bytes());
            let start = 0x8_0040;
            let written = put_text(&mut ram, start, size, count);
            ram.word(0x1_0000, ram.ea(start));
            let Verdict::Live(found) = ram.scan().verdict else { panic!() };
            let at = found.rule.effective(start as u64);
            let (end, oldest) = if written <= size { (written, 0) } else { (size, written % size) };
            let kind = Kind::Bytes { start: at, end: at + end as u64, oldest: at + oldest as u64 };
            assert_eq!((found.kind, found.arch, found.confirmed), (kind, arch, true));
        }
    }
}

#[test]
fn a_log_buffer_alone_is_told_from_its_blocks() {
    for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
        for wide_ids in [false, true] {
            // 2^12 bytes of ring, of which the dump has twice as much.
            let mut ram = Ram::new(arch, 1 << 13);
            let word = arch.word.bytes();
            let craft = Craft { wide_ids, ..CRAFT };
            // As for 2^6, with 2^7 descriptors.
            let first = craft.first_id(arch.word) + 1 - (1 << BITS);
            let mut at = 0;
            for n in 0..20 {
                let text = format!("message {n}\n");
                ram.word(at, first + n);
                ram.put(at + word, text.as_bytes());
                at += (word + text.len() + 1).next_multiple_of(word);
            }
            let base = 0x40_1340;
            let memory = Image::new(base, ram.bytes);
            let outcome = scan(&memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
            let Verdict::Live(found) = outcome.verdict else { panic!() };
            assert_eq!(found.arch, arch);
            let data = found.rule.effective(base);
            assert_eq!(found.kind, Kind::Blocks { data, size: 1 << 12, len: 1 << 12 });
        }
    }
}

#[test]
fn a_record_buffer_alone_is_found_too() {
    let mut ram = Ram::new(Arch::PPC64, 0x2000);
    put_records(&mut ram, 0, 0x2000, 16, 300);
    let memory = Image::new(0x40_1340, ram.bytes);
    let outcome = scan(&memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let Verdict::Live(found) = outcome.verdict else { panic!() };
    assert_eq!((found.real, found.arch), (0x40_1340, Arch::PPC64));
    assert!(matches!(found.kind, Kind::Variable { len: 0x2000, header: 16, .. }));
}

#[test]
fn strings_of_a_kernel_are_no_log() {
    let mut ram = Ram::new(Arch::PPC64, 1 << 20);
    ram.put(0x2000, "<6>one\n\0<3>two\n\0<4>three %d\n\0".repeat(99).as_bytes());
    assert_eq!(ram.scan().verdict, Verdict::Nothing);
}

/// The RAM of real guests, saved by `pmemsave 0 SIZE FILE` into a directory
/// of FILEs, each with a FILE.expect that says `ring ADDRESS` (of the
/// `printk_ringbuffer`, by nm) or `pristine`.
#[test]
fn real_memory_gives_the_one_live_ring() {
    let Some(dir) = std::env::var_os("QEMU_LOGBUF_RAM_DUMPS") else {
        println!("skipped: QEMU_LOGBUF_RAM_DUMPS names no directory of guest RAM");
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let expect = entry.unwrap().path();
        if expect.extension().is_none_or(|extension| extension != "expect") {
            continue;
        }
        let memory = Image::new(0, std::fs::read(expect.with_extension("")).unwrap());
        let expected = std::fs::read_to_string(&expect).unwrap();
        let outcome = scan(&memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let name = expect.display();
        println!("{name}: {outcome:x?}");
        match expected.trim().strip_prefix("ring ") {
            Some(address) => {
                let (found, empty, _) = ring_of(&outcome);
                let address = address.trim_start_matches("0x");
                assert_eq!(found.effective, u64::from_str_radix(address, 16).unwrap(), "{name}");
                assert!(found.confirmed && !empty, "{name}");
            }
            None => assert!(matches!(outcome.verdict, Verdict::OnlyPristine(_)), "{name}"),
        }
        seen += 1;
        // None of it may be taken for a log of the older formats.
        let mut ignore = |_, _| ControlFlow::Continue(());
        let mut scan = Scan::new(&memory, &mut ignore);
        let (low, high) = split(memory.ram());
        let _ = scan.ranges(&low, Wanted { rings: None, old: true }).unwrap();
        let _ = scan.ranges(&high, Wanted { rings: None, old: true }).unwrap();
        println!("  older formats: {:x?} {:x?}", scan.rows, scan.texts);
    }
    assert!(seen > 0);
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    /// Bytes with much of what the scan looks for in them.
    fn memory() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..64),
            2 => (0usize..200).prop_map(|len| vec![0; len]),
            1 => Just(b"<6>[    0.000000] text\n".to_vec()),
            1 => Just(12u64.to_le_bytes().to_vec()),
            1 => Just(17u64.to_le_bytes().to_vec()),
            1 => Just(17u64.to_be_bytes().to_vec()),
            2 => (0u64..0x8000).prop_map(|at| ((at * 8) | (0xc << 60)).to_le_bytes().to_vec()),
            2 => (0u64..0x8000).prop_map(|at| ((at * 8) | (0xc << 60)).to_be_bytes().to_vec()),
            1 => Just(vec![0, 36, 0, 18, 0, 0, 0, 0xc2]),
            1 => Just(vec![36, 0, 18, 0, 0, 0, 0, 0xc2]),
        ];
        proptest::collection::vec(piece, 0..400).prop_map(|pieces| pieces.concat())
    }

    fn run(bytes: Vec<u8>) -> Outcome {
        scan(&Image::new(0, bytes), &mut |_, _| ControlFlow::Continue(())).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_scanned_to_the_end(bytes in memory()) {
            run(bytes);
        }

        #[test]
        fn a_damaged_ring_does_no_harm(
            damage in proptest::collection::vec((0x3_f000usize..0x4_3000, any::<u8>()), 0..40),
            arch in prop_oneof![Just(Arch::PPC64LE), Just(Arch::PPC64), Just(Arch::PPC32)],
        ) {
            let mut ram = Ram::new(arch, 0x6_0000);
            CRAFT.write(&mut ram, 9);
            for (at, byte) in damage {
                ram.bytes[at] = byte;
            }
            run(ram.bytes);
        }

        #[test]
        fn damaged_records_do_no_harm(
            damage in proptest::collection::vec((0usize..0x2000, any::<u8>()), 0..40),
        ) {
            let mut ram = Ram::new(Arch::PPC64LE, 0x4000);
            put_records(&mut ram, 0x48, 0x2000, 16, 90);
            for (at, byte) in damage {
                ram.bytes[at] = byte;
            }
            run(ram.bytes);
        }
    }

    #[test]
    fn a_guest_full_of_lies_takes_no_longer_than_reading_it() {
        // Each a place that passes the sieve and takes a look to refute.
        let mut head = vec![0u8; 96];
        head[0] = 12;
        head[48] = 17;
        for at in [8, 16, 56] {
            head[at..at + 8].copy_from_slice(&0xc000_0000_0000_1000u64.to_le_bytes());
        }
        for lie in [
            head,
            b"<6>a\n<6>b\n".to_vec(),
            b"<6>".to_vec(),
            b"<6>aaa\0".to_vec(),
            vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 36, 0, 18, 0, 0, 0, 0x16],
            vec![32, 0, 16, 0, 0, 0, 0, 0xc2],
            vec![b' ', b' ', 0x08, 0x20, 0, 0, 0, 0xc2],
        ] {
            let bytes = lie.repeat((1 << 20) / lie.len());
            let begin = std::time::Instant::now();
            run(bytes);
            let took = begin.elapsed();
            assert!(took.as_secs() < 20, "{lie:?} took {took:?}");
        }
    }
}
