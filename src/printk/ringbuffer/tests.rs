//! The ring decoder against rings made to order.

#![allow(clippy::indexing_slicing)]

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::printk::craft::{Line, RingPlan, RingWriter, Running, Sheet};
use crate::printk::{Caller, Device, Record};

/// Every layout there is: word size, byte order, infos, header, first id,
/// perfect fit.
fn plans() -> Vec<RingPlan> {
    let mut plans = Vec::new();
    for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
        for info_stride in [88, 112] {
            for six_words in [false, true] {
                for wide_ids in [false, true] {
                    for perfect_fit in [false, true] {
                        let base = RingPlan::SMALL.base;
                        let count_bits = 6;
                        plans.push(RingPlan {
                            arch,
                            base,
                            count_bits,
                            info_stride,
                            six_words,
                            wide_ids,
                            perfect_fit,
                            future: false,
                        });
                    }
                }
            }
        }
    }
    plans
}

fn read(sheet: &Sheet, prb: u64) -> Log {
    let image = sheet.image();
    let view = sheet.view(&image);
    let ring = Ring::open(&view, prb).expect("the ring is well-formed");
    ring.read(&view).expect("the ring is readable")
}

fn log_of(writer: &RingWriter) -> Log {
    read(&writer.sheet, writer.prb())
}

/// Lines of many lengths, some with devices, flags and other callers.
fn line(nth: u64) -> Line {
    let mut line = Line::new(format!("{nth}: {}", "x".repeat((nth * 7 % 61) as usize)));
    line.level = (nth % 8) as u8;
    line.facility = (nth % 3) as u8;
    line.flags = if nth.is_multiple_of(5) { 8 } else { 2 };
    line.ts_nsec = nth * 1_000_003;
    line.caller_id = if nth.is_multiple_of(2) { 0x8000_0000 | nth as u32 } else { nth as u32 };
    if nth % 4 == 1 {
        line.device = Some((b"pci".to_vec(), format!("+pci:0000:00:{nth:02x}.0").into_bytes()));
    }
    line
}

fn print_all(writer: &mut RingWriter, lines: &[Line]) {
    for line in lines {
        writer.print(line);
    }
}

fn expected(seq: u64, line: &Line, state: State) -> Record {
    Record {
        seq,
        ts_nsec: Some(line.ts_nsec),
        level: line.level,
        facility: line.facility,
        continues: line.flags & 8 != 0,
        caller: Some(Caller::from_id(line.caller_id)),
        device: line
            .device
            .clone()
            .map(|(subsystem, device)| Box::new(Device { subsystem, device })),
        text: line.text.clone(),
        state,
    }
}

fn lost(seq: u64, count: u64, why: Loss) -> Entry {
    Entry::Lost { seq, count, why }
}

/// The log is `lines`, the first of which has sequence number `first`, but
/// for those that were overwritten. Returns how many were.
fn assert_log_is(log: &Log, first: u64, lines: &[Line]) -> u64 {
    assert_eq!(log.format, Format::Ringbuffer);
    let mut next = 0;
    for entry in &log.entries {
        match entry {
            Entry::Record(record) => {
                let line = &lines[(next - first) as usize];
                assert_eq!(*record, expected(next, line, State::Complete));
                next += 1;
            }
            Entry::Lost { seq, count, why } => {
                assert_eq!((*seq, *why), (next, Loss::Overwritten));
                next += count;
            }
        }
    }
    assert_eq!(next, first + lines.len() as u64);
    log.lost()
}

#[test]
fn an_empty_ring_is_empty_in_every_layout() {
    for plan in plans() {
        let writer = RingWriter::new(plan);
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        let ring = Ring::open(&view, writer.prb()).expect("well-formed");
        assert!(ring.is_empty(), "{plan:?}");
        assert!(ring.read(&view).expect("readable").entries.is_empty());
        assert_eq!(ring.progress(&view).expect("readable").next_seq(), 0);
        ring.vouch(&view).expect("an empty ring is a sound one");
        assert_eq!(ring.data_size(), writer.size());
        assert_eq!(ring.count(), writer.count());
        assert_eq!(ring.data(), writer.sheet.address(writer.data_at()));
    }
}

