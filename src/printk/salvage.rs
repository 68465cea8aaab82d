//! Readable text out of a printk ring whose descriptors are damaged.
//!
//! Text blocks of 5.10 and later begin with the id of their descriptor. The
//! ids alone give the order, and where one block ends another begins; how
//! long its text is, and its level and time, only the descriptor's info
//! knows. What is recovered without one is [`State::Salvaged`], for a reader
//! to trust accordingly.
//!
//! Nothing here looks at descriptors, nor for text outside the text ring.

#![deny(clippy::indexing_slicing)]

use super::Error;
use super::fetch::fetch;
use super::layout::{Info, Words};
use super::record::{Entry, Format, Log, Record, State};
use crate::arch::{Bytes, Word};
use crate::guest::View;

/// The level shown for text whose level is not known: informational.
const UNKNOWN_LEVEL: u8 = 6;

/// The longest text of a record: `text_len` is 16 bits.
const LONGEST: usize = 0xffff;

/// A text block, found by its id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    /// The sequence number that goes with its id.
    pub seq: u64,
    /// Its text, with padding and whatever an earlier block left behind.
    text: &'a [u8],
}

impl Block<'_> {
    /// The record of it, with its info where that is intact; `None` if it
    /// holds no text.
    pub(super) fn record(&self, info: Option<&Info>) -> Option<Record> {
        let known = info.and_then(|info| self.text.get(..info.text_len));
        if let (Some(info), Some(text)) = (info, known) {
            return Some(info.record(None, text.to_vec(), State::Salvaged));
        }
        let text = likely_text(self.text);
        if text.is_empty() {
            return None;
        }
        Some(Record {
            seq: self.seq,
            ts_nsec: info.map(|info| info.ts_nsec),
            level: info.map_or(UNKNOWN_LEVEL, |info| info.level),
            facility: info.map_or(0, |info| info.facility),
            continues: false,
            caller: None,
            device: None,
            text: text.to_vec(),
            state: State::Salvaged,
        })
    }
}

/// All readable text of the text ring at effective address `data`, `size`
/// bytes long (a power of two), in the order of the blocks' ids.
///
/// # Errors
/// [`Error::Read`] when it cannot be read; [`Error::Malformed`] when `size`
/// is no size of such a ring.
pub fn text_ring(view: &View<'_>, data: u64, size: u64) -> Result<Log, Error> {
    let sizes = 1 << 11..=1_u64 << 31;
    if !size.is_power_of_two() || !sizes.contains(&size) {
        let what = "text buffer has a size that is no power of two";
        return Err(Error::Malformed { format: Format::Salvage, address: data, what });
    }
    let mut text = Vec::new();
    fetch(view, data, size as usize, &mut text)?;
    let text = Bytes::new(&text, view.arch());
    let numbering = Numbering::of(text, size / 32);
    let blocks = distinct(blocks(text, |id| numbering.seq(id)));
    let records = blocks.iter().filter_map(|block| block.record(None));
    Ok(Log { format: Format::Salvage, entries: records.map(Entry::Record).collect() })
}

/// The blocks whose ids `seq_of` knows, as they lie in the ring.
pub(super) fn blocks<'a>(
    text: Bytes<'a>,
    seq_of: impl Fn(u64) -> Option<u64>,
) -> impl Iterator<Item = Block<'a>> {
    let word = text.arch().word.bytes();
    let end = text.data().len();
    let mut open: Option<(u64, usize)> = None;
    let begins = (0..end)
        .step_by(word)
        .filter_map(move |at| Some((Some((block_seq(text, at, &seq_of)?, at + word)), at)));
    // Where one begins another ends.
    begins.chain([(None, end)]).filter_map(move |(next, until)| {
        let (seq, from) = std::mem::replace(&mut open, next)?;
        let len = until.saturating_sub(from).min(LONGEST);
        Some(Block { seq, text: text.slice(from, len).unwrap_or_default() })
    })
}

