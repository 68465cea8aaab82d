//! The log before 3.5: a ring of bytes, just as `dmesg -r` shows them.
//!
//! `log_end` counts every character ever stored; the ring holds the last
//! `log_buf_len` of them. What later kernels keep in fields stands in the
//! text here: a level in angle brackets before each line, and with
//! `CONFIG_PRINTK_TIME` the time in square ones.
//!
//! The format keeps no sequence numbers. The place of a line's first
//! character, as `log_end` counts, stands in for them: it ascends and never
//! changes, though not by one. How many lines were overwritten nobody knows:
//! the loss is shown as one.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use super::fetch::{fetch, fetch_ring, most_records};
use super::record::{Entry, Format, Log, Loss, Record, State, push_lost};
use super::{Error, Progress};
use crate::arch::{Bytes, Word};
use crate::guest::View;

/// Sizes believed, as for later formats.
const SIZES: std::ops::RangeInclusive<u64> = 1 << 12..=1 << 31;

/// The level of a line that has none: `DEFAULT_MESSAGE_LOGLEVEL`, a warning.
const DEFAULT_LEVEL: u8 = 4;

/// The longest text held as one record; what is shown of it may be four times
/// as long. `printk()` stored no more than 1024 bytes at a time.
const LONGEST: usize = 64 << 10;

/// Effective addresses of the kernel's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSymbols {
    /// `char *log_buf`: the pointer, not what it points to.
    pub log_buf: u64,
    /// `int log_buf_len`.
    pub log_buf_len: u64,
    /// `unsigned log_end`; up to 2.6.24 `unsigned long`.
    pub log_end: u64,
    /// `unsigned logged_chars`.
    pub logged_chars: Option<u64>,
}

/// A byte ring that has been found.
#[derive(Clone, Copy, Debug)]
pub struct ByteLog {
    source: Source,
    empty: bool,
}

/// How it is known where the text begins and ends.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// From the kernel's variables.
    Symbols(ByteSymbols),
    /// From the text itself: that many bytes from the address on.
    Text { address: u64, len: usize },
}

/// The kernel's variables at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    buffer: u64,
    size: u64,
    end: u64,
    chars: u64,
}

impl ByteLog {
    /// Open the ring that the kernel's variables describe.
    ///
    /// # Errors
    /// [`Error::Read`] when they cannot be read, [`Error::Malformed`] when
    /// they describe no buffer.
    pub fn open(view: &View<'_>, symbols: ByteSymbols) -> Result<Self, Error> {
        let empty = Marks::read(view, &symbols)?.held() == 0;
        Ok(Self { source: Source::Symbols(symbols), empty })
    }

    /// A ring known by its text alone, `len` bytes at effective address
    /// `address`. If the times in it tell that it came round, it is put in
    /// order.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be read.
    pub fn text(view: &View<'_>, address: u64, len: usize) -> Result<Self, Error> {
        let mut log = Self { source: Source::Text { address, len }, empty: false };
        log.empty = log.read(view)?.entries.is_empty();
        Ok(log)
    }

    /// Whether nothing had been printed when the ring was opened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.empty
    }

    /// How far the kernel has come, without reading the text. Without
    /// symbols, the text is read.
    ///
    /// # Errors
    /// As [`ByteLog::read`].
    pub fn progress(&self, view: &View<'_>) -> Result<Progress, Error> {
        let end = match &self.source {
            Source::Symbols(symbols) => Marks::read(view, symbols)?.end,
            Source::Text { .. } => {
                let log = self.read(view)?;
                log.records().last().map_or(0, |record| record.seq + record.text.len() as u64)
            }
        };
        Ok(Progress::new(end, [0; 4]))
    }

    /// All lines.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Malformed`] when the variables describe
    /// no buffer any more.
    pub fn read(&self, view: &View<'_>) -> Result<Log, Error> {
        self.read_from(view, 0)
    }

    /// The lines that begin at `seq` or later.
    ///
    /// # Errors
    /// As [`ByteLog::read`].
    pub fn read_from(&self, view: &View<'_>, seq: u64) -> Result<Log, Error> {
        let mut text = Vec::new();
        let mut entries = Vec::new();
        match &self.source {
            Source::Symbols(symbols) => {
                let marks = Marks::read(view, symbols)?;
                let start = marks.end.saturating_sub(marks.held());
                let ring = (marks.size, 1);
                fetch_ring(view, marks.buffer, ring, (start, marks.end - start), &mut text)?;
                // Characters that came meanwhile are written over the oldest.
                let now = Marks::read(view, symbols)?;
                if (now.buffer, now.size) != (marks.buffer, marks.size) || now.end < marks.end {
                    return Err(Error::Replaced);
                }
                // One more is stored before it is counted.
                let end = if now.end == marks.end { now.end } else { now.end + 1 };
                let lost = end.saturating_sub(now.size).saturating_sub(start);
                let kept = text.get(lost.min(text.len() as u64) as usize..).unwrap_or_default();
                let start = start + lost;
                if start > seq {
                    push_lost(&mut entries, seq, 1, Loss::Overwritten);
                }
                tell(kept, start, seq, &mut entries);
            }
            Source::Text { address, len } => {
                fetch(view, *address, *len, &mut text)?;
                // One that came round has lost what was there, however much.
                let start = match seam(&text) {
                    Some(seam) => {
                        text.rotate_left(seam);
                        1
                    }
                    None => 0,
                };
                if start > seq {
                    push_lost(&mut entries, seq, 1, Loss::Overwritten);
                }
                tell(&text, start, seq, &mut entries);
            }
        }
        Ok(Log { format: Format::Bytes, entries })
    }
}

