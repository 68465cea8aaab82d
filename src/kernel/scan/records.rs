//! Format B, 3.5 to 5.9: recognising a buffer of `struct log` records
//! (commit 7ff9554bb578 "printk: convert byte-buffer to variable-length
//! record buffer", in 3.5; `struct printk_log` since 3.11).
//!
//! Each record leads to the next, so a row of them is told by its links:
//! three that fit, with text that can be read, are no accident. The indexes
//! of the oldest and of the next record are variables without a name here;
//! both show in the records, for in a buffer that was written around, the
//! times fall where the old part begins.

use crate::arch::{Arch, Bytes, Endian, Word};

use super::peek::Peek;

/// Links that make a row.
const ENOUGH: usize = 3;

/// The longest record believed. `LOG_LINE_MAX` is about 1000; what is more
/// is a dictionary.
const LONGEST: u64 = 16 << 10;

/// Between the newest record and the oldest, at most one record is torn.
const TORN: u64 = LONGEST;

/// Sizes of the header: `caller_id` came with 5.1 (commit 15ff2069cb7f) and
/// made 20 of 16, or 24 where records are aligned to 8.
const HEADERS: [u64; 3] = [16, 20, 24];

/// A row of records, each right after the other.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub start: u64,
    pub end: u64,
    pub endian: Endian,
    /// `sizeof(struct printk_log)`.
    pub header: u64,
    pub records: usize,
    first_time: u64,
    last_time: u64,
}

/// A buffer of records.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub start: u64,
    /// Past all records.
    pub end: u64,
    /// Where the oldest record is.
    pub first: u64,
    /// Where the next one will go.
    pub next: u64,
    pub endian: Endian,
    pub header: u64,
    pub records: usize,
}

struct Record {
    time: u64,
    len: u64,
}

/// The row that a record thought to be at `real` belongs to, from its first
/// record to where the links end or time falls back. `work` counts the bytes
/// looked at.
pub(super) fn row(peek: &Peek<'_>, real: u64, work: &mut u64) -> Option<Row> {
    let orders = [Endian::Little, Endian::Big];
    let kinds = orders.into_iter().flat_map(|endian| HEADERS.map(|header| (endian, header)));
    kinds
        .filter_map(|(endian, header)| forward(peek, real, endian, header, work))
        .filter(|row| row.records >= ENOUGH)
        .max_by_key(|row| row.records)
        .map(|row| backward(peek, row, work))
}

/// Follow the links from a record on.
fn forward(peek: &Peek<'_>, real: u64, endian: Endian, header: u64, work: &mut u64) -> Option<Row> {
    let first = record(peek, real, endian, header, work)?;
    let mut row = Row {
        start: real,
        end: real + first.len,
        endian,
        header,
        records: 1,
        first_time: first.time,
        last_time: first.time,
    };
    while let Some(next) = record(peek, row.end, endian, header, work) {
        // Older than the first: what the writer has not come around to.
        if next.time < row.first_time {
            break;
        }
        row.end += next.len;
        row.last_time = next.time;
        row.records += 1;
    }
    Some(row)
}

/// Add the records before a row: those that lead exactly to its start.
fn backward(peek: &Peek<'_>, mut row: Row, work: &mut u64) -> Row {
    const REACH: u64 = 2 << 10;
    loop {
        let before = (row.header..=REACH).step_by(4).find_map(|distance| {
            let real = row.start.checked_sub(distance)?;
            // The length alone tells nearly always.
            let raw = peek.bytes::<2>(real + 8)?;
            let len = Bytes::new(&raw, arch64(row.endian)).u16(0)?;
            if u64::from(len) != distance {
                return None;
            }
            let record = record(peek, real, row.endian, row.header, work)?;
            (record.time <= row.first_time).then_some((real, record))
        });
        *work += REACH;
        let Some((real, record)) = before else { return row };
        row.start = real;
        row.first_time = record.time;
        row.records += 1;
    }
}

/// A record with a text that can be read, or `None`. A length of 0 marks
/// where the writer went back to the start, or memory never written.
fn record(
    peek: &Peek<'_>,
    real: u64,
    endian: Endian,
    header: u64,
    work: &mut u64,
) -> Option<Record> {
    *work += 16;
    let raw = peek.bytes::<16>(real)?;
    let bytes = Bytes::new(&raw, arch64(endian));
    let time = bytes.u64(0)?;
    let len = u64::from(bytes.u16(8)?);
    let text = u64::from(bytes.u16(10)?);
    let dict = u64::from(bytes.u16(12)?);
    let padding = len.checked_sub(header + text + dict)?;
    // Ten years of nanoseconds.
    if padding >= 8 || len % 4 != 0 || len > LONGEST || time >= 1 << 58 {
        return None;
    }
    let mut body = vec![0; usize::try_from(text + dict).ok()?];
    *work += len;
    if !peek.fill(real + header, &mut body) {
        return None;
    }
    let (text, dict) = body.split_at_checked(usize::try_from(text).ok()?)?;
    let readable = text.iter().all(|byte| is_text(*byte))
        // KEY=value, separated by NUL.
        && dict.iter().all(|byte| is_text(*byte) || *byte == 0);
    readable.then_some(Record { time, len })
}

/// A byte that a message may hold.
pub(super) const fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b)
}

const fn arch64(endian: Endian) -> Arch {
    Arch { word: Word::W64, endian }
}

/// Buffers from rows in ascending order: two that lie close are the newer
/// and the older part of one.
pub(super) fn buffers(rows: &[Row]) -> Vec<Buffer> {
    let mut buffers: Vec<(Buffer, &Row)> = Vec::new();
    for row in rows {
        if let Some((buffer, last)) = buffers.last_mut() {
            let same = buffer.endian == row.endian && buffer.header == row.header;
            if same && row.start >= buffer.end && row.start - buffer.end <= TORN {
                if row.last_time <= last.first_time && buffer.first == buffer.start {
                    buffer.next = buffer.end;
                    buffer.first = row.start;
                } else if buffer.first == buffer.start {
                    // Damage between, then on as before.
                    buffer.next = row.end;
                }
                buffer.end = row.end;
                buffer.records += row.records;
                *last = row;
                continue;
            }
        }
        let buffer = Buffer {
            start: row.start,
            end: row.end,
            first: row.start,
            next: row.end,
            endian: row.endian,
            header: row.header,
            records: row.records,
        };
        buffers.push((buffer, row));
    }
    buffers.into_iter().map(|(buffer, _)| buffer).collect()
}