/// Blocks by ascending sequence number, one for each number: the longest, by
/// the readable part.
pub(super) fn distinct<'a>(blocks: impl Iterator<Item = Block<'a>>) -> Vec<Block<'a>> {
    let mut found: Vec<Block<'a>> = blocks.collect();
    found.sort_by_cached_key(|block| (block.seq, usize::MAX - likely_text(block.text).len()));
    found.dedup_by_key(|block| block.seq);
    found
}

/// The sequence number of the block that begins at `at`, if one does: its
/// id, then text. Memory never written looks like id 0, the end of a text on
/// little endian like a small id, and where a block was too long for the end
/// of the ring only its id is left there: no text follows these, or an id.
fn block_seq(text: Bytes<'_>, at: usize, seq_of: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    let seq = seq_of(text.word(at)?)?;
    let behind = at + text.arch().word.bytes();
    let is_block = text.u8(behind).is_some_and(is_text)
        && text.word(behind).is_none_or(|word| seq_of(word).is_none());
    is_block.then_some(seq)
}

/// Sequence numbers from ids alone: which ids the ring is likely to hold.
struct Numbering {
    words: Words,
    /// The id of record 0.
    origin: u64,
    /// Sequence numbers believed.
    likely: std::ops::Range<u64>,
}

impl Numbering {
    /// Most sequence numbers believed at first: higher ids look like text.
    const MOST: u64 = 1 << 24;

    /// Told from the words of the text ring: ids follow each other, and as
    /// many as `count` descriptors may be in use; other words are strewn.
    fn of(text: Bytes<'_>, count: u64) -> Self {
        let words = Words::of(text.arch().word);
        let wide = words.id_minus(0, count);
        // See `Ring::origins`.
        let origins = match text.arch().word {
            Word::W64 => vec![(1 << 32) - count, wide],
            Word::W32 => vec![wide],
        };
        let mut best = (0, Self { words, origin: wide, likely: 0..0 });
        for origin in origins {
            let any = Self { words, origin, likely: 0..Self::MOST };
            let places = (0..text.data().len()).step_by(text.arch().word.bytes());
            let mut seqs: Vec<u64> =
                places.filter_map(|at| block_seq(text, at, |id| any.seq(id))).collect();
            seqs.sort_unstable();
            // The stretch of two rounds that holds most.
            let mut from = seqs.iter().enumerate().peekable();
            for (nth, last) in seqs.iter().enumerate() {
                let first = last.saturating_sub(2 * count - 1);
                while from.next_if(|(_, seq)| **seq < first).is_some() {}
                let Some((oldest, start)) = from.peek() else { break };
                let held = nth + 1 - oldest;
                if held > best.0 {
                    best = (held, Self { words, origin, likely: **start..last + 1 });
                }
            }
        }
        best.1
    }

    fn seq(&self, id: u64) -> Option<u64> {
        let seq = self.words.id_minus(id, self.origin);
        (id <= self.words.id_mask && self.likely.contains(&seq)).then_some(seq)
    }
}

/// The part of a block that is likely its text, when its length is unknown.
///
/// `vsnprintf()` ends the text with a NUL, after which is old data. The
/// kernel then drops a closing newline by the length alone, and moves the
/// text over its level prefix (two bytes: `KERN_SOH` and a digit), which
/// leaves the last two bytes of what it moved standing behind it.
fn likely_text(block: &[u8]) -> &[u8] {
    let end = block.iter().position(|&byte| !is_text(byte)).unwrap_or(block.len());
    let text = block.get(..end).unwrap_or_default();
    let Some(line) = text.strip_suffix(b"\n") else { return text };
    match line.len().checked_sub(4).and_then(|start| line.get(start..)) {
        Some([a, b, c, d]) if (a, b) == (c, d) => line.get(..line.len() - 2).unwrap_or(line),
        _ => line,
    }
}

/// Bytes that kernels print; those of UTF-8 are.
fn is_text(byte: u8) -> bool {
    byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b)
}