#[test]
fn a_ring_set_up_before_its_descriptors_is_empty() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        let descs = writer.infos_at() - writer.descs_at();
        writer.sheet.put(writer.descs_at(), &vec![0; descs]);
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        let ring = Ring::open(&view, writer.prb()).expect("well-formed");
        assert!(ring.is_empty(), "{plan:?}");
        assert!(ring.read(&view).expect("readable").entries.is_empty(), "{plan:?}");
    }
}

#[test]
fn every_layout_is_read_from_the_first_record_to_many_rounds() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        let mut lines = Vec::new();
        let mut gone = 0;
        for nth in 0..400 {
            lines.push(line(nth));
            writer.print(&lines[nth as usize]);
            if nth > 8 && nth % 17 != 0 && nth < 398 {
                continue;
            }
            let image = writer.sheet.image();
            let view = writer.sheet.view(&image);
            let ring = Ring::open(&view, writer.prb()).expect("well-formed");
            assert!(!ring.is_empty());
            gone = assert_log_is(&ring.read(&view).expect("readable"), 0, &lines);
            assert_eq!(ring.progress(&view).expect("readable").next_seq(), nth + 1, "{plan:?}");
            ring.vouch(&view).expect("sound");
        }
        assert_eq!(gone as usize, 400 - writer.live(), "{plan:?}");
    }
}

#[test]
fn a_block_that_fits_the_end_exactly_is_found_by_old_and_new_rule() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        let w = plan.arch.word.bytes();
        let mut lines = Vec::new();
        // Blocks of 64 bytes divide the ring evenly: each round, one ends
        // exactly where the ring does.
        for nth in 0..100 {
            lines.push(Line::new(format!("{nth:0width$}", width = 64 - w)));
            writer.print(&lines[nth]);
            // Where the ring ends, and some time later.
            if !(nth % 32 > 29 || nth % 32 < 3) {
                continue;
            }
            assert_log_is(&log_of(&writer), 0, &lines);
        }
    }
}

#[test]
fn the_device_is_found_behind_the_execution_context() {
    for info_stride in [88, 112] {
        let mut writer = RingWriter::new(RingPlan { info_stride, ..RingPlan::SMALL });
        let mut first = Line::new("only one");
        first.device = Some((b"vio".to_vec(), b"+vio:71000000".to_vec()));
        writer.print(&first);
        assert_log_is(&log_of(&writer), 0, &[first]);
    }
}

#[test]
fn a_hint_from_the_symbols_decides_the_stride() {
    let mut writer = RingWriter::new(RingPlan { info_stride: 112, ..RingPlan::SMALL });
    let lines: Vec<Line> = (0..30).map(line).collect();
    print_all(&mut writer, &lines);
    let image = writer.sheet.image();
    let view = writer.sheet.view(&image);
    let hints = RingHints { info_stride: Some(112) };
    let ring = Ring::open_with(&view, writer.prb(), hints).expect("well-formed");
    assert_log_is(&ring.read(&view).expect("readable"), 0, &lines);
}

#[test]
fn infos_of_a_stride_not_known_yet_are_read_without_device() {
    let mut writer = RingWriter::new(RingPlan { info_stride: 136, ..RingPlan::SMALL });
    print_all(&mut writer, &(0..30).map(line).collect::<Vec<_>>());
    let log = log_of(&writer);
    let records: Vec<&Record> = log.records().collect();
    assert_eq!(records.len(), 30);
    assert!(records.iter().all(|record| record.device.is_none()));
    assert_eq!(records[29].text, line(29).text);
}

#[test]
fn a_sequence_counter_of_the_right_value_does_not_pass_for_the_size() {
    // last_finalized_seq of 6.9 is where a shorter header has size_bits.
    let mut writer = RingWriter::new(RingPlan { wide_ids: true, ..RingPlan::SMALL });
    let lines: Vec<Line> = (0..12).map(line).collect();
    print_all(&mut writer, &lines);
    let slot = writer.prb_at() + 5 * 8;
    assert_eq!(writer.sheet.number(slot, 4), 6 + 5);
    assert_log_is(&log_of(&writer), 0, &lines);
}

#[test]
fn an_open_line_is_shown_and_may_grow() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        for round in 0..20 {
            let mut line = Line::new(format!("probing {round}"));
            let id = writer.commit(&line);
            let shown = log_of(&writer);
            assert_eq!(
                shown.entries.last(),
                Some(&Entry::Record(expected(round, &line, State::Open)))
            );
            for more in [&b" ..."[..], b" and still no answer", b" done"] {
                line.text.extend_from_slice(more);
                writer.extend(id, more);
                let shown = log_of(&writer);
                assert_eq!(
                    shown.entries.last(),
                    Some(&Entry::Record(expected(round, &line, State::Open))),
                    "{plan:?}"
                );
            }
            writer.set_state(id, FINALIZED);
        }
    }
}

