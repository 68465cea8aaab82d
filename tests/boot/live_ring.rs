//! Reading a log while the guest writes it as fast as it can.
//!
//! The guest's first process (`tests/lab/talker.c`) writes lines whose text
//! follows from their number, so that any torn one is known as such, and then
//! shows what `/dev/kmsg` has, which the last report is held against.

use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::guest::{Guest, until};
use super::initramfs::initramfs;
use super::{boot, lab};

/// Some ten seconds of talking: a hundred times the size of the ring.
const LINES: usize = 150_000;

/// What the guest wrote as line `number`.
fn line(number: usize) -> String {
    let letter = char::from(b'a' + (number % 26) as u8);
    format!("tick {number} {}", letter.to_string().repeat(number * 7 % 300 + 1))
}

/// The number of a line of the guest's, which is to be a true one.
pub(super) fn number_of(text: &str) -> Option<usize> {
    let number = text.strip_prefix("tick ")?.split(' ').next()?.parse().expect("a number");
    assert!(number < LINES, "never written: {text}");
    assert_eq!(text, line(number), "torn");
    Some(number)
}

/// Ask for a report in JSON, and wait for all of it.
fn ask(guest: &Guest) -> Vec<Value> {
    let before = guest.stderr().len();
    kill(guest.pid(), Signal::SIGUSR1).expect("it runs");
    let mut report = String::new();
    until("a report", || {
        report = guest.stderr().split_off(before);
        report.ends_with('\n') && report.contains("\"type\":\"report\"")
    });
    report.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The complete records of a report: time in microseconds and text, by
/// sequence number.
pub(super) fn records(report: &[Value]) -> BTreeMap<u64, (u64, String)> {
    let mut records = BTreeMap::new();
    let mut last = None;
    for record in report.iter().filter(|line| line["type"] == "record") {
        let seq = record["seq"].as_u64().expect("a number");
        assert!(last < Some(seq), "{seq} after {last:?}");
        last = Some(seq);
        // One that is being written says so, and may be anything.
        if record["state"] != "complete" && record["state"] != "open" {
            assert_eq!(record["state"], "in-progress", "{record}");
            continue;
        }
        let time = record["time"].as_f64().expect("a time");
        let text = record["text"].as_str().expect("a text").to_owned();
        records.insert(seq, ((time * 1e6 + 1e-4) as u64, text));
    }
    records
}

/// What the guest read from `/dev/kmsg`, of lines such as
/// `6,339,5140900,-;text`; those that begin with a space say more of the one
/// before.
pub(super) fn kmsg(console: &str) -> BTreeMap<u64, (u64, String)> {
    let (_, shown) = console.split_once("kmsg begins").expect("it is shown");
    let (shown, _) = shown.split_once("kmsg ends").expect("all of it");
    let record = |line: &str| {
        let (head, text) = line.trim_end_matches('\r').split_once(';')?;
        let mut head = head.split(',').skip(1).map(|field| field.parse().ok());
        Some((head.next()??, (head.next()??, text.to_owned())))
    };
    shown.lines().filter(|line| !line.starts_with(' ')).filter_map(record).collect()
}

#[test]
fn a_ring_that_is_written_as_it_is_read_gives_whole_and_true_records() {
    let Some(stock) = lab::stock() else { return };
    let Some(talker) = lab::file("init", "talker", true) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let initrd = folder.path().join("initrd");
    initramfs(&talker, &initrd);
    // No console prints it, and nothing is held back: it is to be fast.
    let append = format!("console=hvc0 loglevel=0 printk.devkmsg=on panic=-1 -- {LINES}");
    let words = ["--logbuf-format=json", "--logbuf-where=off", "-append", &append, "-initrd"];
    let mut words = boot(&stock, &words);
    words.push(initrd.clone().into());
    let guest = Guest::start(words);
    until("the guest's talk", || guest.console().contains("talking"));
    let (mut reports, mut ticks, mut met) = (0, 0, Vec::new());
    while !guest.console().contains("kmsg begins") {
        let report = ask(&guest);
        let records = records(&report);
        let numbers: Vec<usize> =
            records.values().filter_map(|(_, text)| number_of(text)).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "in the order of writing");
        // Sequence and number go together: one line is one record.
        let by_seq = |(seq, (_, text)): (&u64, &(u64, String))| {
            number_of(text).map(|number| *seq as usize - number)
        };
        let mut offsets: Vec<usize> = records.iter().filter_map(by_seq).collect();
        offsets.dedup();
        assert!(offsets.len() <= 2, "another record in between: {offsets:?}");
        reports += 1;
        ticks += numbers.len();
        met.extend(numbers.last().copied());
    }
    met.dedup();
    println!("{reports} reports of {ticks} lines, {} of them of another moment", met.len());
    assert!(met.len() >= 5, "it was read while it was written: {met:?}");
    until("the end of /dev/kmsg", || guest.console().contains("kmsg ends"));
    let (ours, theirs) = (records(&ask(&guest)), kmsg(&guest.console()));
    assert!(theirs.len() > 100, "{theirs:?}");
    assert_eq!(ours.values().filter_map(|(_, text)| number_of(text)).max(), Some(LINES - 1));
    // /dev/kmsg begins where the ring did when it was opened.
    for (seq, record) in &theirs {
        assert_eq!(ours.get(seq), Some(record), "record {seq}");
    }
    let more: Vec<_> = ours.iter().filter(|(seq, _)| !theirs.contains_key(seq)).collect();
    assert!(more.is_empty(), "only ours: {more:?}");
}
