//! What is known of one boot of the guest: the log so far, kept outside of
//! the guest, and how long nothing has come.

use std::time::Duration;

use crate::printk::{Entry, Format, Log, Loss, Progress, Record, State};

/// How many entries are kept; of a longer log, the older ones are given up.
const KEPT: usize = 1 << 17;

/// What every panic says first, since 2.4.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What a panic says last, when the machine stays.
const PANIC_END: &[u8] = b"---[ end Kernel panic";

/// One boot of the guest.
#[derive(Debug, Default)]
pub(super) struct Boot {
    format: Option<Format>,
    entries: Vec<Entry>,
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

    /// Take what was read from [`Boot::resume`] on; the first record that
    /// `wanted` accepts, or that begins a panic, whichever comes first, ends
    /// the search for either.
    pub(super) fn take(&mut self, log: &Log, progress: Progress) {
        self.progress = Some(progress);
        self.format = Some(log.format);
        self.entered = true;
        self.quiet = Duration::ZERO;
        // What could still change has been read again.
        let known = self.entries.partition_point(|entry| seq(entry) < self.resume);
        self.entries.truncate(known);
        self.entries.extend(log.entries.iter().cloned());
        self.resume = log.resume().unwrap_or(self.resume);
        for record in log.records() {
            self.panic_begun |= record.text.starts_with(PANIC);
            self.panic_done |= record.text.starts_with(PANIC_END);
        }
        if self.entries.len() > KEPT {
            let given_up = self.entries.len() - KEPT / 2;
            self.entries.drain(..given_up);
            let next = self.entries.first().map_or(0, seq);
            let lost = Entry::Lost { seq: 0, count: next, why: Loss::Overwritten };
            self.entries.insert(0, lost);
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

/// Whether a record begins a panic.
pub(super) fn begins_panic(record: &Record) -> bool {
    record.text.starts_with(PANIC)
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
}
