//! Which records are shown as they are printed, each once.
//!
//! A record that may still be extended is shown when it is done, as a
//! console would; but a kernel that hangs within a line has said what it
//! said, so after a moment it is shown as it is, and what it becomes later
//! is shown as its continuation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::boot::{enables_console, is_unfinished, seq};
use super::sight::Console;
use crate::cli::Follow;
use crate::printk::{Entry, Record};

/// How long an unfinished record is waited for.
const MOMENT: Duration = Duration::from_secs(1);

/// How many unfinished records are remembered to have been shown.
const MOST: usize = 1024;

/// What to show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// These entries.
    pub(super) entries: Vec<Entry>,
    /// And that the kernel's own console goes on from here.
    pub(super) hands_over: bool,
}

/// What has been shown of one boot after the other.
#[derive(Debug)]
pub(super) struct Follower {
    what: Follow,
    /// Everything before has been shown, or is in `partly`.
    next: u64,
    /// Unfinished records, and how much of their text has been shown.
    partly: BTreeMap<u64, usize>,
    /// What is not shown yet.
    pending: Vec<Entry>,
    /// The first of it, and since when it is.
    waiting: Option<u64>,
    since: Option<Instant>,
    handed_over: bool,
}

impl Follower {
    /// Show records from sequence number `next` on.
    pub(super) fn new(what: Follow, next: u64) -> Self {
        Self {
            what,
            next,
            partly: BTreeMap::new(),
            pending: Vec::new(),
            waiting: None,
            since: None,
            handed_over: false,
        }
    }

    /// The guest was reset.
    pub(super) fn begin_again(&mut self) {
        *self = Self::new(self.what, 0);
    }

    /// What to show now that `new` was read, or nothing new came.
    pub(super) fn take(&mut self, new: Option<&[Entry]>, console: Console, now: Instant) -> Shown {
        let mut shown = Shown::default();
        if self.handed_over {
            return shown;
        }
        let pending = std::mem::take(&mut self.pending);
        let mut entries = new.map_or(pending, <[Entry]>::to_vec);
        shown.hands_over = self.what == Follow::Console && console == Console::Registered;
        if shown.hands_over {
            self.handed_over = true;
            // The console shows this line itself, and what comes after.
            let enables =
                |entry: &Entry| matches!(entry, Entry::Record(record) if enables_console(record));
            if let Some(at) = entries.iter().position(enables) {
                entries.truncate(at);
            }
        }
        // What is waited for is waited for once, however much comes after it.
        let first = entries.iter().find(|entry| !self.is_done(entry)).map(seq);
        if first != self.waiting {
            self.waiting = first;
            self.since = Some(now);
        }
        let waited = self.since.is_none_or(|since| now.saturating_duration_since(since) >= MOMENT);
        for entry in &entries {
            if self.handle(entry, waited || self.handed_over, &mut shown.entries) {
                continue;
            }
            self.pending = entries.iter().filter(|e| seq(e) >= seq(entry)).cloned().collect();
            return shown;
        }
        self.waiting = None;
        shown
    }

    /// Whether there is nothing to wait for before an entry is shown.
    fn is_done(&self, entry: &Entry) -> bool {
        let shown = self.partly.get(&seq(entry));
        let grown =
            |length: &usize| matches!(entry, Entry::Record(record) if record.text.len() > *length);
        !is_unfinished(entry) || shown.map_or(seq(entry) < self.next, |length| !grown(length))
    }