#[test]
fn a_writer_that_hangs_is_shown_with_what_it_wrote() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        // Some rounds, so that every place holds an older record.
        let lines: Vec<Line> = (0..150).map(line).collect();
        print_all(&mut writer, &lines);
        let id = writer.reserve(20);
        assert_eq!(log_of(&writer).entries.last(), Some(&lost(150, 1, Loss::Reserved)), "{plan:?}");
        let half = Line::new("half a li");
        writer.write(id, &half);
        assert_eq!(
            log_of(&writer).entries.last(),
            Some(&Entry::Record(expected(150, &half, State::InProgress)))
        );
        // Another CPU goes on meanwhile, a third hangs even earlier.
        writer.print(&line(151));
        writer.take_id_only();
        let log = log_of(&writer);
        assert_eq!(log.resume(), Some(150));
        let entries = log.entries;
        assert_eq!(
            entries[entries.len() - 3..],
            [
                Entry::Record(expected(150, &half, State::InProgress)),
                Entry::Record(expected(151, &line(151), State::Complete)),
                lost(152, 1, Loss::Reserved),
            ]
        );
    }
}

#[test]
fn the_first_writer_ever_may_hang_too() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        writer.take_id_only();
        assert_eq!(log_of(&writer).entries, [lost(0, 1, Loss::Reserved)]);
        let mut writer = RingWriter::new(plan);
        writer.reserve(8);
        assert_eq!(log_of(&writer).entries, [lost(0, 1, Loss::Reserved)]);
    }
}

#[test]
fn records_without_text_are_empty_lines_or_losses() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        writer.print(&Line::new(""));
        writer.fail();
        writer.fail();
        writer.print(&Line::new("after"));
        assert_eq!(
            log_of(&writer).entries,
            [
                Entry::Record(expected(0, &Line::new(""), State::Complete)),
                lost(1, 2, Loss::NoText),
                Entry::Record(expected(3, &Line::new("after"), State::Complete)),
            ]
        );
    }
}

#[test]
fn numbers_go_on_where_ids_pass_zero() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        // 32-bit ids come round after 2^30 records, 7.2's after one round.
        let before = (1 << 24) - 1;
        writer.age(before);
        writer.age_text((1 << 21) - 1);
        let first = before * writer.count();
        let lines: Vec<Line> = (0..200).map(line).collect();
        for (nth, line) in lines.iter().enumerate() {
            writer.print(line);
            if nth % 64 < 3 || nth % 64 > 60 {
                assert_log_is(&log_of(&writer), first, &lines[..=nth]);
            }
        }
    }
}

#[test]
fn a_damaged_block_is_one_corrupt_record_among_healthy_ones() {
    let mut writer = RingWriter::new(RingPlan::SMALL);
    let ids: Vec<u64> = (0..10).map(|nth| writer.print(&line(nth))).collect();
    for nth in [4, 5] {
        let block = writer.block_at(ids[nth]);
        writer.sheet.put_word(block, 0x6c6c_6f6c_6c6f_6c20);
    }
    let entries = log_of(&writer).entries;
    assert_eq!(entries.len(), 9);
    assert_eq!(entries[4], lost(4, 2, Loss::Corrupt));
    assert_eq!(entries[5], Entry::Record(expected(6, &line(6), State::Complete)));
}

#[test]
fn text_of_a_damaged_descriptor_is_salvaged_in_its_place() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        let ids: Vec<u64> = (0..10).map(|nth| writer.print(&line(nth))).collect();
        let desc = writer.desc_at(ids[3]);
        writer.sheet.put(desc, &[0xa5; 12]);
        // Here the info is lost as well.
        let info = writer.info_at(ids[7]);
        writer.sheet.put(info, &[0x5a; 24]);
        let log = log_of(&writer);
        assert_eq!(log.format, Format::Ringbuffer);
        let records: Vec<&Record> = log.records().collect();
        assert_eq!(records.len(), 10);
        let whole = expected(3, &line(3), State::Salvaged);
        assert_eq!(*records[3], Record { device: None, ..whole });
        assert_eq!(records[7].state, State::Salvaged);
        assert_eq!((records[7].seq, records[7].ts_nsec), (7, None));
        assert_eq!(records[7].text, line(7).text);
        assert_eq!(*records[8], expected(8, &line(8), State::Complete));
    }
}

