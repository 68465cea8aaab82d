//! The decoder of byte rings against rings made to order.

#![allow(clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::arch::Arch;
use crate::printk::craft::ByteWriter;

const ARCHES: [Arch; 3] = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];

fn read(writer: &ByteWriter) -> Vec<Entry> {
    let image = writer.sheet.image();
    let view = writer.sheet.view(&image);
    let log = ByteLog::open(&view, writer.symbols()).expect("well-formed");
    log.read(&view).expect("readable").entries
}

fn record(seq: u64, level: u8, ts_nsec: Option<u64>, text: &str) -> Record {
    Record {
        seq,
        ts_nsec,
        level,
        facility: 0,
        continues: false,
        caller: None,
        device: None,
        text: text.as_bytes().to_vec(),
        state: State::Complete,
    }
}

#[test]
fn levels_and_times_are_read_out_of_the_text() {
    for arch in ARCHES {
        for long_end in [false, true] {
            let mut writer = ByteWriter::new(arch, 4096, long_end);
            assert_eq!(read(&writer), []);
            writer.emit(b"<6>[    0.000000] Using pSeries machine description\n");
            writer.emit(b"<5>[   12.345678] Linux version 3.0.0\n<30>[   13.000001] udev: hi\n");
            writer.emit(b"<4>no time\n<c>more\n<d>default\n<3d>[x] odd\n<6>\n<4>still op");
            let second = 1_000_000_000;
            let wanted = [
                record(0, 6, Some(0), "Using pSeries machine description"),
                record(52, 5, Some(12 * second + 345_678_000), "Linux version 3.0.0"),
                Record { facility: 3, ..record(90, 6, Some(13 * second + 1000), "udev: hi") },
                record(118, 4, None, "no time"),
                Record { continues: true, ..record(129, 4, None, "more") },
                record(137, 4, None, "default"),
                record(148, 3, None, "[x] odd"),
                record(160, 6, None, ""),
                Record { state: State::Open, ..record(164, 4, None, "still op") },
            ];
            assert_eq!(read(&writer), wanted.map(Entry::Record), "{arch} {long_end}");
        }
    }
}

#[test]
fn what_was_overwritten_is_told_and_the_rest_of_its_last_line_shown() {
    for arch in ARCHES {
        let mut writer = ByteWriter::new(arch, 4096, false);
        let mut starts = Vec::new();
        for nth in 0..1000 {
            starts.push(writer.end());
            writer.emit(format!("<6>[{:5}.{:06}] number {nth}\n", nth / 10, nth).as_bytes());
        }
        let oldest = writer.end() - 4096;
        let entries = read(&writer);
        assert_eq!(entries[0], Entry::Lost { seq: 0, count: 1, why: Loss::Overwritten });
        let Entry::Record(rest) = &entries[1] else { panic!("{:?}", entries[1]) };
        assert!(rest.continues && rest.seq == oldest, "{rest:?}");
        let kept: Vec<u64> = starts.iter().copied().filter(|start| *start > oldest).collect();
        assert_eq!(entries.len() - 2, kept.len());
        for (entry, start) in entries[2..].iter().zip(kept) {
            let Entry::Record(record) = entry else { panic!("{entry:?}") };
            let nth = starts.iter().position(|other| *other == start).expect("a start");
            assert_eq!((record.seq, record.level), (start, 6));
            assert_eq!(record.text, format!("number {nth}").into_bytes());
        }
        // Reading on from a line gives that line and what follows.
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        let log = ByteLog::open(&view, writer.symbols()).expect("well-formed");
        let from = starts[990];
        let rest = log.read_from(&view, from).expect("readable");
        assert_eq!(rest.entries, entries[entries.len() - 10..]);
        let end = rest.resume().expect("not empty");
        assert!(log.read_from(&view, end).expect("readable").entries.is_empty());
    }
}

#[test]
fn text_alone_is_put_in_order() {
    let mut writer = ByteWriter::new(Arch::PPC64LE, 4096, false);
    for nth in 0..300 {
        writer.emit(format!("<6>[{nth:5}.000000] number {nth}\n").as_bytes());
        if nth > 3 && nth % 10 != 0 {
            continue;
        }
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        let log = ByteLog::text(&view, writer.buffer(), 4096).expect("readable");
        let log = log.read(&view).expect("readable");
        let texts: Vec<Vec<u8>> = log
            .records()
            .filter(|record| !record.continues)
            .map(|record| record.text.clone())
            .collect();
        let first = nth + 1 - texts.len();
        let wanted: Vec<Vec<u8>> =
            (first..=nth).map(|nth| format!("number {nth}").into_bytes()).collect();
        assert_eq!(texts, wanted);
        assert!(first == 0 || texts.len() > 120);
        assert_eq!(log.lost() > 0, first > 0, "what was overwritten is said to be lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 512 }))]

    #[test]
    fn any_bytes_do_no_harm(
        arch in 0..3_usize,
        long_end in any::<bool>(),
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
        damage in prop::collection::vec((0_usize..40, any::<u8>()), 0..3),
        from in 0..9000_u64,
    ) {
        let mut writer = ByteWriter::new(ARCHES[arch], 4096, long_end);
        for text in &texts {
            writer.emit(b"<6>");
            writer.emit(text);
            writer.emit(b"\n");
        }
        for (at, value) in damage {
            writer.sheet.bytes[at] = value;
        }
        let image = writer.sheet.image();
        let view = writer.sheet.view(&image);
        if let Ok(log) = ByteLog::open(&view, writer.symbols()) {
            for from in [0, from] {
                let log = log.read_from(&view, from).expect("readable");
                let mut next = from;
                for record in log.records() {
                    prop_assert!(record.seq >= next, "records ascend");
                    next = record.seq + 1;
                }
                let text: usize = log.records().map(|record| record.text.len()).sum();
                prop_assert!(text <= 4096);
            }
        }
        let log = ByteLog::text(&view, writer.buffer(), 4096).expect("readable");
        log.read(&view).expect("readable");
    }
}
