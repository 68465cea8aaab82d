//! Whole reports, and what holds for any bytes a guest may log.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::printk::{Caller, Device, Format as LogFormat, Loss, Record, State};

const PLAIN: Style = Style {
    colour: false,
    unicode: true,
    terminal: false,
    line_end: LineEnd::Lf,
    width: None,
    caller: false,
};

fn record(seq: u64, level: u8, text: &[u8]) -> Record {
    Record {
        seq,
        ts_nsec: Some(0),
        level,
        facility: 0,
        continues: false,
        caller: Some(Caller::Task(0)),
        device: None,
        text: text.to_vec(),
        state: State::Complete,
    }
}

fn report_of(entries: Vec<Entry>) -> Report {
    Report::new(Verdict::Log(Log { format: LogFormat::Ringbuffer, entries }))
}

fn one(record: Record) -> Report {
    report_of(vec![Entry::Record(record)])
}

/// A kernel hung before its console, as the README tells it.
fn hung() -> Report {
    let banner = b"Linux version 6.1.0-48-powerpc64le (debian-kernel@lists.debian.org)";
    let mut report = report_of(vec![
        Entry::Lost { seq: 0, count: 9, why: Loss::Overwritten },
        Entry::Record(record(9, 6, b"radix-mmu: Page sizes from device-tree:")),
        Entry::Record(record(10, 5, banner)),
        Entry::Record(Record {
            ts_nsec: Some(12_345_678_901),
            ..record(11, 4, b"Kernel panic:\nis near")
        }),
    ]);
    report.kernel = Some(banner.to_vec());
    report.arch = Some(Arch::PPC64LE);
    report.source = Some(Source::Elf("/boot/vmlinux".into()));
    report.cpus = vec![CpuLine {
        cpu: 0,
        text: "stuck in early_setup+0x8 ← start_here_common+0x1c".into(),
        registers: Vec::new(),
    }];
    report
}

fn text(report: &Report, format: Format, style: Style) -> String {
    String::from_utf8(render(report, format, style)).expect("a report is UTF-8")
}

/// The lines between header and closing line.
fn body(report: &Report, style: Style) -> Vec<String> {
    let text = text(report, Format::Dmesg, style);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[1..lines.len() - 1].to_vec()
}

#[test]
fn a_log_reads_as_dmesg_shows_it() {
    let expected = "\
──── qemu-logbuf: 3 records, 9 lost · Linux 6.1.0-48-powerpc64le · printk ringbuffer, ppc64le · symbols of /boot/vmlinux ────
[… 9 records overwritten …]
[    0.000000] radix-mmu: Page sizes from device-tree:
[    0.000000] Linux version 6.1.0-48-powerpc64le (debian-kernel@lists.debian.org)
[   12.345678] Kernel panic:
               is near
CPU 0 stuck in early_setup+0x8 ← start_here_common+0x1c
──── qemu-logbuf: end of report ────
";
    assert_eq!(text(&hung(), Format::Dmesg, PLAIN), expected);
}

#[test]
fn narrow_terminals_fold_between_facts() {
    let expected = "\
---- qemu-logbuf: 3 records, 9 lost\r
     Linux 6.1.0-48-powerpc64le\r
     printk ringbuffer, ppc64le\r
     symbols of /boot/vmlinux ----\r
[... 9 records overwritten ...]\r
[    0.000000] radix-mmu: Page sizes from device-tree:\r
[    0.000000] Linux version 6.1.0-48-powerpc64le (debian-kernel@lists.debian.org)\r
[   12.345678] Kernel panic:\r
               is near\r
CPU 0 stuck in early_setup+0x8\r
      <- start_here_common+0x1c\r
---- qemu-logbuf: end of report ----\r
";
    let style =
        Style { unicode: false, width: Some(40), line_end: LineEnd::CrLf, ..Style::default() };
    assert_eq!(text(&hung(), Format::Dmesg, style), expected);
}

