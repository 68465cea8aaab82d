//! The cheap first look at every byte of guest RAM: which places are worth
//! a closer look.
//!
//! A pass over 8 GiB may cost little more than reading them, so each test
//! here is a few operations on whole blocks that the compiler turns into
//! vector code, and a block of zeros, which most of a young guest's RAM is,
//! is left after one look. The tests let through all that the format's own
//! module could accept, and little else; nothing is decided here.

use std::ops::Range;

use crate::sys;

/// The unit of one look. Small enough that a hit costs little to locate.
const BLOCK: usize = 256;

/// Which formats are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// 5.10 and later: the head of a `struct printk_ringbuffer`.
    pub rings: Option<Pairs>,
    /// Before 5.10: `struct printk_log` headers and `<N>` prefixes.
    pub old: bool,
}

/// The two sizes in the head of a ring, by which it is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Where the second may be, counted from the first.
    distances: [usize; 4],
    /// By how much it is larger, modulo 2^32.
    by: u32,
}

impl Pairs {
    /// Those of the rings that are known, whose `size_bits` is the second:
    /// the distance is the size of a `struct prb_desc_ring`, which grew by a
    /// word in 5.18.
    pub(super) const KNOWN: Self = Self { distances: [40, 48, 20, 24], by: AVG_BITS };

    /// Those of a ring with the two there.
    pub(super) const fn told(count_bits: usize, size_bits: usize) -> Self {
        match size_bits.checked_sub(count_bits) {
            Some(distance) => Self { distances: [distance; 4], by: AVG_BITS },
            None => {
                let distances = [count_bits.saturating_sub(size_bits); 4];
                Self { distances, by: AVG_BITS.wrapping_neg() }
            }
        }
    }
}

/// What a place may be the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// One size of a ring with the other where that is expected.
    Ring,
    /// A record header of format B.
    Record,
    /// A `<N>` prefix of format A.
    Prefix,
}

/// The least and the greatest `count_bits` looked for.
///
/// `LOG_BUF_SHIFT` is 12 to 25 and `log_buf_len=` at most 2 GiB, and
/// `count_bits` is 5 less (`PRB_AVGBITS`, kernel/printk/printk.c, 5.10).
pub(super) const COUNT_BITS: std::ops::RangeInclusive<u32> = 6..=26;

/// `size_bits - count_bits`.
pub(super) const AVG_BITS: u32 = 5;

/// What either of the two may be.
const BITS: std::ops::RangeInclusive<u32> = *COUNT_BITS.start()..=*COUNT_BITS.end() + AVG_BITS;

/// Call `found` with the offset of each place in `bytes` worth a closer
/// look, in ascending order within each block.
pub(super) fn sieve(bytes: &[u8], wanted: Wanted, found: &mut dyn FnMut(Hint, usize)) {
    sys::with_vectors(Sieve { bytes, wanted, found });
}

/// One sieving, to be compiled for whatever vectors the processor has.
struct Sieve<'a> {
    bytes: &'a [u8],
    wanted: Wanted,
    found: &'a mut dyn FnMut(Hint, usize),
}

impl sys::Vectorised for Sieve<'_> {
    // Into the caller, which is compiled for more than this crate is.
    #[inline(always)]
    fn run(self) {
        let Self { bytes, wanted, found } = self;
        let mut start = 0;
        while let Some(block) = block(bytes, start) {
            if !is_zero(block) {
                if is_candidate(block) {
                    closer(bytes, start, block, wanted, found);
                }
                if wanted.old
                    && block_pair(bytes, start, 2).is_none_or(|(one, two)| has_prefix(one, two))
                {
                    prefixes(bytes, start, start + BLOCK, found);
                }
            }
            start += BLOCK;
        }
        if let Some(pairs) = wanted.rings {
            rings(bytes, start..bytes.len(), pairs, found);
        }
        if wanted.old {
            records(bytes, start.saturating_sub(4), bytes.len(), found);
            prefixes(bytes, start, bytes.len(), found);
        }
    }
}

/// Most blocks that begin with zeros hold nothing else, and the others are
/// spared the look at all of them.
#[inline(always)]
fn is_zero(block: &[u8; BLOCK]) -> bool {
    word(block) == 0 && words(block).fold(0, |all, word| all | word) == 0
}

