//! What was shown before, so that only what is new need be shown.

use crate::printk::{Entry, Log, Record};
use crate::report::{Report, Scope, Verdict};

/// How many entries that may still change are remembered.
const MOST_UNFINISHED: usize = 64;

/// The end of what was shown.
#[derive(Clone, Debug)]
struct Shown {
    /// The report's number.
    number: u64,
    kernel: Option<Vec<u8>>,
    /// Where to read on.
    resume: u64,
    /// The last record before that: if it is another one now, the guest was
    /// restarted.
    last: Option<Record>,
    /// Entries from there on that were shown, but may change yet.
    unfinished: Vec<Entry>,
}

/// What was shown last.
#[derive(Clone, Debug, Default)]
pub struct History(Option<Shown>);

impl History {
    /// The history once `report` was shown; `None` where that changes nothing.
    pub fn of(report: &Report) -> Option<Self> {
        let log = report.log()?;
        let resume = log.resume()?;
        let from = log.entries.partition_point(|entry| sequence(entry).0 < resume);
        let (finished, unfinished) = log.entries.split_at(from);
        let last = finished.iter().rev().find_map(|entry| match entry {
            Entry::Record(record) => Some(record.clone()),
            Entry::Lost { .. } => None,
        });
        Some(Self(Some(Shown {
            number: report.number,
            kernel: report.kernel.clone(),
            resume,
            last,
            unfinished: unfinished.iter().take(MOST_UNFINISHED).cloned().collect(),
        })))
    }

    /// The report that showed all of this one already, if one did.
    pub fn all_of(&self, report: &Report) -> Option<u64> {
        let (shown, log) = (self.0.as_ref()?, report.log()?);
        let seen = |entry: &Entry| {
            let (seq, count) = sequence(entry);
            seq.saturating_add(count) <= shown.resume
        };
        let new = log.entries.get(log.entries.partition_point(seen)..)?;
        let same = report.kernel == shown.kernel && shown.is_before(log);
        (same && new == shown.unfinished).then_some(shown.number)
    }

    /// Leave out of `report` what was shown; it stays whole where nothing was
    /// shown of that log.
    pub fn narrow(&self, report: &mut Report) {
        let Some(shown) = &self.0 else { return };
        let Verdict::Log(log) = &mut report.verdict else { return };
        if report.kernel != shown.kernel || !shown.is_before(log) {
            report.notes.push(format!(
                "the log is another one than in report #{}: the guest was restarted, or set back to a snapshot",
                shown.number
            ));
            return;
        }
        leave_out(log, shown.resume);
        if log.entries.starts_with(&shown.unfinished) {
            log.entries.drain(..shown.unfinished.len());
        }
        report.scope = Scope::New(shown.number);
    }
}

impl Shown {
    /// Whether `log` goes on from here.
    fn is_before(&self, log: &Log) -> bool {
        let end = end(log);
        let Some(last) = &self.last else { return end >= self.resume };
        let same = log.records().find(|record| record.seq == last.seq);
        end >= self.resume
            && same.is_none_or(|same| same.ts_nsec == last.ts_nsec && same.text == last.text)
    }
}

/// An entry's first sequence number, and how many it stands for.
const fn sequence(entry: &Entry) -> (u64, u64) {
    match entry {
        Entry::Record(record) => (record.seq, 1),
        Entry::Lost { seq, count, .. } => (*seq, *count),
    }
}

/// The sequence number after a log's last.
pub fn end(log: &Log) -> u64 {
    log.entries.last().map_or(0, |entry| {
        let (seq, count) = sequence(entry);
        seq.saturating_add(count)
    })
}

/// Leave out of a log what comes before sequence number `from`.
pub fn leave_out(log: &mut Log, from: u64) {
    log.entries.retain_mut(|entry| match entry {
        Entry::Record(record) => record.seq >= from,
        Entry::Lost { seq, count, .. } => {
            let end = seq.saturating_add(*count);
            if *seq < from {
                *count = end.saturating_sub(from);
                *seq = from;
            }
            *count > 0
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printk::{Format, Loss, State};

    fn record(seq: u64, text: &str, state: State) -> Entry {
        Entry::Record(Record {
            seq,
            ts_nsec: Some(seq),
            level: 6,
            facility: 0,
            continues: false,
            caller: None,
            device: None,
            text: text.as_bytes().to_vec(),
            state,
        })
    }

    fn report(entries: Vec<Entry>) -> Report {
        Report::new(Verdict::Log(Log { format: Format::Ringbuffer, entries }))
    }

    fn news(before: Vec<Entry>, now: Vec<Entry>) -> (Vec<Entry>, Scope) {
        let history = History::of(&report(before)).unwrap_or_default();
        let mut now = report(now);
        history.narrow(&mut now);
        (now.log().map(|log| log.entries.clone()).unwrap_or_default(), now.scope)
    }

    fn complete(count: u64) -> Vec<Entry> {
        (0..count).map(|seq| record(seq, "x", State::Complete)).collect()
    }

    #[test]
    fn that_nothing_is_new_is_known_before_anything_is_left_out() {
        let all_of =
            |before, now| History::of(&report(before)).unwrap_or_default().all_of(&report(now));
        let open = |text| [complete(2), vec![record(2, text, State::Open)]].concat();
        assert_eq!(all_of(complete(3), complete(3)), Some(1));
        assert_eq!(all_of(open("a"), open("a")), Some(1));
        for (before, now) in [
            (complete(3), complete(4)),
            (open("a"), open("ab")),
            (complete(3), complete(1)),
            (vec![], complete(1)),
        ] {
            assert_eq!(all_of(before, now), None);
        }
    }

    #[test]
    fn only_what_is_new_is_left() {
        assert_eq!(news(complete(3), complete(3)), (vec![], Scope::New(1)));
        let two = complete(5).split_off(3);
        assert_eq!(news(complete(3), complete(5)), (two, Scope::New(1)));
        let lost = |seq, count| Entry::Lost { seq, count, why: Loss::Overwritten };
        let now = vec![lost(0, 5), record(5, "y", State::Complete)];
        let left = vec![lost(3, 2), record(5, "y", State::Complete)];
        assert_eq!(news(complete(3), now), (left, Scope::New(1)));
    }

    #[test]
    fn an_unfinished_record_is_shown_again_once_it_has_changed() {
        let with = |text, state| {
            let mut entries = complete(2);
            entries.push(record(2, text, state));
            entries
        };
        let open = || with("half", State::Open);
        assert_eq!(news(open(), open()).0, []);
        let whole = with("half and half", State::Complete);
        assert_eq!(news(open(), whole.clone()).0, whole[2..]);
    }

    #[test]
    fn after_a_restart_all_is_shown() {
        let again: Vec<Entry> = (0..9).map(|seq| record(seq, "y", State::Complete)).collect();
        assert_eq!(news(complete(3), again.clone()), (again, Scope::All));
        assert_eq!(news(complete(3), complete(1)), (complete(1), Scope::All));
    }

    #[test]
    fn before_anything_was_shown_all_is_new() {
        let mut now = report(complete(2));
        History::default().narrow(&mut now);
        assert_eq!((now.scope, now.log().map(|log| log.entries.len())), (Scope::All, Some(2)));
    }
}
