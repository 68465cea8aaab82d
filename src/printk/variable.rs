//! The log of 3.5 to 5.9: records of variable length, one after another.
//!
//! Each begins with a `struct log` (3.5 to 3.10, commit 7ff9554bb578
//! "printk: convert byte-buffer to variable-length record buffer") or
//! `struct printk_log` (3.11 and later), which are the same but for
//! `caller_id` (5.1, commit 15ff2069cb7f, with `CONFIG_PRINTK_CALLER`). A
//! record never runs over the end of the buffer: a header whose length is 0
//! says that the next one is at the start.
//!
//! A line that `pr_cont()` may still extend is not in the buffer but in the
//! variable `cont`; text of `printk_safe` buffers (4.10 and later) is not
//! looked for.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use super::fetch::{fetch, most_records};
use super::layout::{LOG_CONT, split_flags};
use super::record::{Caller, Device, Entry, Format, Log, Loss, Record, State, push_lost};
use super::{Error, Progress};
use crate::arch::{Bytes, Word};
use crate::guest::View;

/// The fields of a header that all kernels have.
const HEADER: usize = 16;

/// Sizes believed: `CONFIG_LOG_BUF_SHIFT` begins at 12, `log_buf_len=` is
/// an `int`.
const SIZES: std::ops::RangeInclusive<u64> = 1 << 12..=1 << 31;

/// Effective addresses of the kernel's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariableSymbols {
    /// `char *log_buf`: the pointer, not what it points to.
    pub log_buf: u64,
    /// `u32 log_buf_len`.
    pub log_buf_len: u64,
    /// `u64 log_first_seq`.
    pub first_seq: u64,
    /// `u32 log_first_idx`.
    pub first_idx: u64,
    /// `u64 log_next_seq`.
    pub next_seq: u64,
    /// `u32 log_next_idx`.
    pub next_idx: u64,
    /// `struct cont cont`, with the line that is still open.
    pub cont: Option<u64>,
}

/// `LOG_NEWLINE` and `LOG_PREFIX` of `enum log_flags`.
const LOG_NEWLINE: u8 = 2;
const LOG_PREFIX: u8 = 4;

/// A log of variable records that has been found.
#[derive(Clone, Copy, Debug)]
pub struct VariableLog {
    source: Source,
    empty: bool,
}

/// How it is known where the log begins and ends.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// From the kernel's variables.
    Symbols(VariableSymbols),
    /// From records that follow each other, where nothing else is known.
    Chain { buffer: u64, size: usize, first_idx: usize },
}

/// The kernel's variables at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    buffer: u64,
    size: usize,
    first_seq: u64,
    next_seq: u64,
    first_idx: usize,
    next_idx: usize,
}

impl VariableLog {
    /// Open the log that the kernel's variables describe.
    ///
    /// # Errors
    /// [`Error::Read`] when they cannot be read, [`Error::Malformed`] when
    /// they describe no buffer.
    pub fn open(view: &View<'_>, symbols: VariableSymbols) -> Result<Self, Error> {
        let marks = Marks::read(view, &symbols)?;
        let open = Cont::read(view, symbols.cont)?.is_some();
        let empty = marks.first_seq == marks.next_seq && !open;
        Ok(Self { source: Source::Symbols(symbols), empty })
    }

    /// A log known by its records alone: a buffer of `size` bytes at
    /// effective address `buffer`, a record at `first_idx` in it, and each
    /// next one where the one before says. It ends where none follows, and
    /// if the buffer's beginning is known (`first_idx` is 0), continues
    /// before that with older records found further on. Sequence numbers
    /// count from the oldest found.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be read, [`Error::Malformed`] when
    /// there is no record at `first_idx`.
    pub fn chain(
        view: &View<'_>,
        buffer: u64,
        size: usize,
        first_idx: usize,
    ) -> Result<Self, Error> {
        let log = Self { source: Source::Chain { buffer, size, first_idx }, empty: false };
        if log.read(view)?.entries.is_empty() {
            return Err(malformed(buffer, "first record is none"));
        }
        Ok(log)
    }