/// Whether some word other than zero has no bits in the middle, as all numbers
/// looked for have none, in either byte order.
#[inline(always)]
fn is_candidate(block: &[u8; BLOCK]) -> bool {
    words(block).fold(0, |any, word| any | u32::from((word & 0x00ff_ff00 == 0) & (word != 0))) != 0
}

/// A block with a word that may be one of the numbers looked for.
fn closer(
    bytes: &[u8],
    start: usize,
    block: &[u8; BLOCK],
    wanted: Wanted,
    found: &mut dyn FnMut(Hint, usize),
) {
    // One look for both, since the words are at hand.
    let (number, flags) = match wanted.old {
        true => has_number_or_flags(block),
        false => (has_small_number(block), false),
    };
    if let Some(pairs) = wanted.rings.filter(|_| number) {
        rings(bytes, start..start + BLOCK, pairs, found);
    }
    // The flags' own first half may be the last word of the block before.
    let before = start.saturating_sub(4);
    if flags && block_pair(bytes, before, 4).is_none_or(|(one, two)| has_tail(one, two)) {
        records(bytes, before, start + BLOCK - 4, found);
    }
}

/// A block of known size: the compiler then needs no loop ends.
#[inline(always)]
fn block(bytes: &[u8], start: usize) -> Option<&[u8; BLOCK]> {
    bytes.get(start..)?.first_chunk()
}

/// A block, and the block that begins a few bytes later.
#[inline(always)]
fn block_pair(bytes: &[u8], start: usize, by: usize) -> Option<(&[u8; BLOCK], &[u8; BLOCK])> {
    Some((block(bytes, start)?, block(bytes, start + by)?))
}

/// A 32-bit word as its bytes say, least significant first.
#[inline(always)]
fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// All the words of a block.
#[inline(always)]
fn words(block: &[u8; BLOCK]) -> impl Iterator<Item = u32> {
    block.chunks_exact(4).map(word)
}

/// Whether any word is a possible size of a ring in either byte order. A word
/// whose outer and inner bytes are both set passes wrongly, and rarely.
#[inline(always)]
fn has_small_number(block: &[u8; BLOCK]) -> bool {
    words(block).fold(0, |any, word| any | u32::from(is_small_number(word))) != 0
}

/// The same, and whether any word is the second half of a record's tail.
#[inline(always)]
fn has_number_or_flags(block: &[u8; BLOCK]) -> (bool, bool) {
    let (number, flags) = words(block).fold((0, 0), |(number, flags), word| {
        (number | u32::from(is_small_number(word)), flags | u32::from(is_flags(word)))
    });
    (number != 0, flags != 0)
}

#[inline(always)]
fn is_small_number(word: u32) -> bool {
    let either = (word >> 24) | (word & 0x00ff_ffff);
    either.wrapping_sub(*BITS.start()) <= BITS.end() - BITS.start()
}

/// Places that hold one size with the other where it should be.
fn rings(bytes: &[u8], places: Range<usize>, pairs: Pairs, found: &mut dyn FnMut(Hint, usize)) {
    let start = places.start;
    let range = bytes.get(places).unwrap_or_default();
    for (index, raw) in range.chunks_exact(4).enumerate() {
        let word = word(raw);
        if !is_small_number(word) {
            continue;
        }
        let offset = start + 4 * index;
        let other = |distance: usize| {
            let there = bytes.get(offset + distance..).map_or(0, self::word);
            let by = there.wrapping_sub(word);
            // Little endian, big endian.
            by == pairs.by || by == pairs.by << 24
        };
        if pairs.distances.into_iter().any(other) {
            found(Hint::Ring, offset);
        }
    }
}

/// Whether a pair of words looks like bytes 8 to 15 of a `struct printk_log`
/// (3.5 to 5.9): `u16 len, text_len, dict_len; u8 facility, flags:5 level:3`.
///
/// Only records of the kernel itself (facility 0), with text and without a
/// dictionary are let through: nearly all are such, and one in a row is
/// enough to be led to the others. For these the second word reads the same
/// in both byte orders.
#[inline(always)]
fn is_record_tail(first: u32, second: u32) -> bool {
    is_flags(second) & (first & 0xffff != 0) & (first >> 16 != 0)
}

/// No dictionary, facility 0, and flags or a level.
#[inline(always)]
fn is_flags(word: u32) -> bool {
    (word & 0x00ff_ffff == 0) & (word != 0)
}