    /// Whether the entry needs no more waiting for.
    fn handle(&mut self, entry: &Entry, waited: bool, shown: &mut Vec<Entry>) -> bool {
        let at = seq(entry);
        let before = self.partly.get(&at).copied();
        if at < self.next && before.is_none() {
            return true;
        }
        if !waited && !self.is_done(entry) {
            return false;
        }
        match (before, entry) {
            (None, _) => shown.push(entry.clone()),
            (Some(length), Entry::Record(record)) if record.text.len() > length => {
                let text = record.text.get(length..).unwrap_or_default().to_vec();
                let continues = length > 0;
                shown.push(Entry::Record(Record { text, continues, ..record.clone() }));
            }
            (Some(_), _) => {}
        }
        match entry {
            _ if is_unfinished(entry) && self.partly.len() < MOST => {
                let length = match entry {
                    Entry::Record(record) if waited => record.text.len(),
                    _ => before.unwrap_or(0),
                };
                self.partly.insert(at, length);
            }
            _ => {
                self.partly.remove(&at);
            }
        }
        let count = match entry {
            Entry::Lost { count, .. } => *count,
            Entry::Record(_) => 1,
        };
        self.next = self.next.max(at.saturating_add(count));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::boot::tests::{open, record};
    use super::*;

    fn texts(shown: &Shown) -> Vec<String> {
        let text = |entry: &Entry| match entry {
            Entry::Record(record) => String::from_utf8_lossy(&record.text).into_owned(),
            Entry::Lost { count, .. } => format!("lost {count}"),
        };
        shown.entries.iter().map(text).collect()
    }

    #[test]
    fn a_record_is_shown_once_and_an_unfinished_one_after_a_moment() {
        let mut follower = Follower::new(Follow::Console, 0);
        let start = Instant::now();
        let later = start + MOMENT;
        let new = [record(0, "a"), open(1, "b")];
        assert_eq!(texts(&follower.take(Some(&new), Console::None, start)), ["a"]);
        assert_eq!(texts(&follower.take(None, Console::None, start)), [""; 0]);
        assert_eq!(texts(&follower.take(None, Console::None, later)), ["b"]);
        assert_eq!(texts(&follower.take(None, Console::None, later)), [""; 0]);
        let new = [record(1, "bc"), record(2, "d")];
        let shown = follower.take(Some(&new), Console::None, later);
        assert_eq!(texts(&shown), ["c", "d"]);
        assert!(matches!(&shown.entries[0], Entry::Record(record) if record.continues));
        let new = [open(3, "e")];
        assert_eq!(texts(&follower.take(Some(&new), Console::None, later)), [""; 0]);
        let new = [record(3, "ef")];
        assert_eq!(texts(&follower.take(Some(&new), Console::None, later)), ["ef"]);
    }

    #[test]
    fn an_unfinished_record_does_not_hold_up_what_comes_after_it() {
        let mut follower = Follower::new(Follow::All, 0);
        let start = Instant::now();
        assert_eq!(texts(&follower.take(Some(&[open(0, "a")]), Console::None, start)), [""; 0]);
        let half = start + MOMENT / 2;
        let more = [open(0, "a"), record(1, "b")];
        assert_eq!(texts(&follower.take(Some(&more), Console::None, half)), [""; 0]);
        let more = [open(0, "a"), record(1, "b"), record(2, "c")];
        let shown = follower.take(Some(&more), Console::None, start + MOMENT);
        assert_eq!(texts(&shown), ["a", "b", "c"]);
        assert_eq!(texts(&follower.take(None, Console::None, start + MOMENT)), [""; 0]);
    }

    #[test]
    fn the_first_console_takes_over_unless_all_is_wanted() {
        let new = [record(0, "a"), record(1, "printk: console [hvc0] enabled"), record(2, "b")];
        let now = Instant::now();
        let mut follower = Follower::new(Follow::Console, 0);
        let shown = follower.take(Some(&new), Console::Registered, now);
        assert!(shown.hands_over);
        assert_eq!(texts(&shown), ["a"]);
        assert_eq!(
            follower.take(Some(&[record(3, "c")]), Console::Registered, now),
            Shown::default()
        );
        follower.begin_again();
        assert_eq!(texts(&follower.take(Some(&[record(0, "x")]), Console::None, now)), ["x"]);
        let mut follower = Follower::new(Follow::All, 0);
        let shown = follower.take(Some(&new), Console::Registered, now);
        assert!(!shown.hands_over && shown.entries.len() == 3);
    }

    #[test]
    fn what_the_ring_lost_between_two_looks_is_said() {
        let mut follower = Follower::new(Follow::All, 0);
        let now = Instant::now();
        follower.take(Some(&[record(0, "a")]), Console::None, now);
        let lost = Entry::Lost { seq: 1, count: 7, why: crate::printk::Loss::Overwritten };
        let shown = follower.take(Some(&[lost, record(8, "b")]), Console::None, now);
        assert_eq!(texts(&shown), ["lost 7", "b"]);
    }
}