    /// Whether nothing had been printed when the log was opened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.empty
    }

    /// How far the kernel has come, without reading records. Without
    /// symbols, what is known is read anew.
    ///
    /// # Errors
    /// As [`VariableLog::read`].
    pub fn progress(&self, view: &View<'_>) -> Result<Progress, Error> {
        match &self.source {
            Source::Symbols(symbols) => {
                let marks = Marks::read(view, symbols)?;
                let open = Cont::read(view, symbols.cont)?.map_or(0, |cont| cont.text.len());
                let idx = marks.next_idx as u64;
                Ok(Progress::new(marks.next_seq, [marks.first_seq, idx, open as u64, 0]))
            }
            Source::Chain { .. } => {
                let count = self.read(view)?.entries.len() as u64;
                Ok(Progress::new(count, [0; 4]))
            }
        }
    }

    /// All records, and the open line.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Malformed`] when the variables describe
    /// no buffer any more.
    pub fn read(&self, view: &View<'_>) -> Result<Log, Error> {
        self.read_from(view, 0)
    }

    /// The entries with sequence number `seq` and later.
    ///
    /// # Errors
    /// As [`VariableLog::read`].
    pub fn read_from(&self, view: &View<'_>, seq: u64) -> Result<Log, Error> {
        let entries = match &self.source {
            Source::Symbols(symbols) => read_marked(view, symbols, seq)?,
            Source::Chain { buffer, size, first_idx } => {
                read_chain(view, *buffer, *size, *first_idx, seq)?
            }
        };
        Ok(Log { format: Format::VariableRecords, entries })
    }
}

impl Marks {
    /// The variables of one moment: a running kernel changes several of them
    /// for each record, so they are read until they stay.
    fn read(view: &View<'_>, symbols: &VariableSymbols) -> Result<Self, Error> {
        let mut marks = Self::read_once(view, symbols)?;
        for _ in 0..4 {
            let again = Self::read_once(view, symbols)?;
            if again == marks {
                break;
            }
            marks = again;
        }
        marks.check(view).map_err(|what| malformed(symbols.log_buf, what))?;
        Ok(marks)
    }

    fn read_once(view: &View<'_>, symbols: &VariableSymbols) -> Result<Self, Error> {
        let word = view.arch().word.bytes();
        let [buffer, size, first_seq, next_seq, first_idx, next_idx] = numbers(
            view,
            [
                (symbols.log_buf, word),
                (symbols.log_buf_len, 4),
                (symbols.first_seq, 8),
                (symbols.next_seq, 8),
                (symbols.first_idx, 4),
                (symbols.next_idx, 4),
            ],
        )?;
        Ok(Self {
            buffer,
            size: size as usize,
            first_seq,
            next_seq,
            first_idx: first_idx as usize,
            next_idx: next_idx as usize,
        })
    }