#[inline(always)]
fn has_tail(block: &[u8; BLOCK], next: &[u8; BLOCK]) -> bool {
    words(block)
        .zip(words(next))
        .fold(0, |any, (first, second)| any | u32::from(is_record_tail(first, second)))
        != 0
}

/// Places from `start` to `end` where a record header may begin, which is 8
/// bytes before the part that was recognised.
fn records(bytes: &[u8], start: usize, end: usize, found: &mut dyn FnMut(Hint, usize)) {
    for offset in (start..end).step_by(4) {
        let Some(raw) = bytes.get(offset..offset + 8) else { return };
        let Some((first, second)) = raw.split_at_checked(4) else { return };
        let (first, second) = (word(first), word(second));
        if is_record_tail(first, second) {
            let fits = |len: u32, text: u32| {
                len.checked_sub(text).is_some_and(|rest| (16..32).contains(&rest))
            };
            let swapped = first.swap_bytes();
            // Read in the other order, the two halves change places.
            if (fits(first & 0xffff, first >> 16) || fits(swapped >> 16, swapped & 0xffff))
                && offset >= 8
            {
                found(Hint::Record, offset - 8);
            }
        }
    }
}

/// Whether `<`, one byte and `>` follow one another anywhere in a block.
#[inline(always)]
fn has_prefix(block: &[u8; BLOCK], third: &[u8; BLOCK]) -> bool {
    let pairs = block.iter().zip(third);
    pairs.fold(0, |any, (first, third)| any | u8::from((*first == b'<') & (*third == b'>'))) != 0
}

fn prefixes(bytes: &[u8], start: usize, end: usize, found: &mut dyn FnMut(Hint, usize)) {
    let range = bytes.get(start..bytes.len().min(end + 2)).unwrap_or_default();
    for (index, three) in range.windows(3).enumerate() {
        if matches!(three, [b'<', b'0'..=b'7', b'>']) {
            found(Hint::Prefix, start + index);
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<(Hint, usize)> {
        let mut hits = Vec::new();
        sieve(bytes, Wanted { rings: Some(Pairs::KNOWN), old: true }, &mut |hint, at| {
            hits.push((hint, at))
        });
        hits
    }

    #[test]
    fn zeros_and_text_without_prefixes_hold_nothing() {
        assert_eq!(all(&[0; 5000]), []);
        assert_eq!(all("no prefix <here> at all. ".repeat(200).as_bytes()), []);
    }

    #[test]
    fn ring_heads_are_seen_wherever_they_lie_and_in_either_order() {
        for at in [0, 4, 252, 256, 300, 1000] {
            for partner in Pairs::KNOWN.distances {
                for big in [false, true] {
                    let put =
                        |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
                    let mut bytes = vec![0; 1100];
                    bytes[at..at + 4].copy_from_slice(&put(12));
                    bytes[at + partner..at + partner + 4].copy_from_slice(&put(17));
                    assert_eq!(all(&bytes), [(Hint::Ring, at)], "{at} {partner} {big}");
                }
            }
        }
    }

    #[test]
    fn sizes_in_the_other_order_are_seen_by_the_first_of_them() {
        for big in [false, true] {
            let put = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
            let mut bytes = vec![0; 1100];
            bytes[500..504].copy_from_slice(&put(31));
            bytes[516..520].copy_from_slice(&put(26));
            let mut hits = Vec::new();
            let wanted = Wanted { rings: Some(Pairs::told(40, 24)), old: false };
            sieve(&bytes, wanted, &mut |hint, at| hits.push((hint, at)));
            assert_eq!(hits, [(Hint::Ring, 500)]);
        }
    }

    #[test]
    fn record_headers_and_prefixes_are_seen_across_block_ends() {
        for at in [0, 240, 244, 248, 252, 256, 1060] {
            for big in [false, true] {
                let put = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
                let mut bytes = vec![0; 1080];
                bytes[at + 8..at + 10].copy_from_slice(&put(36));
                bytes[at + 10..at + 12].copy_from_slice(&put(17));
                bytes[at + 15] = 0xc2;
                assert_eq!(all(&bytes), [(Hint::Record, at)], "{at} {big}");
            }
        }
        for at in [0, 253, 254, 255, 256, 1077] {
            let mut bytes = vec![0; 1080];
            bytes[at..at + 3].copy_from_slice(b"<5>");
            assert_eq!(all(&bytes), [(Hint::Prefix, at)], "{at}");
        }
    }
}