#[test]
fn when_no_descriptor_is_left_the_text_is_salvaged() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        print_all(&mut writer, &(0..10).map(line).collect::<Vec<_>>());
        let (descs, infos) = (writer.descs_at(), writer.infos_at());
        writer.sheet.bytes[descs..infos].fill(0xff);
        let log = log_of(&writer);
        assert_eq!(log.format, Format::Salvage, "{plan:?}");
        let texts: Vec<Vec<u8>> = log.records().map(|record| record.text.clone()).collect();
        assert_eq!(texts, (0..10).map(|nth| line(nth).text).collect::<Vec<_>>());

        // The ids of the header too.
        let w = plan.arch.word.bytes();
        let head = writer.prb_at() + 3 * w;
        writer.sheet.put(head, &vec![0xee; 2 * w]);
        let log = log_of(&writer);
        assert_eq!(log.format, Format::Salvage);
        let texts: Vec<(u64, Vec<u8>)> =
            log.records().map(|record| (record.seq, record.text.clone())).collect();
        assert_eq!(texts, (0..10).map(|nth| (nth, line(nth).text)).collect::<Vec<_>>());
    }
}

#[test]
fn text_positions_in_the_header_are_not_needed() {
    let mut writer = RingWriter::new(RingPlan::SMALL);
    let lines: Vec<Line> = (0..120).map(line).collect();
    print_all(&mut writer, &lines);
    let head_lpos = writer.prb_at() + 8 * 8;
    writer.sheet.put_word(head_lpos, 0x1234_5678_0000_0000);
    assert_log_is(&log_of(&writer), 0, &lines);
}

#[test]
fn reading_on_gives_only_what_is_new() {
    for plan in plans() {
        let mut writer = RingWriter::new(plan);
        let lines: Vec<Line> = (0..100).map(line).collect();
        print_all(&mut writer, &lines);
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        let ring = Ring::open(&view, writer.prb()).expect("well-formed");
        let whole = ring.read(&view).expect("readable");
        for seq in [0, 1, 2, 30, 50, 63, 64, 65, 80, 98, 99, 100, 101] {
            let tail = ring.read_from(&view, seq).expect("readable");
            let mut wanted: Vec<Entry> = Vec::new();
            for entry in &whole.entries {
                match entry {
                    Entry::Record(record) if record.seq >= seq => wanted.push(entry.clone()),
                    Entry::Lost { seq: 0, count, why } if *count > seq => {
                        wanted.push(lost(seq, count - seq, *why));
                    }
                    _ => {}
                }
            }
            assert_eq!(tail.entries, wanted, "from {seq} in {plan:?}");
        }
    }
}

#[test]
fn what_is_no_ring_is_refused() {
    let writer = RingWriter::new(RingPlan::SMALL);
    let open = |edit: &dyn Fn(&mut Sheet)| {
        let mut sheet = writer.sheet.clone();
        edit(&mut sheet);
        let image = sheet.image();
        Ring::open(&sheet.view(&image), writer.prb()).map(|ring| ring.address())
    };
    let prb = writer.prb_at();
    assert!(open(&|_| {}).is_ok());
    for edit in [
        &|sheet: &mut Sheet| sheet.put_number(prb, 40, 4) as (),
        &|sheet: &mut Sheet| sheet.put_number(prb, 0, 4),
        &|sheet: &mut Sheet| sheet.put_number(prb, u64::from(u32::MAX), 4),
        &|sheet: &mut Sheet| sheet.put_word(prb + 8, 0),
        &|sheet: &mut Sheet| sheet.put_word(prb + 8, 0xc000_0000_0200_0101),
        &|sheet: &mut Sheet| sheet.put_word(prb + 16, 0xc000_0000_7000_0000),
        &|sheet: &mut Sheet| sheet.put_word(prb + 7 * 8, 0xd000_0000_0200_0000),
        &|sheet: &mut Sheet| sheet.put_word(prb + 7 * 8, u64::MAX - 7),
    ] as [&dyn Fn(&mut Sheet); 8]
    {
        assert!(matches!(open(edit), Err(Error::Malformed { .. })));
    }
    let image = writer.sheet.image();
    let view = writer.sheet.view(&image);
    assert!(matches!(Ring::open(&view, 0xc000_0000_0000_0000), Err(Error::Read(_))));
    assert!(matches!(Ring::open(&view, 0xd000_0000_0000_0000), Err(Error::Read(_))));
}