    fn check(&self, view: &View<'_>) -> Result<(), &'static str> {
        let size = self.size as u64;
        if !SIZES.contains(&size) || !size.is_power_of_two() {
            return Err("length is out of range");
        }
        if self.buffer == 0 || view.real(self.buffer, size).is_none() {
            return Err("buffer is not in RAM");
        }
        if self.first_idx >= self.size || self.next_idx >= self.size {
            return Err("first or next record is outside the buffer");
        }
        if self.first_seq > self.next_seq {
            return Err("first record is newer than the next");
        }
        Ok(())
    }

    /// The stretches of the buffer that hold records, older first. Indexes
    /// that are equal mean empty or full, which the numbers tell apart.
    fn stretches(&self) -> [Range<usize>; 2] {
        if self.first_seq == self.next_seq {
            [0..0, 0..0]
        } else if self.first_idx < self.next_idx {
            [self.first_idx..self.next_idx, 0..0]
        } else {
            [self.first_idx..self.size, 0..self.next_idx]
        }
    }
}

/// Read what the variables describe.
fn read_marked(view: &View<'_>, symbols: &VariableSymbols, from: u64) -> Result<Vec<Entry>, Error> {
    let marks = Marks::read(view, symbols)?;
    let stretches = marks.stretches();
    // Places in the buffer are kept as they are; what holds no record stays
    // untouched, and is not even made memory of on the host.
    let mut data = vec![0; marks.size];
    for stretch in stretches.iter().filter(|stretch| !stretch.is_empty()) {
        let Some(piece) = data.get_mut(stretch.clone()) else { continue };
        view.read(marks.buffer + stretch.start as u64, piece)?;
    }
    // Read before the second look at the variables: a line flushed since is
    // found there as a record more.
    let cont = Cont::read(view, symbols.cont)?;
    let now = Marks::read(view, symbols)?;
    if (now.buffer, now.size) != (marks.buffer, marks.size) {
        return Err(Error::Replaced);
    }

    // Records are given up before others are written over them, so what is
    // still counted on now is whole, and what is not may be anything.
    let marks =
        Marks { first_seq: now.first_seq.min(marks.next_seq), first_idx: now.first_idx, ..marks };

    let bytes = Bytes::new(&data, view.arch());
    let walk = Walk::new(bytes, &marks);
    let form = Form::of(bytes, &walk.places);
    let joints = Joints::of(bytes, &walk.places);
    let total = marks.next_seq - marks.first_seq;
    // Some of the records, perhaps: those after a gap are counted from the
    // newest, whose number is known.
    let missing = total.saturating_sub(walk.places.len() as u64);
    let gap = walk.gap.unwrap_or(walk.places.len());

    let mut entries = Vec::new();
    let mut seq = marks.first_seq;
    if seq > from {
        push_lost(&mut entries, from, seq - from, Loss::Overwritten);
    }
    let skipped = walk.places.len().saturating_sub(most_records(marks.size));
    for nth in 0..=walk.places.len() {
        if nth == gap {
            let (first, end) = (seq.max(from), seq.saturating_add(missing));
            push_lost(&mut entries, first, end.saturating_sub(first), Loss::Corrupt);
            seq = end;
        }
        let Some(&place) = walk.places.get(nth) else { break };
        if seq >= from && nth < skipped {
            push_lost(&mut entries, seq, 1, Loss::TooMany);
        } else if seq >= from {
            let before = nth.checked_sub(1).filter(|_| nth != gap);
            let before = before.and_then(|before| walk.places.get(before));
            match form.record(bytes, place, seq) {
                Some(record) => {
                    let continues = joints.continues(bytes, before, place);
                    entries.push(Entry::Record(Record { continues, ..record }));
                }
                None => push_lost(&mut entries, seq, 1, Loss::Corrupt),
            }
        }
        seq = seq.saturating_add(1);
    }
    // Not when the line may meanwhile have become a record.
    let cont = cont.filter(|_| now.next_seq == marks.next_seq && seq >= from);
    if let Some(cont) = cont.filter(|cont| !cont.is_stored(bytes, form, &walk.places)) {
        entries.push(Entry::Record(cont.record(seq)));
    }
    Ok(entries)
}

/// Read records that follow each other, without knowing where they end.
fn read_chain(
    view: &View<'_>,
    buffer: u64,
    size: usize,
    first_idx: usize,
    from: u64,
) -> Result<Vec<Entry>, Error> {
    let mut data = Vec::new();
    fetch(view, buffer, size, &mut data)?;
    let bytes = Bytes::new(&data, view.arch());
    let (mut newer, end) = follow(bytes, first_idx..size, None);
    let mut older = Vec::new();
    if first_idx == 0 {
        // Where the buffer came round exactly at a record, older ones follow
        // without a gap: they are from before the first.
        let time = |place: &usize| bytes.u64(*place);
        let start = newer.first().and_then(time);
        if let Some(seam) = newer.iter().position(|place| time(place) < start) {
            older = newer.split_off(seam);
        } else if end < size && !is_blank(bytes, end) {
            older = find_again(bytes, end..size, &newer, true);
        }
    }
    older.append(&mut newer);
    let form = Form::of(bytes, &older);
    let joints = Joints::of(bytes, &older);
    let skipped = older.len().saturating_sub(most_records(size));
    let mut entries = Vec::new();
    push_lost(&mut entries, from, (skipped as u64).saturating_sub(from), Loss::TooMany);
    let before = std::iter::once(None).chain(older.iter().map(Some));
    let records = older.iter().zip(before).zip(0..).skip(skipped);
    let records = records.filter(|(_, seq)| *seq >= from);
    entries.extend(records.map(|((place, before), seq)| match form.record(bytes, *place, seq) {
        Some(record) => {
            let continues = joints.continues(bytes, before, *place);
            Entry::Record(Record { continues, ..record })
        }
        None => Entry::Lost { seq, count: 1, why: Loss::Corrupt },
    }));
    Ok(entries)
}

/// Where the records are.
struct Walk {
    /// The header of each, in order.
    places: Vec<usize>,
    /// How many come before the first gap.
    gap: Option<usize>,
}

impl Walk {
    fn new(bytes: Bytes<'_>, marks: &Marks) -> Self {
        let mut walk = Self { places: Vec::new(), gap: None };
        let comes_round = marks.first_idx >= marks.next_idx;
        for (nth, stretch) in marks.stretches().into_iter().enumerate() {
            if stretch.is_empty() {
                continue;
            }
            // The first of two stretches ends in the header of length 0.
            let open_end = comes_round && nth == 0;
            let (mut places, end) = follow(bytes, stretch.clone(), None);
            walk.places.append(&mut places);
            if end == stretch.end || (open_end && is_blank(bytes, end)) {
                continue;
            }
            walk.gap.get_or_insert(walk.places.len());
            let mut again = find_again(bytes, end..stretch.end, &walk.places, open_end);
            walk.places.append(&mut again);
        }
        walk
    }
}

/// The records from the start of `stretch` on, and where the first is that
/// is none (the end, if all are).
fn follow(bytes: Bytes<'_>, stretch: Range<usize>, form: Option<Form>) -> (Vec<usize>, usize) {
    let mut places = Vec::new();
    let mut at = stretch.start;
    while let Some(next) = next(bytes, at, stretch.end, form) {
        places.push(at);
        at = next;
    }
    (places, at)
}

/// Where the record after the one at `at` is, if there is one at `at` that
/// ends by `end`.
fn next(bytes: Bytes<'_>, at: usize, end: usize, form: Option<Form>) -> Option<usize> {
    let len = usize::from(bytes.u16(at.checked_add(8)?)?);
    let text_and_dict =
        usize::from(bytes.u16(at.checked_add(10)?)?) + usize::from(bytes.u16(at.checked_add(12)?)?);
    // The header and padding come to 16 to 31 bytes in all forms.
    let extra = len.checked_sub(text_and_dict)?;
    let next = at.checked_add(len)?;
    let fits = (HEADER..HEADER + 16).contains(&extra) && len % 4 == 0 && next <= end;
    let formed = form.is_none_or(|form| form.len(text_and_dict) == len);
    (fits && formed).then_some(next)
}

/// Whether the header at `at` is of length 0, as where nothing was stored
/// and where the buffer comes round.
fn is_blank(bytes: Bytes<'_>, at: usize) -> bool {
    bytes.slice(at, HEADER).is_some_and(|header| header.iter().all(|&byte| byte == 0))
}

/// The records in `stretch` after a damaged header at its start, of the same
/// form as those at `places`.
fn find_again(
    bytes: Bytes<'_>,
    stretch: Range<usize>,
    places: &[usize],
    open_end: bool,
) -> Vec<usize> {
    let most = Form::ALL.iter().map(|form| form.score(bytes, places).0).max();
    Form::ALL
        .into_iter()
        .filter(|form| Some(form.score(bytes, places).0) == most)
        .filter_map(|form| {
            let start = resync(bytes, stretch.clone(), form, open_end)?;
            Some(follow(bytes, start..stretch.end, Some(form)).0)
        })
        .max_by_key(Vec::len)
        .unwrap_or_default()
}

/// The first place in `stretch` after a damaged header from where records
/// follow each other up to its end, or to a header of length 0 if `open_end`.
fn resync(bytes: Bytes<'_>, stretch: Range<usize>, form: Form, open_end: bool) -> Option<usize> {
    let nth = |at: usize| (at - stretch.start) / 4;
    // From the end backwards: whether one leads there, every place answers
    // by the next one's answer.
    let mut leads = vec![false; nth(stretch.end) + 1];
    let mut first = None;
    for at in (stretch.start..stretch.end).step_by(4).rev() {
        let Some(next) = next(bytes, at, stretch.end, Some(form)) else { continue };
        let arrives = next == stretch.end
            || (open_end && is_blank(bytes, next))
            || leads.get(nth(next)).copied().unwrap_or(false);
        if arrives {
            if let Some(place) = leads.get_mut(nth(at)) {
                *place = true;
            }
            first = Some(at);
        }
    }
    first
}

/// The size of a header and what records are aligned to.
///
/// `LOG_ALIGN` is 4 with `CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS` (the header
/// is packed then, too), else 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    header: usize,
    align: usize,
}

