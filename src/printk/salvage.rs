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
use super::ringbuffer;
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
        let known = info.and_then(|info| self.text.get(..usize::from(info.text_len)));
        if let (Some(info), Some(text)) = (info, known) {
            return Some(ringbuffer::record(info, None, text.to_vec(), State::Salvaged));
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
    let numbering = Numbering::of(view.arch().word, size / 32);
    let blocks = blocks(Bytes::new(&text, view.arch()), |id| numbering.seq(id));
    let records = blocks.iter().filter_map(|block| block.record(None));
    Ok(Log { format: Format::Salvage, entries: records.map(Entry::Record).collect() })
}

/// The blocks whose ids `seq_of` knows, by ascending sequence number, one
/// for each number.
pub(super) fn blocks<'a>(text: Bytes<'a>, seq_of: impl Fn(u64) -> Option<u64>) -> Vec<Block<'a>> {
    let word = text.arch().word.bytes();
    let mut found = Vec::new();
    let mut open: Option<(u64, usize)> = None;
    let end = text.data().len();
    let mut close = |open: Option<(u64, usize)>, until: usize| {
        if let Some((seq, from)) = open {
            let len = until.saturating_sub(from).min(LONGEST);
            let text = text.slice(from, len).unwrap_or_default();
            // Memory never written looks like id 0; and where a block was
            // too long for the end of the ring, only its id is left there.
            if text.first().is_some_and(|&byte| byte != 0) {
                found.push(Block { seq, text });
            }
        }
    };
    for at in (0..end).step_by(word) {
        let Some(seq) = text.word(at).and_then(&seq_of) else { continue };
        close(open.replace((seq, at + word)), at);
    }
    close(open, end);
    // The longest of those with the same number, by their readable part.
    found.sort_by_cached_key(|block| (block.seq, usize::MAX - likely_text(block.text).len()));
    found.dedup_by_key(|block| block.seq);
    found
}

/// Sequence numbers from ids alone, in a ring of known size.
struct Numbering {
    words: Words,
    word: Word,
    count: u64,
}

impl Numbering {
    fn of(word: Word, count: u64) -> Self {
        Self { words: Words::of(word), word, count }
    }

    /// See `Ring::origins` for what ids begin with. Numbers beyond some
    /// millions are not believed, as they look like text.
    fn seq(&self, id: u64) -> Option<u64> {
        const MOST: u64 = 1 << 24;
        let wide = self.words.id_minus(id, self.words.id_minus(0, self.count));
        let narrow = id.wrapping_sub((1 << 32) - self.count);
        match self.word {
            _ if id > self.words.id_mask => None,
            _ if wide < MOST => Some(wide),
            Word::W64 if narrow < MOST => Some(narrow),
            _ => None,
        }
    }
}

/// The part of a block that is likely its text, when its length is unknown.
///
/// `vsnprintf()` ends the text with a NUL, after which is old data. The
/// kernel then drops a closing newline by the length alone, and moves the
/// text over its level prefix (two bytes: `KERN_SOH` and a digit), which
/// leaves the last two bytes of what it moved standing behind it.
fn likely_text(block: &[u8]) -> &[u8] {
    let is_text = |byte: u8| byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b);
    let end = block.iter().position(|&byte| !is_text(byte)).unwrap_or(block.len());
    let text = block.get(..end).unwrap_or_default();
    let Some(line) = text.strip_suffix(b"\n") else { return text };
    match line.len().checked_sub(4).and_then(|start| line.get(start..)) {
        Some([a, b, c, d]) if (a, b) == (c, d) => line.get(..line.len() - 2).unwrap_or(line),
        _ => line,
    }
}