#[test]
fn infos_of_a_32_bit_kernel_are_aligned_to_no_more_than_a_word() {
    let plan = RingPlan { arch: Arch::PPC32, ..RingPlan::SMALL };
    let mut writer = RingWriter::new(plan);
    writer.print(&line(1));
    let (from, len) = (writer.infos_at(), writer.count() as usize * plan.info_stride);
    let mut sheet = writer.sheet.clone();
    let at = sheet.bytes.len().next_multiple_of(8) + 4;
    sheet.bytes.resize(at, 0);
    sheet.bytes.extend_from_slice(&writer.sheet.bytes[from..from + len]);
    sheet.put_word(writer.prb_at() + 8, sheet.address(at));
    assert_eq!(read(&sheet, writer.prb()), log_of(&writer));
}

#[test]
fn a_ring_that_was_replaced_is_not_read_as_the_old_one() {
    let mut writer = RingWriter::new(RingPlan::SMALL);
    writer.print(&line(0));
    let image = writer.sheet.image();
    let ring = Ring::open(&writer.sheet.view(&image), writer.prb()).expect("well-formed");
    let zeros = Sheet::new(writer.sheet.arch, writer.sheet.base, writer.sheet.bytes.len());
    let image = zeros.image();
    assert!(matches!(ring.read(&zeros.view(&image)), Err(Error::Replaced)));
}

#[test]
fn a_guest_that_prints_while_it_is_read_never_shows_torn_text() {
    for pace in [
        |_| 1,
        |_| 3,
        |nth| nth % 3,
        |nth| if nth % 4 == 0 { 20 } else { 0 },
        |nth| if nth % 7 == 5 { 70 } else { 0 },
    ] as [fn(usize) -> usize; 5]
    {
        for plan in plans() {
            let running = Running::new(RingWriter::new(plan), 90, line, pace);
            let (rule, prb) = {
                let writer = running.writer.borrow();
                (writer.sheet.rule(), writer.prb())
            };
            let view = View::new(&running, plan.arch, rule);
            let ring = Ring::open(&view, prb).expect("well-formed");
            for _ in 0..10 {
                let log = ring.read(&view).expect("readable");
                let lines = running.lines.borrow();
                let mut next = 0;
                for entry in &log.entries {
                    match entry {
                        Entry::Record(record) => {
                            assert_eq!(record.seq, next);
                            let line = &lines[next as usize];
                            assert_eq!(*record, expected(next, line, State::Complete));
                            next += 1;
                        }
                        Entry::Lost { seq, count, why } => {
                            assert_eq!(*seq, next);
                            assert_ne!(*why, Loss::Corrupt, "{plan:?}");
                            next += count;
                        }
                    }
                }
                assert!(next >= 90);
            }
        }
    }
}

#[test]
fn a_read_of_a_quiet_ring_takes_a_handful_of_round_trips() {
    let running = Running::new(RingWriter::new(RingPlan::SMALL), 200, line, |_| 0);
    let prb = running.writer.borrow().prb();
    let view = View::new(&running, Arch::PPC64LE, crate::guest::AddressRule::Linear64);
    let ring = Ring::open(&view, prb).expect("well-formed");
    running.reads.set(0);
    ring.read(&view).expect("readable");
    assert!(running.reads.get() <= 10, "{} reads", running.reads.get());
    running.reads.set(0);
    ring.progress(&view).expect("readable");
    assert!(running.reads.get() <= 2);
}