impl Form {
    /// Without `caller_id`, and with it.
    const ALL: [Self; 4] = [
        Self { header: 16, align: 4 },
        Self { header: 16, align: 8 },
        Self { header: 20, align: 4 },
        Self { header: 24, align: 8 },
    ];

    /// The form that most of the records at `places` have.
    fn of(bytes: Bytes<'_>, places: &[usize]) -> Self {
        let [first, rest @ ..] = Self::ALL;
        let best = (first.score(bytes, places), first);
        rest.into_iter()
            .map(|form| (form.score(bytes, places), form))
            .fold(best, |best, next| if next.0 > best.0 { next } else { best })
            .1
    }

    /// How many records have lengths of this form; and how many then begin
    /// as text does: padding leaves some lengths open, but the id of a
    /// caller is no text.
    fn score(self, bytes: Bytes<'_>, places: &[usize]) -> (u32, u32) {
        let (mut fit, mut text) = (0, 0);
        for &place in places.iter().take(512) {
            let lens = || {
                let at = |offset| bytes.u16(place + offset).map(usize::from);
                Some((at(8)?, at(10)?, at(12)?))
            };
            let Some((len, text_len, dict_len)) = lens() else { continue };
            fit += u32::from(self.len(text_len + dict_len) == len);
            let starts_as_text = bytes.u8(place + self.header).is_some_and(|byte| byte >= b' ');
            text += u32::from(text_len > 0 && starts_as_text);
        }
        (fit, text)
    }

