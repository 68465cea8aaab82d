//! What is known of one boot of the guest: the log so far, kept outside of
//! the guest, and how long nothing has come.

use std::time::Duration;

use super::sight::Console;
use crate::printk::{Entry, Format, Log, Loss, Progress, Record, State};

/// How many bytes of a log are kept at least; of a longer one, the older
/// entries are given up.
const KEPT: usize = 4 << 20;

/// What an allocation takes beside what was asked for.
const ALLOCATION: usize = 16;

/// What every panic says first, since 2.4.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What a panic says last, when the machine stays.
const PANIC_END: &[u8] = b"---[ end Kernel panic";

/// One boot of the guest.
#[derive(Debug, Default)]
pub(super) struct Boot {
    format: Option<Format>,
    entries: Vec<Entry>,
    /// What these take, in bytes.
    cost: usize,
    /// What was read at once at most, in bytes: a whole ring is kept, however
    /// large it is.
    ring: usize,
    /// Where to read on.
    resume: u64,
    /// How far the kernel had come.
    pub(super) progress: Option<Progress>,
    /// For how long nothing has come.
    pub(super) quiet: Duration,
    /// A kernel was seen.
    pub(super) entered: bool,
    /// The log says that the kernel panicked.
    pub(super) panic_begun: bool,
    /// And that it has said all about it.
    pub(super) panic_done: bool,
    /// The log says that a console was registered.
    console_enabled: bool,
    /// The panic was taken for an event.
    pub(super) panicked: bool,
    /// How many entries there were when it was last reported.
    reported: Option<usize>,
}

impl Boot {
    /// The sequence number to read on from.
    pub(super) const fn resume(&self) -> u64 {
        self.resume
    }

    /// Take what was read from [`Boot::resume`] on.
    pub(super) fn take(&mut self, log: &Log, progress: Progress) {
        self.progress = Some(progress);
        self.format = Some(log.format);
        self.entered = true;
        self.quiet = Duration::ZERO;
        // What could still change has been read again.
        let known = self.entries.partition_point(|entry| seq(entry) < self.resume);
        let again: usize = self.entries.drain(known..).map(|entry| cost(&entry)).sum();
        let new: usize = log.entries.iter().map(cost).sum();
        self.entries.extend(log.entries.iter().cloned());
        self.cost = self.cost.saturating_sub(again).saturating_add(new);
        self.ring = self.ring.max(new);
        self.resume = log.resume().unwrap_or(self.resume);
        for record in log.records() {
            self.panic_begun |= begins_panic(record);
            self.panic_done |= is_kernels(record) && record.text.starts_with(PANIC_END);
            self.console_enabled |= enables_console(record);
        }
        self.give_up();
    }

    /// Give up the oldest entries where they take too much: a quarter at
    /// once, so that it is not to be done for each.
    fn give_up(&mut self) {
        // What is left afterwards still holds all that was read at once.
        let kept = KEPT.max(self.ring.saturating_add(self.ring / 2));
        if self.cost <= kept {
            return;
        }
        let mut given_up = 0;
        for entry in &self.entries {
            if self.cost <= kept - kept / 4 {
                break;
            }
            self.cost -= cost(entry).min(self.cost);
            given_up += 1;
        }
        self.entries.drain(..given_up);
        let next = self.entries.first().map_or(self.resume, seq);
        let lost = Entry::Lost { seq: 0, count: next, why: Loss::Overwritten };
        self.cost += cost(&lost);
        self.entries.insert(0, lost);
    }

    /// Whether a console is registered, where the kernel's variables tell that
    /// or else the log did.
    pub(super) const fn console(&self, told: Console) -> Console {
        match told {
            Console::Unknown if self.console_enabled => Console::Registered,
            told => told,
        }
    }

    /// The log so far; `None` where nothing was printed.
    pub(super) fn log(&self) -> Option<Log> {
        let format = self.format.filter(|_| !self.entries.is_empty())?;
        Some(Log { format, entries: self.entries.clone() })
    }

    /// The format of the log, once it was seen.
    pub(super) const fn format(&self) -> Option<Format> {
        self.format
    }

    /// Whether nothing was printed.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The log is reported as it is now.
    pub(super) fn note_report(&mut self) {
        self.reported = Some(self.entries.len());
    }

    /// Whether the log was reported as it is now.
    pub(super) fn is_reported(&self) -> bool {
        self.reported == Some(self.entries.len())
    }
}

/// What an entry takes of our memory, in bytes.
fn cost(entry: &Entry) -> usize {
    let text = match entry {
        Entry::Record(record) => record.text.len() + ALLOCATION,
        Entry::Lost { .. } => 0,
    };
    size_of::<Entry>() + text
}

/// Whether a record begins a panic.
pub(super) fn begins_panic(record: &Record) -> bool {
    is_kernels(record) && record.text.starts_with(PANIC)
}

/// Whether a record is the kernel's own: what user space writes to `/dev/kmsg`
/// is never of facility 0 (devkmsg_write()).
const fn is_kernels(record: &Record) -> bool {
    record.facility == 0
}