/// The bytes are those of `dmesg -F FILE --color=always` of util-linux
/// 2.38.1, but for the end of each coloured line and for level 0.
#[test]
fn colours_are_those_of_dmesg() {
    let style = Style { colour: true, ..PLAIN };
    let line = |level, text: &[u8]| body(&one(record(0, level, text)), style).join("\n");
    let stamp = "\x1b[32m[    0.000000] \x1b[0m";
    for (level, text, expected) in [
        (6, "plain", "plain"),
        (6, "Linux version 6.1.0: x", "\x1b[33mLinux version 6.1.0: \x1b[0mx"),
        (6, "ends in colon: ", "ends in colon: "),
        (5, "a:b:\tc", "\x1b[33ma:b:\t\x1b[0mc"),
        (1, "alert: oops", "\x1b[33malert: \x1b[0m\x1b[7m\x1b[31moops\x1b[0m"),
        (2, "crit here", "\x1b[1m\x1b[31mcrit here\x1b[0m"),
        (4, "pci 0000:00: bar: two", "\x1b[33mpci 0000:00: \x1b[0m\x1b[1mbar: two\x1b[0m"),
        (
            6,
            "init[1]: segfault at 0 nip",
            "\x1b[33minit[1]: \x1b[0m\x1b[2m\x1b[31msegfault at 0 nip\x1b[0m",
        ),
        (
            3,
            "err: a\nb line",
            "\x1b[33merr: \x1b[0m\x1b[31ma\x1b[0m\n               \x1b[31mb line\x1b[0m",
        ),
        (0, "panic", "\x1b[7m\x1b[31mpanic\x1b[0m"),
    ] {
        assert_eq!(line(level, text.as_bytes()), format!("{stamp}{expected}"), "{text:?}");
    }
}

#[test]
fn records_tell_how_far_they_had_come() {
    let with = |state, text: &[u8]| Entry::Record(Record { state, ..record(0, 6, text) });
    let mut report = report_of(vec![
        with(State::Open, b"Calibrating:"),
        with(State::InProgress, b"half a li"),
        with(State::InProgress, b""),
        with(State::Salvaged, b"found"),
        Entry::Record(Record { continues: true, ..record(1, 6, b"more") }),
        Entry::Record(Record { ts_nsec: None, ..record(1, 6, b"<6>no\nclock") }),
        Entry::Record(record(2, 6, b"")),
        Entry::Record(record(3, 6, b"gap\n\nwithin")),
    ]);
    let expected = "\
[    0.000000] Calibrating: …
[    0.000000] half a li (in progress)
[    0.000000] (in progress)
[    0.000000] found (salvaged)
[    0.000000] … more
<6>no
clock
[    0.000000]\x20
[    0.000000] gap

               within";
    assert_eq!(body(&report, PLAIN).join("\n"), expected);
    // A log that is salvaged as a whole says so once, in the header.
    if let Verdict::Log(log) = &mut report.verdict {
        log.format = LogFormat::Salvage;
    }
    let shown = text(&report, Format::Dmesg, PLAIN);
    assert!(shown.starts_with("──── qemu-logbuf: 8 records · salvaged text ────\n"), "{shown}");
    assert!(!shown.contains("(salvaged)"));
}

#[test]
fn every_loss_says_why() {
    let lost = |count, why| Entry::Lost { seq: 0, count, why };
    let report = report_of(vec![
        lost(12, Loss::Overwritten),
        lost(1, Loss::NoText),
        lost(2, Loss::Corrupt),
        lost(1, Loss::Reserved),
    ]);
    assert_eq!(
        body(&report, PLAIN),
        [
            "[… 12 records overwritten …]",
            "[… 1 record lost: the kernel had no room for the text …]",
            "[… 2 records damaged …]",
            "[… 1 record in progress, without text yet …]",
        ]
    );
}

#[test]
fn the_caller_is_a_column_of_its_own() {
    let style = Style { caller: true, ..PLAIN };
    let cpu = Record { caller: Some(Caller::Cpu(31)), ..record(0, 6, b"a\nb") };
    assert_eq!(body(&one(cpu), style), ["[    0.000000] [   C31] a", "                        b"]);
}

#[test]
fn each_diagnosis_is_one_line_of_its_own() {
    let line = |verdict| text(&Report::new(verdict), Format::Dmesg, PLAIN);
    assert_eq!(
        line(Verdict::NotEntered { detail: "CPU 0 is in SLOF".into() }),
        "──── qemu-logbuf: the kernel has not been entered · CPU 0 is in SLOF ────\n"
    );
    assert_eq!(
        line(Verdict::EnteredSilent { format: Some(LogFormat::Ringbuffer) }),
        "──── qemu-logbuf: the kernel was entered, but has not printed · printk ringbuffer ────\n"
    );
    assert_eq!(
        line(Verdict::Failed { what: "no kernel found".into(), remedy: "name a vmlinux".into() }),
        "qemu-logbuf: no kernel found; name a vmlinux\n"
    );
}