    /// The length of a record with that much text and dictionary.
    const fn len(self, text_and_dict: usize) -> usize {
        (self.header + text_and_dict).next_multiple_of(self.align)
    }

    /// The record at `place`; whether it continues another, [`Joints`] tells.
    fn record(self, bytes: Bytes<'_>, place: usize, seq: u64) -> Option<Record> {
        let text_len = usize::from(bytes.u16(place + 10)?);
        let dict_len = usize::from(bytes.u16(place + 12)?);
        // 3.5's release candidates had a 16-bit level here instead.
        let (_, level) = split_flags(bytes.u8(place + 15)?, bytes.arch());
        let caller = (self.header > HEADER).then(|| bytes.u32(place + HEADER)).flatten();
        let text = bytes.slice(place + self.header, text_len)?;
        let dict = bytes.slice(place + self.header + text_len, dict_len)?;
        Some(Record {
            seq,
            ts_nsec: Some(bytes.u64(place)?),
            level,
            facility: bytes.u8(place + 14)?,
            continues: false,
            caller: caller.map(Caller::from_id),
            device: device_of(dict),
            text: text.to_vec(),
            state: State::Complete,
        })
    }
}

/// Which of two records `LOG_CONT` is set in, where a line was stored in parts.
#[derive(Clone, Copy)]
enum Joints {
    /// Up to 4.8 in every part but the last, whose newline is still to come:
    /// the next record continues it, unless it begins a line of its own
    /// (`prev` of `msg_print_text()`).
    Before,
    /// Since 4.9 (4bcc595ccd80 "printk: reinstate KERN_CONT for printing
    /// continuation lines") in every part but the first.
    Behind,
}