impl Marks {
    fn read(view: &View<'_>, symbols: &ByteSymbols) -> Result<Self, Error> {
        let size = u64::from(number(view, symbols.log_buf_len)?);
        let buffer = view.word(symbols.log_buf)?;
        if !SIZES.contains(&size) || !size.is_power_of_two() {
            return Err(malformed(symbols.log_buf_len, "length is out of range"));
        }
        if buffer == 0 || view.real(buffer, size).is_none() {
            return Err(malformed(symbols.log_buf, "buffer is not in RAM"));
        }
        let chars = symbols.logged_chars.map(|at| number(view, at)).transpose()?.unwrap_or(0);
        let mut end = u64::from(number(view, symbols.log_end)?);
        if end == 0 && view.arch().word == Word::W64 {
            // As `unsigned long` on big endian the small half is the second.
            // Nothing stored and yet text there would contradict itself.
            let mut first = [0];
            view.read(buffer, &mut first)?;
            let long = view.word(symbols.log_end)?;
            if first == [b'<'] && long >> 32 == 0 {
                end = long;
            }
        }
        Ok(Self { buffer, size, end, chars: u64::from(chars) })
    }

    /// How many characters the ring holds. `logged_chars` stays at the size
    /// of the ring when `log_end` has passed 2^32; it is 0 after `dmesg -c`.
    fn held(&self) -> u64 {
        let by_end = self.end.min(self.size);
        by_end.max(self.chars.min(self.size)).min(self.end)
    }
}

/// One line of the text.
struct Line<'a> {
    place: Range<usize>,
    /// What the brackets say, if there are any.
    prefix: Option<Prefix>,
    ts_nsec: Option<u64>,
    text: &'a [u8],
    closed: bool,
}

/// What stands in angle brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    level: Option<u8>,
    facility: u8,
    continues: bool,
}

/// The lines of `text`, NULs dropped from both ends.
fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut at = 0;
    text.split_inclusive(|&byte| byte == b'\n').filter_map(move |raw| {
        let place = at..at + raw.len();
        at = place.end;
        let (line, closed) = match raw.strip_suffix(b"\n") {
            Some(line) => (line, true),
            None => (raw, false),
        };
        let blank = line.iter().take_while(|&&byte| byte == 0).count();
        let line = line.get(blank..)?;
        if !closed && line.is_empty() {
            return None;
        }
        let (prefix, line) = split_prefix(line);
        let (ts_nsec, text) = split_time(line);
        Some(Line { place: place.start + blank..place.end, prefix, ts_nsec, text, closed })
    })
}

/// Turn `text`, whose first character is number `start`, into records.
fn tell(text: &[u8], start: u64, from: u64, entries: &mut Vec<Entry>) {
    // A ring known by its text alone may be read with zeros behind it.
    let end = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let text = text.get(..end).unwrap_or_default();
    let (many, skipped) = too_many(text);
    let (text, start) = (text.get(skipped..).unwrap_or_default(), start + skipped as u64);
    if start > from {
        push_lost(entries, (start - skipped as u64).max(from), many, Loss::TooMany);
    }
    for line in lines(text).filter(|line| start + line.place.start as u64 >= from) {
        tell_line(&line, start + line.place.start as u64, entries);
    }
}