/// Whether a record says that a console was registered: `console [hvc0]
/// enabled`, with `bootconsole` or `printk: legacy console` in its place.
pub(super) fn enables_console(record: &Record) -> bool {
    is_kernels(record)
        && record.text.ends_with(b"] enabled")
        && memchr::memmem::find(&record.text, b"console [").is_some_and(|at| at < 32)
}

/// The sequence number of an entry.
pub(super) const fn seq(entry: &Entry) -> u64 {
    match entry {
        Entry::Record(record) => record.seq,
        Entry::Lost { seq, .. } => *seq,
    }
}

/// Whether an entry may still change.
pub(super) const fn is_unfinished(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Record(Record { state: State::Open | State::InProgress, .. })
            | Entry::Lost { why: Loss::Reserved, .. }
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A complete record.
    pub(in crate::watch) fn record(seq: u64, text: &str) -> Entry {
        Entry::Record(Record {
            seq,
            ts_nsec: Some(seq * 1000),
            level: 6,
            facility: 0,
            continues: false,
            caller: None,
            device: None,
            text: text.as_bytes().to_vec(),
            state: State::Complete,
        })
    }

    /// A record that may still be extended.
    pub(in crate::watch) fn open(seq: u64, text: &str) -> Entry {
        match record(seq, text) {
            Entry::Record(record) => Entry::Record(Record { state: State::Open, ..record }),
            lost @ Entry::Lost { .. } => lost,
        }
    }

    fn log(entries: &[Entry]) -> Log {
        Log { format: Format::Ringbuffer, entries: entries.to_vec() }
    }

    #[test]
    fn what_could_still_change_is_replaced_by_what_it_became() {
        let mut boot = Boot::default();
        assert!(boot.log().is_none());
        let progress = |next| Progress::new(next, [0; 4]);
        boot.take(&log(&[record(0, "a"), open(1, "b")]), progress(2));
        assert_eq!(boot.resume(), 1);
        boot.take(&log(&[record(1, "bc"), record(2, "d")]), progress(3));
        assert_eq!(boot.resume(), 3);
        let texts = [record(0, "a"), record(1, "bc"), record(2, "d")];
        assert_eq!(boot.log().expect("a log").entries, texts);
        boot.note_report();
        boot.take(&log(&[]), progress(3));
        assert!(boot.is_reported());
        boot.take(&log(&[record(3, "Kernel panic - not syncing: x")]), progress(4));
        assert!(!boot.is_reported() && boot.panic_begun && !boot.panic_done);
    }

    #[test]
    fn a_panic_is_the_kernels_to_tell() {
        let mut boot = Boot::default();
        let said = |facility| match record(0, "Kernel panic - not syncing: x") {
            Entry::Record(record) => Entry::Record(Record { facility, ..record }),
            lost @ Entry::Lost { .. } => lost,
        };
        // LOG_USER.
        boot.take(&log(&[said(1)]), Progress::new(1, [0; 4]));
        assert!(!boot.panic_begun);
        boot.take(&log(&[said(0)]), Progress::new(1, [0; 4]));
        assert!(boot.panic_begun);
    }

    #[test]
    fn where_no_variable_tells_of_a_console_the_log_does() {
        let mut boot = Boot::default();
        boot.take(&log(&[record(0, "a")]), Progress::new(1, [0; 4]));
        assert_eq!(boot.console(Console::Unknown), Console::Unknown);
        boot.take(&log(&[record(1, "console [hvc0] enabled")]), Progress::new(2, [0; 4]));
        assert_eq!(boot.console(Console::Unknown), Console::Registered);
        assert_eq!(boot.console(Console::None), Console::None);
    }

    #[test]
    fn of_a_log_without_end_the_newest_is_kept_but_never_less_than_the_ring() {
        let mut boot = Boot::default();
        let text = "x".repeat(1000);
        let batch = |from: u64, count: u64| {
            let entries: Vec<Entry> = (from..from + count).map(|seq| record(seq, &text)).collect();
            log(&entries)
        };
        for from in (0..100_000).step_by(100) {
            boot.take(&batch(from, 100), Progress::new(from + 100, [0; 4]));
            assert!(boot.cost <= KEPT, "{} bytes", boot.cost);
            let entries = &boot.log().expect("a log").entries;
            let records: Vec<u64> = entries.iter().map(seq).filter(|seq| *seq > 0).collect();
            assert_eq!(records.last(), Some(&(from + 99)));
            assert!(records.windows(2).all(|pair| pair[1] == pair[0] + 1));
            if let Some(Entry::Lost { seq: 0, count, .. }) = entries.first() {
                assert_eq!(Some(count), records.first());
            }
        }
        assert!(matches!(boot.entries.first(), Some(Entry::Lost { .. })));
        let ring = 2 * KEPT as u64 / 1000;
        boot.take(&batch(100_000, ring), Progress::new(100_000 + ring, [0; 4]));
        let all = |from: u64| boot.entries.iter().filter(|entry| seq(entry) >= from).count() as u64;
        assert_eq!(all(100_000), ring);
    }
}