impl Joints {
    /// Up to 4.8 a record with `LOG_CONT` never has a newline, since then
    /// most have: `pr_cont()` ends lines.
    fn of(bytes: Bytes<'_>, places: &[usize]) -> Self {
        let both = LOG_CONT | LOG_NEWLINE;
        match places.iter().any(|&place| flags(bytes, place) & both == both) {
            true => Self::Behind,
            false => Self::Before,
        }
    }

    /// Whether the record at `place` continues the one at `before`.
    fn continues(self, bytes: Bytes<'_>, before: Option<&usize>, place: usize) -> bool {
        let own = flags(bytes, place);
        match self {
            Self::Behind => own & LOG_CONT != 0,
            Self::Before => {
                before.is_some_and(|&before| flags(bytes, before) & LOG_CONT != 0)
                    && own & (LOG_CONT | LOG_PREFIX) != LOG_PREFIX
            }
        }
    }
}

fn flags(bytes: Bytes<'_>, place: usize) -> u8 {
    bytes.u8(place + 15).map_or(0, |byte| split_flags(byte, bytes.arch()).0)
}

/// The device in a dictionary: `KEY=value`, separated by NULs.
fn device_of(dict: &[u8]) -> Option<Box<Device>> {
    let value = |key: &[u8]| {
        dict.split(|&byte| byte == 0).find_map(|pair| pair.strip_prefix(key)).map(<[u8]>::to_vec)
    };
    let (subsystem, device) = (value(b"SUBSYSTEM="), value(b"DEVICE="));
    if subsystem.is_none() && device.is_none() {
        return None;
    }
    Some(Box::new(Device {
        subsystem: subsystem.unwrap_or_default(),
        device: device.unwrap_or_default(),
    }))
}

/// The line that is still open, out of the variable `cont`.
struct Cont {
    text: Vec<u8>,
    ts_nsec: u64,
    level: u8,
    facility: u8,
    caller: Option<Caller>,
}

impl Cont {
    /// The size of its first member, `buf`: `LOG_LINE_MAX`. With
    /// `CONFIG_PRINTK_CALLER` 1024 - 48, else 1024 - 32, and the full 1024
    /// in the first kernels.
    const LINES: [usize; 3] = [976, 992, 1024];

    /// The open line; `None` if there is none, or no telling.
    fn read(view: &View<'_>, address: Option<u64>) -> Result<Option<Self>, Error> {
        let Some(address) = address else { return Ok(None) };
        let mut data = Vec::new();
        fetch(view, address, 1024 + 48, &mut data)?;
        let bytes = Bytes::new(&data, view.arch());
        Ok(Self::LINES.into_iter().find_map(|line| Self::parse(view, bytes, line)))
    }