#[test]
fn warnings_stand_on_top_and_are_called_to_mind_below() {
    let mut report = one(record(0, 6, b"hello"));
    report.number = 3;
    report.warnings = vec!["the vmlinux is of another kernel\x1b[2J; rebuild".into()];
    report.notes = vec!["One console is registered.".into()];
    let expected = "\
──── qemu-logbuf #3: 1 record · printk ringbuffer ────
qemu-logbuf: warning: the vmlinux is of another kernel\\x1b[2J; rebuild
[    0.000000] hello
One console is registered.
──── qemu-logbuf: end of report · 1 warning on top ────
";
    assert_eq!(text(&report, Format::Dmesg, PLAIN), expected);
}

#[test]
fn raw_is_the_text_alone() {
    let text = b"a\x1b[1m\xff\nb";
    let report = report_of(vec![
        Entry::Lost { seq: 0, count: 1, why: Loss::Corrupt },
        Entry::Record(record(1, 6, text)),
    ]);
    assert_eq!(render(&report, Format::Raw, PLAIN), b"a\x1b[1m\xff\nb\n");
    let terminal = Style { terminal: true, line_end: LineEnd::CrLf, ..PLAIN };
    assert_eq!(render(&report, Format::Raw, terminal), b"a\\x1b[1m\\xff\r\nb\r\n");
    let silent = Report::new(Verdict::EnteredSilent { format: None });
    assert_eq!(
        render(&silent, Format::Raw, PLAIN),
        b"qemu-logbuf: the kernel was entered, but has not printed\n"
    );
}

#[test]
fn the_event_that_asked_comes_first() {
    let mut report = hung();
    report.trigger = Some("stall");
    let head = |report: &Report, format| {
        let bytes = render(report, format, Style::default());
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert!(head(&report, Format::Dmesg).starts_with("──── qemu-logbuf: stall: "));
    assert!(head(&report, Format::Json).contains(r#""trigger":"stall""#));
    report.verdict = Verdict::Failed { what: "no".into(), remedy: "try".into() };
    for format in [Format::Dmesg, Format::Raw] {
        assert!(head(&report, format).starts_with("qemu-logbuf: stall: no; try"));
    }
}

#[test]
fn json_follows_its_schema() {
    let mut report = hung();
    report.warnings = vec!["é \"x\"".into()];
    if let Verdict::Log(log) = &mut report.verdict {
        log.entries.push(Entry::Record(Record {
            state: State::Open,
            continues: true,
            caller: Some(Caller::Cpu(1)),
            ts_nsec: None,
            device: Some(Box::new(Device { subsystem: b"pci".into(), device: b"+pci:0".into() })),
            ..record(12, 3, b"bad \xff \x9b\x7f \"q\" \xe2\x80\xae\t\\")
        }));
    }
    let expected = concat!(
        r#"{"v":1,"type":"lost","report":1,"seq":0,"lost":9,"why":"overwritten"}"#,
        "\n",
        r#"{"v":1,"type":"record","report":1,"seq":9,"time":0.000000000,"level":6,"facility":0,"caller":"T0","subsystem":null,"device":null,"text":"radix-mmu: Page sizes from device-tree:","continues":false,"state":"complete"}"#,
        "\n",
        r#"{"v":1,"type":"record","report":1,"seq":10,"time":0.000000000,"level":5,"facility":0,"caller":"T0","subsystem":null,"device":null,"text":"Linux version 6.1.0-48-powerpc64le (debian-kernel@lists.debian.org)","continues":false,"state":"complete"}"#,
        "\n",
        r#"{"v":1,"type":"record","report":1,"seq":11,"time":12.345678901,"level":4,"facility":0,"caller":"T0","subsystem":null,"device":null,"text":"Kernel panic:\nis near","continues":false,"state":"complete"}"#,
        "\n",
        r#"{"v":1,"type":"record","report":1,"seq":12,"time":null,"level":3,"facility":0,"caller":"C1","subsystem":"pci","device":"+pci:0","text":"bad \ufffd \ufffd\u007f \"q\" \u202e\t\\","bytes":"62616420ff209b7f2022712220e280ae095c","continues":true,"state":"open"}"#,
        "\n",
    );
    let shown = text(&report, Format::Json, PLAIN);
    assert!(shown.starts_with(expected), "{shown}");
    let last = concat!(
        r#"{"v":1,"type":"report","report":1,"trigger":null,"verdict":"log","detail":null,"remedy":null,"#,
        r#""kernel":"6.1.0-48-powerpc64le","banner":"Linux version 6.1.0-48-powerpc64le (debian-kernel@lists.debian.org)","#,
        r#""arch":"ppc64le","format":"ringbuffer","source":"elf","path":"/boot/vmlinux","layout":"known","scope":"all","since":null,"records":4,"lost":9,"#,
        r#""cpus":[{"cpu":0,"where":"stuck in early_setup+0x8 \u2190 start_here_common+0x1c"}],"warnings":["\u00e9 \"x\""],"notes":[]}"#,
    );
    assert_eq!(shown.lines().next_back(), Some(last));
}

#[test]
fn stamps_grow_to_the_left() {
    let stamp = |nsec| body(&one(Record { ts_nsec: Some(nsec), ..record(0, 6, b"") }), PLAIN);
    assert_eq!(stamp(999), ["[    0.000000] "]);
    assert_eq!(stamp(1_000_001_999), ["[    1.000001] "]);
    assert_eq!(stamp(99_999_999_999_999), ["[99999.999999] "]);
    assert_eq!(stamp(100_000_000_000_000), ["[100000.000000] "]);
    assert_eq!(stamp(u64::MAX), ["[18446744073.709551] "]);
}

#[test]
fn numbers_are_filled_up() {
    for (number, width, expected) in [
        (0, 1, "0"),
        (0, 5, "    0"),
        (123_456, 5, "123456"),
        (u64::MAX, 1, "18446744073709551615"),
    ] {
        let mut out = Vec::new();
        push_number(&mut out, number, width, b' ');
        assert_eq!(out, expected.as_bytes());
    }
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[ -~]{0,40}".prop_map(String::into_bytes),
        2 => proptest::collection::vec(any::<u8>(), 0..24),
        2 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        1 => Just(b"\x1b[0m\x1b[32m".to_vec()),
        1 => Just("\u{202e}\u{9b}\u{2028}".as_bytes().to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => Just(b"a: segfault at\r\n".to_vec()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn any_record() -> impl Strategy<Value = Record> {
    let state = prop_oneof![
        Just(State::Complete),
        Just(State::Open),
        Just(State::InProgress),
        Just(State::Salvaged)
    ];
    (
        any::<[u64; 2]>(),
        any::<[u8; 2]>(),
        any::<[bool; 4]>(),
        any::<u32>(),
        state,
        any_text(),
        any_text(),
    )
        .prop_map(|([seq, nsec], [level, facility], flags, id, state, text, device)| Record {
            seq,
            ts_nsec: flags[0].then_some(nsec),
            level,
            facility,
            continues: flags[1],
            caller: flags[2].then(|| Caller::from_id(id)),
            device: flags[3]
                .then(|| Box::new(Device { subsystem: device.clone(), device: device.clone() })),
            text,
            state,
        })
}

fn any_report() -> impl Strategy<Value = Report> {
    let lost =
        (any::<[u64; 2]>()).prop_map(|[seq, count]| Entry::Lost { seq, count, why: Loss::Corrupt });
    let entry = prop_oneof![4 => any_record().prop_map(Entry::Record), 1 => lost];
    (proptest::collection::vec(entry, 0..6), any_text(), any::<bool>()).prop_map(
        |(entries, words, names)| {
            let mut report = report_of(entries);
            let string = String::from_utf8_lossy(&words).into_owned();
            report.warnings = vec![string.clone()];
            report.notes = vec![string.clone()];
            report.cpus =
                vec![CpuLine { cpu: 1, text: string.clone(), registers: vec![string.clone()] }];
            if names {
                report.kernel = Some(words);
                report.source = Some(Source::SystemMap(string.into()));
            }
            report
        },
    )
}

fn any_style() -> impl Strategy<Value = Style> {
    (any::<[bool; 3]>(), proptest::option::of(0usize..200)).prop_map(|(flags, width)| Style {
        colour: false,
        unicode: flags[0],
        terminal: true,
        line_end: if flags[1] { LineEnd::CrLf } else { LineEnd::Lf },
        width,
        caller: flags[2],
    })
}

/// Nothing but printable characters, tabs and the style's line ends.
fn assert_harmless(shown: &[u8], style: Style) -> Result<(), TestCaseError> {
    let shown = std::str::from_utf8(shown).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert!(style.unicode || shown.is_ascii());
    let ends = match style.line_end {
        LineEnd::Lf => shown.to_owned(),
        LineEnd::CrLf => {
            prop_assert_eq!(shown.matches('\n').count(), shown.matches("\r\n").count());
            shown.replace("\r\n", "\n")
        }
    };
    let bad = ends.chars().find(|&c| {
        (c.is_control() && c != '\n' && c != '\t')
            || ('\u{2028}'..='\u{202e}').contains(&c)
            || ('\u{200b}'..='\u{200f}').contains(&c)
    });
    prop_assert_eq!(bad, None);
    Ok(())
}

/// Without what anstyle writes.
fn uncoloured(shown: &[u8]) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(shown).into_owned();
    for code in ["0", "1", "2", "7", "31", "32", "33", "35"] {
        text = text.replace(&format!("\x1b[{code}m"), "");
    }
    text.into_bytes()
}

proptest! {
    #[test]
    fn no_byte_a_guest_logs_reaches_a_terminal_unseen(report in any_report(), style in any_style()) {
        for format in [Format::Dmesg, Format::Json, Format::Raw] {
            assert_harmless(&render(&report, format, style), style)?;
        }
        // Colours add sequences of ours, and nothing else.
        let coloured = render(&report, Format::Dmesg, Style { colour: true, ..style });
        prop_assert_eq!(uncoloured(&coloured), render(&report, Format::Dmesg, style));
    }

    #[test]
    fn pages_are_the_whole(report in any_report(), style in any_style()) {
        for format in [Format::Dmesg, Format::Json, Format::Raw] {
            let mut pages = Vec::new();
            write(&report, format, style, &mut pages).expect("a Vec takes everything");
            prop_assert_eq!(pages, render(&report, format, style));
        }
    }

    #[test]
    fn json_gives_back_every_text(report in any_report()) {
        let shown = text(&report, Format::Json, PLAIN);
        prop_assert!(shown.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
        let lines: Vec<Value> =
            shown.lines().map(|line| serde_json::from_str(line).expect("valid JSON")).collect();
        prop_assert_eq!(lines.len(), report.entries().len() + 1);
        for (line, entry) in lines.iter().zip(report.entries()) {
            let Entry::Record(record) = entry else { continue };
            let text = String::from_utf8_lossy(&record.text);
            prop_assert_eq!(line["text"].as_str(), Some(&*text));
            match std::str::from_utf8(&record.text) {
                Ok(_) => prop_assert!(line.get("bytes").is_none()),
                Err(_) => {
                    let hex: String = record.text.iter().map(|byte| format!("{byte:02x}")).collect();
                    prop_assert_eq!(line["bytes"].as_str(), Some(&*hex));
                }
            }
        }
    }
}

/// `cargo test --release report_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn report_speed() {
    const RING: usize = 16 << 20;
    let kinds: [(&str, &[u8]); 4] = [
        ("typical", b"pci 0000:00:01.0: reg 0x10: [mem 0x20000000-0x2000ffff 64bit pref]"),
        ("short", b"ok: it is 24 bytes long."),
        ("UTF-8", "Käse: ein Gerät wärmt fünf Öfen im Süden; große Größe".as_bytes()),
        ("lies", b"\x1b\x00\xff\x9b\x1b\x00\xff\x9b\x1b\x00\xff\x9b\x1b\x00\xff\x9b\x1b\x00\xff\x9b\x1b\x00"),
    ];
    for (kind, text) in kinds {
        // What the record takes in a ring: its text and an aligned id.
        let stride = 8 + text.len().next_multiple_of(8);
        let entries = (0..RING / stride)
            .map(|n| {
                Entry::Record(Record {
                    ts_nsec: Some(n as u64 * 123_456),
                    ..record(n as u64, 6, text)
                })
            })
            .collect();
        let report = report_of(entries);
        for (name, format, colour) in [
            ("dmesg", Format::Dmesg, false),
            ("dmesg, coloured", Format::Dmesg, true),
            ("json", Format::Json, false),
            ("raw", Format::Raw, false),
        ] {
            let style = Style { colour, terminal: true, ..PLAIN };
            let best = |run: &dyn Fn()| {
                let mut times = Vec::new();
                for _ in 0..7 {
                    let start = std::time::Instant::now();
                    run();
                    times.push(start.elapsed().as_secs_f64());
                }
                times.into_iter().fold(f64::MAX, f64::min)
            };
            let whole = best(&|| drop(std::hint::black_box(render(&report, format, style))));
            let pages = best(&|| {
                write(&report, format, style, &mut io::sink()).expect("a sink takes everything");
            });
            let rate = |seconds: f64| RING as f64 / seconds / 1e6;
            let each = |seconds: f64| seconds * 1e9 / (RING / stride) as f64;
            println!(
                "{kind:8} {name:16} whole {:5.0} MB/s {:4.0} ns a record, pages {:5.0} MB/s {:4.0} ns",
                rate(whole),
                each(whole),
                rate(pages),
                each(pages),
            );
        }
    }
}
