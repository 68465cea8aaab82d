//! Many boots, and one guest for long: nothing leaks, and no record is wrong
//! or missing.
//!
//! Some boots and some seconds by default; `tests/soak` asks for 500 boots and
//! an hour.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::guest::{Guest, until};
use super::initramfs::initramfs;
use super::{boot, lab, live_ring};

/// What an environment variable asks for, or the usual.
fn wanted(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(usual)
}

/// Milliseconds between two lines of the guest's.
const PAUSE: u64 = 200;

/// What an allocator may still take once all has been done many times.
const SLACK_KIB: u64 = 512;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    kib: u64,
    descriptors: usize,
    threads: u64,
    children: usize,
}

/// A number of `/proc/PID/status`; 0 where there is no such process.
fn status(pid: Pid, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn children(pid: Pid) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// What the launcher holds, once it rests: with no more than `threads`.
fn held(pid: Pid, threads: u64) -> Held {
    let mut held = Held { kib: 0, descriptors: 0, threads: 0, children: 0 };
    until("a launcher at rest", || {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
        // The kernel's file is opened for its names once, and once for its
        // functions, when they are needed.
        let counts = |entry: &std::fs::DirEntry| {
            std::fs::read_link(entry.path()).is_ok_and(|path| !path.ends_with("vmlinux"))
        };
        held = Held {
            // Pages of files are the host's, which maps more or fewer.
            kib: status(pid, "RssAnon:"),
            descriptors: descriptors.map_or(0, |all| all.flatten().filter(counts).count()),
            threads: status(pid, "Threads:"),
            children: children(pid).len(),
        };
        held.threads <= threads
    });
    held
}

/// Ask, and the lines of report `number`, which goes to a file of its own;
/// `None` where QEMU ended over it.
fn ask(guest: &Guest, folder: &Path, number: usize) -> Option<Vec<Value>> {
    kill(guest.pid(), Signal::SIGUSR1).expect("it is there");
    let path = folder.join(number.to_string());
    let mut report = String::new();
    // Its last line says that it is one; it may be there in part.
    let is_whole = |report: &str| {
        report.ends_with('\n')
            && report.lines().last().is_some_and(|line| line.contains("\"type\":\"report\""))
    };
    until("a report", || {
        report = std::fs::read_to_string(&path).unwrap_or_default();
        is_whole(&report) || children(guest.pid()).is_empty()
    });
    is_whole(&report).then(|| lines(&report))
}

fn lines(report: &str) -> Vec<Value> {
    assert!(report.ends_with('\n'), "whole: {report:?}");
    report.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A sequence of numbers that nothing is in step with.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn boots_with_random_asks_leave_nothing_behind_and_tell_the_truth() {
    let Some(stock) = lab::stock() else { return };
    let boots = wanted("QEMU_LOGBUF_SOAK_BOOTS", 5);
    let mut random = Random(u64::from(std::process::id()) << 20 | 1);
    let (mut logs, mut records) = (0, 0);
    for number in 0..boots {
        let (more_logs, more) = one_boot(&stock, &mut random, number);
        logs += more_logs;
        records += more;
    }
    println!("{boots} boots, {logs} reports with {records} records, all true");
    assert!(logs > 0 && records > 0, "nobody was asked in time");
}

/// Boot, ask at random moments, end; how many logs came, of how many records.
fn one_boot(stock: &Path, random: &mut Random, number: u64) -> (usize, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = format!("--logbuf-output={}/{{n}}", folder.path().display());
    let append = "console=hvc0 ignore_loglevel panic=-1";
    let format = "--logbuf-format=json";
    let words = ["--logbuf-show=all", format, &output, "-no-reboot", "-append", append];
    let mut guest = Guest::start(boot(stock, &words));
    let pid = guest.pid();
    until("QEMU", || !children(pid).is_empty());
    let qemu = children(pid);
    let asks = random.below(5) as usize;
    let (mut reports, mut before) = (Vec::new(), None);
    for ask_number in 1..=asks {
        std::thread::sleep(Duration::from_millis(random.below(700)));
        if children(pid).is_empty() {
            break;
        }
        reports.extend(ask(&guest, folder.path(), ask_number));
        // Where QEMU has ended, so has what is compared.
        let after = held(pid, 1);
        let before: &Held = before.get_or_insert(after);
        let same = (before.descriptors, before.children) == (after.descriptors, after.children);
        assert!(same || after.children == 0, "{number}: {before:?} became {after:?}");
    }
    // Most run to the panic over the missing root, where QEMU ends; some are
    // ended on the way.
    let ended = random.below(4);
    match ended {
        0 => drop(kill(pid, Signal::SIGTERM)),
        1 => drop(qemu.first().map(|qemu| kill(*qemu, Signal::SIGKILL))),
        _ => {}
    }
    let status = guest.wait();
    // By its signal, where that was in time; QEMU has no handlers at first.
    assert!(status == Some(0) || ended <= 1 && status.is_none(), "{number}: {status:?}");
    for pid in qemu {
        assert_eq!(status_of_gone(pid), 0, "{number}: {pid} is still there");
    }
    let console = (ended > 1).then(|| guest.console());
    let records = reports.iter().map(|report| check(report, console.as_deref(), number)).sum();
    (reports.iter().filter(|report| has_log(report)).count(), records)
}

fn status_of_gone(pid: Pid) -> u64 {
    status(pid, "Threads:")
}

fn has_log(report: &[Value]) -> bool {
    report.last().is_some_and(|end| end["verdict"] == "log")
}

/// Whether a report holds what the console of that boot shows, without a gap;
/// how many records it has.
fn check(report: &[Value], console: Option<&str>, number: u64) -> usize {
    let verdict = report.last().map_or(&Value::Null, |end| &end["verdict"]);
    let known = ["log", "not-entered", "silent", "failed"].iter().any(|known| verdict == known);
    assert!(known, "{number}: {report:?}");
    // Asked over its end QEMU may fail to answer, but then it says so alone.
    let records: Vec<_> = report.iter().filter(|line| line["type"] == "record").collect();
    assert!(verdict == "log" || records.is_empty(), "{number}: {report:?}");
    for (seq, record) in (0..).zip(&records) {
        assert_eq!(record["seq"].as_u64(), Some(seq), "{number}: a gap at {record}");
        let text = record["text"].as_str().expect("a text");
        if let Some(console) = console.filter(|_| record["state"] != "in-progress") {
            let shown = text.lines().all(|line| console.contains(line));
            assert!(shown, "{number}: {record} is not on the console");
        }
    }
    records.len()
}

#[test]
fn one_guest_followed_and_asked_for_long_neither_leaks_nor_lies() {
    let (Some(stock), Some(talker)) = (lab::stock(), lab::file("init", "talker", true)) else {
        return;
    };
    let seconds = wanted("QEMU_LOGBUF_SOAK_SECONDS", 15);
    let folder = tempfile::tempdir().expect("a folder");
    let initrd = folder.path().join("initrd");
    initramfs(&talker, &initrd);
    let append =
        format!("console=hvc0 loglevel=0 printk.devkmsg=on -- {} {PAUSE}", seconds * 1000 / PAUSE);
    let output = format!("--logbuf-output={}/{{n}}", folder.path().display());
    let words = ["--logbuf-follow=all", "--logbuf-format=json", &output, "-append", &append];
    let mut words = boot(&stock, &[&words[..], &["-initrd"]].concat());
    words.push(initrd.clone().into());
    let mut guest = Guest::start(words);
    let mut all = Seen::default();
    let mut samples = Vec::new();
    let mut next = Instant::now();
    let mut over = false;
    while !over {
        over = guest.console().contains("kmsg ends");
        let number = samples.len() + 1;
        let report = ask(&guest, folder.path(), number).expect("QEMU is there");
        std::fs::remove_file(folder.path().join(number.to_string())).expect("a report's file");
        all.add(&report);
        // The follower's thread beside the main one.
        samples.push(held(guest.pid(), 2));
        next += Duration::from_secs(1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!(
        "{} asks in {seconds} s; at first {:?}, at last {:?}",
        samples.len(),
        samples[0],
        samples[samples.len() - 1]
    );
    let truth = live_ring::kmsg(&guest.console());
    assert!(truth.len() as u64 >= seconds * 1000 / PAUSE, "{} records", truth.len());
    all.is(&truth, "asked for");
    let mut followed = Seen::default();
    until("the last record followed", || {
        let text = std::fs::read_to_string(folder.path().join("0")).unwrap_or_default();
        followed = Seen::default();
        followed.add(&lines(&text));
        followed.0.last_key_value().map(|(seq, _)| seq)
            >= truth.last_key_value().map(|(seq, _)| seq)
    });
    assert_eq!(followed.1, 0, "shown twice");
    followed.is(&truth, "followed");
    rests(&samples);
    assert_eq!(guest.terminate(), Some(0));
}

/// Records by their number, with time and text, and how many came again.
#[derive(Default)]
struct Seen(BTreeMap<u64, (u64, String)>, usize);

impl Seen {
    /// Add a report. Where nothing is new all is shown again, and what the
    /// ring has lost since was shown before.
    fn add(&mut self, report: &[Value]) {
        for lost in report.iter().filter(|line| line["type"] == "lost") {
            let number = |key: &str| lost[key].as_u64().expect("a number");
            let all = number("seq")..number("seq") + number("lost");
            if lost["why"] == "reserved" {
                // Asked in the middle of a printk(): it comes with a later report.
                assert!(all.into_iter().all(|seq| !self.0.contains_key(&seq)), "{lost}");
                continue;
            }
            assert_eq!(lost["why"], "overwritten", "{lost}");
            assert!(all.into_iter().all(|seq| self.0.contains_key(&seq)), "{lost}");
        }
        for (seq, record) in live_ring::records(report) {
            self.1 += usize::from(self.0.insert(seq, record).is_some());
        }
    }

    fn is(&self, truth: &BTreeMap<u64, (u64, String)>, what: &str) {
        for (seq, record) in truth {
            let ours = self.0.get(seq).map(|(time, text)| (*time, as_kmsg_has_it(text)));
            assert_eq!(ours.as_ref(), Some(record), "record {seq} as {what}");
        }
        assert!(self.0.keys().all(|seq| truth.contains_key(seq)), "more was {what}");
    }
}

/// `msg_add_ext_text()` of the kernel's printk.c.
fn as_kmsg_has_it(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b' '..0x7f if byte != b'\\' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    text.bytes().map(byte).collect()
}

/// Whether nothing grew after the first quarter. A sample taken while an
/// answer is made finds a descriptor or two more, so the least ones count.
fn rests(samples: &[Held]) {
    let (early, late) = samples.split_at(samples.len() / 4 + 1);
    let most = early.iter().map(|held| held.kib).max().unwrap_or(0);
    for held in late {
        assert!(held.kib <= most + SLACK_KIB, "{most} KiB became {held:?}");
    }
    let least = |samples: &[Held]| {
        let descriptors = samples.iter().map(|held| held.descriptors).min();
        (descriptors, samples.iter().map(|held| held.children).min())
    };
    let last = &late[late.len() - late.len().min(early.len())..];
    assert_eq!(least(last), least(early), "{samples:?}");
}