#[test]
fn sixteen_mebibytes_of_lies_are_answered_soon() {
    let plan = RingPlan { count_bits: 19, ..RingPlan::SMALL };
    let honest = RingWriter::new(plan);
    let (count, size) = (honest.count(), honest.size());
    // Descriptors that all claim the whole ring, one block in every place,
    // and blocks with arbitrary lengths; ids that fit, so that all of them
    // must be looked at.
    for lie in 0..3_u64 {
        let mut writer = honest.clone();
        let head = writer.prb_at() + 3 * 8;
        writer.sheet.put_word(head, writer.origin() + count - 1);
        writer.sheet.put_word(head + 8, writer.origin());
        let lpos = writer.prb_at() + 8 * 8;
        writer.sheet.put_word(lpos, size);
        writer.sheet.put_word(lpos + 8, 0);
        for nth in 0..count {
            let id = writer.origin() + nth;
            let (begin, next) = match lie {
                0 => (0, size),
                1 => (nth * 32 % size, nth * 32 % size + 4096),
                _ => (nth * 40_503 * 8 % size, nth * 40_503 * 8 % size + nth * 8 % 65_536 + 16),
            };
            let desc = writer.desc_at(id);
            writer.sheet.put_word(desc, id | FINALIZED << 62);
            writer.sheet.put_word(desc + 8, begin);
            writer.sheet.put_word(desc + 16, next);
            let info = writer.info_at(id);
            writer.sheet.put_number(info, nth, 8);
            writer.sheet.put_number(info + 16, 0xffff, 2);
            let block = writer.data_at() + (begin % size) as usize;
            writer.sheet.put_word(block, id);
        }
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        let start = Instant::now();
        let log = Ring::open(&view, writer.prb()).and_then(|ring| ring.read(&view));
        let took = start.elapsed();
        let log = log.expect("readable");
        let text: usize = log.records().map(|record| record.text.len()).sum();
        assert!(text as u64 <= size, "lie {lie}: {text} bytes of text");
        assert_eq!(log.records().count() as u64 + log.lost(), count);
        // Without optimisation it takes some times longer.
        let limit = if cfg!(debug_assertions) { 10_000 } else { 1000 };
        assert!(took.as_millis() < limit, "lie {lie} took {took:?}");
    }
}

fn any_plan() -> impl Strategy<Value = RingPlan> {
    (0..plans().len(), 6_u32..9)
        .prop_map(|(nth, count_bits)| RingPlan { count_bits, ..plans()[nth] })
}

fn any_line() -> impl Strategy<Value = Line> {
    let text = prop::collection::vec(any::<u8>(), 0..200);
    // Of one record, whether it holds a device or a task's name is told by
    // which of the two is text.
    let device = prop::option::of((
        prop::collection::vec(b'!'..=b'~', 1..15),
        prop::collection::vec(b'!'..=b'~', 1..47),
    ));
    (text, 0_u8..8, any::<u8>(), 0_u8..32, any::<u64>(), any::<u32>(), device).prop_map(
        |(text, level, facility, flags, ts_nsec, caller_id, device)| Line {
            text,
            level,
            facility,
            flags,
            ts_nsec,
            caller_id,
            device,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 512 }))]

    #[test]
    fn what_was_printed_is_read(
        plan in any_plan(),
        lines in prop::collection::vec(any_line(), 0..300),
    ) {
        let mut writer = RingWriter::new(plan);
        print_all(&mut writer, &lines);
        let log = log_of(&writer);
        assert_log_is(&log, 0, &lines);
        prop_assert_eq!(log.records().count(), writer.live());
    }

    #[test]
    fn damage_anywhere_does_no_harm(
        plan in any_plan(),
        lines in prop::collection::vec(any_line(), 0..100),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1_usize..9), 1..40),
        everywhere in any::<bool>(),
    ) {
        let mut writer = RingWriter::new(plan);
        print_all(&mut writer, &lines);
        let end = if everywhere { writer.sheet.bytes.len() } else { writer.infos_at() };
        for (place, value, size) in damage {
            let at = place.index(end - 8);
            writer.sheet.put_number(at, value, size);
        }
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        if let Ok(ring) = Ring::open(&view, writer.prb()) {
            let log = ring.read(&view).expect("arrays are in RAM");
            let mut next = 0;
            for entry in &log.entries {
                let (seq, count) = match entry {
                    Entry::Record(record) => (record.seq, 1),
                    Entry::Lost { seq, count, .. } => (*seq, *count),
                };
                prop_assert!(seq >= next, "entries ascend");
                next = seq.saturating_add(count);
            }
            let text: usize = log.records().map(|record| record.text.len()).sum();
            prop_assert!(text as u64 <= 2 * ring.data_size());
            let _ = ring.progress(&view);
            let _ = ring.vouch(&view);
            let _ = ring.salvage(&view);
            let _ = ring.read_from(&view, 40);
        }
    }
}