    /// What follows `buf[line]`:
    /// - 3.5 to 4.9: `len`, `cons`, `owner`, `ts_nsec`, `level`, `facility`;
    /// - 4.10 to 5.0 (commit 5c2992ee7fd8 "printk: remove console flushing
    ///   special cases for partial buffered lines"): `len`, `owner`,
    ///   `ts_nsec`, `level`, `facility`;
    /// - 5.1 to 5.9: `len`, `caller_id`, `ts_nsec`, `level`, `facility`.
    fn parse(view: &View<'_>, bytes: Bytes<'_>, line: usize) -> Option<Self> {
        let w = bytes.arch().word.bytes();
        let len = usize::try_from(bytes.word(line)?).ok()?;
        let text = bytes.slice(0, len)?;
        if len == 0 || len > line || text.contains(&0) {
            return None;
        }
        let is_task = |at| bytes.word(at).is_some_and(|task| is_kernel_pointer(view, task));
        let time_after = |at: usize| at.next_multiple_of(8);
        let mut caller = None;
        let time = if line != 976 && is_task(line + 2 * w) && !is_task(line + w) {
            time_after(line + 3 * w)
        } else if line == 992 && is_task(line + w) {
            time_after(line + 2 * w)
        } else if line != 1024 {
            let id = bytes.u32(line + w)?;
            // Without CONFIG_PRINTK_CALLER it is all ones.
            caller = (line == 976).then(|| Caller::from_id(id));
            time_after(line + w + 4)
        } else {
            return None;
        };
        let level = bytes.u8(time + 8)?;
        if level > 7 {
            return None;
        }
        Some(Self {
            text: text.to_vec(),
            ts_nsec: bytes.u64(time)?,
            level,
            facility: bytes.u8(time + 9)?,
            caller,
        })
    }

    /// Whether it is among the records at `places`. Up to 4.9 a line may be
    /// stored and still wait for a console (`cont.flushed`), however much is
    /// printed meanwhile.
    fn is_stored(&self, bytes: Bytes<'_>, form: Form, places: &[usize]) -> bool {
        places.iter().rev().any(|&place| {
            bytes.u64(place) == Some(self.ts_nsec)
                && form.record(bytes, place, 0).is_some_and(|record| record.text == self.text)
        })
    }

    fn record(self, seq: u64) -> Record {
        Record {
            seq,
            ts_nsec: Some(self.ts_nsec),
            level: self.level,
            facility: self.facility,
            continues: false,
            caller: self.caller,
            device: None,
            text: self.text,
            state: State::Open,
        }
    }
}

/// Whether `address` is one that the kernel would hold as a pointer to data.
fn is_kernel_pointer(view: &View<'_>, address: u64) -> bool {
    let proper = match view.arch().word {
        Word::W64 => address >> 60 == 0xc,
        Word::W32 => address != 0,
    };
    proper && address.is_multiple_of(4) && view.real(address, 4).is_some()
}

/// Numbers of 4 or 8 bytes at effective addresses: by one read where all of
/// them are near each other, as a compiler lays them.
fn numbers<const N: usize>(view: &View<'_>, places: [(u64, usize); N]) -> Result<[u64; N], Error> {
    let start = places.iter().map(|(address, _)| *address).min().unwrap_or(0);
    let end = places.iter().map(|(address, size)| address.saturating_add(*size as u64)).max();
    let span = end.unwrap_or(0) - start;
    let mut near = Vec::new();
    if span <= 4096 {
        fetch(view, start, span as usize, &mut near)?;
    }
    let mut all = [0; N];
    for ((address, size), number) in places.into_iter().zip(&mut all) {
        let mut alone = Vec::new();
        let raw = match near.get((address - start) as usize..) {
            Some(raw) if !raw.is_empty() => raw,
            _ => {
                fetch(view, address, size, &mut alone)?;
                &alone
            }
        };
        let bytes = Bytes::new(raw, view.arch());
        let value = if size == 8 { bytes.u64(0) } else { bytes.u32(0).map(u64::from) };
        *number = value.ok_or_else(|| malformed(address, "variable is cut off"))?;
    }
    Ok(all)
}

fn malformed(address: u64, what: &'static str) -> Error {
    Error::Malformed { format: Format::VariableRecords, address, what }
}

#[cfg(test)]
mod tests;