/// How many lines are too many to be held, and where the others begin.
fn too_many(text: &[u8]) -> (u64, usize) {
    let ends = || memchr::memchr_iter(b'\n', text);
    let many = ends().count().saturating_sub(most_records(text.len()));
    let skipped = many.checked_sub(1).and_then(|last| ends().nth(last)).map_or(0, |at| at + 1);
    (many as u64, skipped)
}

/// Turn a line into a record, or into some where it is longer than any.
fn tell_line(line: &Line<'_>, seq: u64, entries: &mut Vec<Entry>) {
    let prefix = line.prefix;
    let (mut at, mut is_first) = (0, true);
    while is_first || at < line.text.len() {
        let end = line.text.len().min(at + LONGEST);
        let piece = line.text.get(at..end).unwrap_or_default();
        let is_last = end == line.text.len();
        entries.push(Entry::Record(Record {
            seq: seq + at as u64,
            ts_nsec: line.ts_nsec,
            level: prefix.and_then(|prefix| prefix.level).unwrap_or(DEFAULT_LEVEL),
            facility: prefix.map_or(0, |prefix| prefix.facility),
            // Every line has a prefix; one without is the rest of one that
            // was overwritten.
            continues: !is_first || prefix.is_none_or(|prefix| prefix.continues),
            caller: None,
            device: None,
            text: piece.to_vec(),
            state: if line.closed || !is_last { State::Complete } else { State::Open },
        }));
        (at, is_first) = (end, false);
    }
}

/// `<N>`: level in the lowest three bits, facility above. `<c>` and `<d>`
/// (2.6.37 to 3.4, `KERN_CONT` and `KERN_DEFAULT`) give none; the letter may
/// also follow a number.
fn split_prefix(line: &[u8]) -> (Option<Prefix>, &[u8]) {
    let parse = || {
        let rest = line.strip_prefix(b"<")?;
        let end = rest.iter().take(6).position(|&byte| byte == b'>')?;
        let (inner, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
        let digits = inner.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let letter = inner.get(digits..)?;
        let number = inner
            .get(..digits)?
            .iter()
            .fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        let continues = match letter {
            b"" if digits > 0 => false,
            b"d" => false,
            b"c" => true,
            _ => return None,
        };
        let level = (digits > 0).then_some((number & 7) as u8);
        Some((Prefix { level, facility: (number >> 3) as u8, continues }, rest))
    };
    match parse() {
        Some((prefix, rest)) => (Some(prefix), rest),
        None => (None, line),
    }
}

/// `[%5lu.%06lu] `: seconds and microseconds, here as nanoseconds.
fn split_time(line: &[u8]) -> (Option<u64>, &[u8]) {
    let parse = || {
        let rest = line.strip_prefix(b"[")?;
        let end = rest.iter().take(24).position(|&byte| byte == b']')?;
        let (inner, rest) = (rest.get(..end)?, rest.get(end + 1..)?.strip_prefix(b" ")?);
        let (seconds, micros) = std::str::from_utf8(inner).ok()?.trim_start().split_once('.')?;
        let digits = |number: &str| number.bytes().all(|byte| byte.is_ascii_digit());
        if micros.len() != 6 || !digits(micros) || !digits(seconds) {
            return None;
        }
        let (seconds, micros) = (seconds.parse::<u64>().ok()?, micros.parse::<u64>().ok()?);
        Some((seconds.checked_mul(1_000_000_000)?.checked_add(micros * 1000)?, rest))
    };
    match parse() {
        Some((time, rest)) => (Some(time), rest),
        None => (None, line),
    }
}

/// Where in a ring that came round the oldest text is: time falls there
/// below that of the first line.
fn seam(text: &[u8]) -> Option<usize> {
    let mut first = None;
    // The rest of the oldest line, overwritten in part, comes before it.
    let mut rest = None;
    for line in lines(text) {
        match (line.ts_nsec, first) {
            (Some(time), None) => first = Some(time),
            (Some(time), Some(first)) if time < first => {
                return Some(rest.unwrap_or(line.place.start));
            }
            _ => {}
        }
        rest = line.prefix.is_none().then_some(line.place.start);
    }
    None
}

/// A 32-bit number.
fn number(view: &View<'_>, address: u64) -> Result<u32, Error> {
    let mut raw = [0; 4];
    view.read(address, &mut raw)?;
    Bytes::new(&raw, view.arch()).u32(0).ok_or_else(|| malformed(address, "variable is cut off"))
}

fn malformed(address: u64, what: &'static str) -> Error {
    Error::Malformed { format: Format::Bytes, address, what }
}

#[cfg(test)]
mod tests;
