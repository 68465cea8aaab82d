//! A log buffer alone: the text ring of a 5.10 or later kernel with nothing
//! of the kernel around it, as a dump of just `__log_buf` holds it; or with
//! all of a kernel around it whose ring is laid out as nobody told.
//!
//! What is left are text blocks, each the id of its descriptor and then its
//! text (`struct prb_data_block`). Ids count upwards, so a few that follow
//! one another are no accident.

use crate::arch::{Arch, Bytes, Word};

use super::Piece;
use super::peek::Peek;
use super::records::is_text;

/// Ids in a row that make a ring.
const ENOUGH: usize = 3;

/// Closer looks at what may be one in the midst of other memory: a guest may
/// pretend.
const MAX_LOOKS: usize = 64;

/// Bytes that are passed over at once, as most are.
const ZONE: usize = 256;

/// How much is looked at: a buffer has text from its first byte on.
const LOOKED_AT: u64 = 256 << 10;

/// A text ring without its descriptors.
pub(super) struct Blocks {
    pub arch: Arch,
    pub real: u64,
    /// Bytes there are of it.
    pub len: u64,
    /// Its own size, if the first block of all shows it.
    pub size: Option<u64>,
}

/// The text ring that the first RAM there is consists of.
pub(super) fn find(peek: &Peek<'_>) -> Option<Blocks> {
    let range = peek.ram().first()?;
    let len = range.end - range.start;
    let mut bytes = vec![0; usize::try_from(len.min(LOOKED_AT)).ok()?];
    if !peek.fill(range.start, &mut bytes) {
        return None;
    }
    let archs = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];
    let rows = archs.map(|arch| (in_a_row(Bytes::new(&bytes, arch)), arch));
    let (row, arch) = rows.into_iter().max_by_key(|(row, _)| *row)?;
    let size = first_size(Bytes::new(&bytes, arch));
    (row >= ENOUGH).then_some(Blocks { arch, real: range.start, len, size })
}

/// The text ring with most blocks among those that begin in a piece of
/// memory. Only one that never came round is recognised in the midst of other
/// memory, by the id it begins with.
pub(super) fn first(
    peek: &Peek<'_>,
    piece: &Piece<'_>,
    looks: &mut usize,
) -> Option<(usize, Blocks)> {
    let mut best: Option<(usize, Blocks)> = None;
    let own = piece.bytes.get(..piece.len).unwrap_or_default();
    for (nth, zone) in own.chunks(ZONE).enumerate() {
        let words = || zone.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw));
        // Few have any: one look at each, without branches.
        if words().fold(0, |any, low| any | u32::from(may_be_first(low))) == 0 {
            continue;
        }
        for (index, low) in words().enumerate() {
            if !may_be_first(low) {
                continue;
            }
            // Big endian has the half that tells behind the other.
            let at = ZONE * nth + 4 * index;
            for at in [Some(at), at.checked_sub(4)].into_iter().flatten() {
                let found = begins(peek, piece, at, looks);
                best = best.into_iter().chain(found).max_by_key(|(row, _)| *row);
            }
        }
    }
    best
}

/// Whether a number may be the lower half of a ring's first id, in either byte
/// order: at most 2^26 below 2^30 or a multiple of it, by a multiple of 2^7.
#[inline(always)]
const fn may_be_first(low: u32) -> bool {
    (low & 0x3c00_007f == 0x3c00_0000) | (low & 0x7f00_003c == 0x3c)
}

/// The text ring that begins at a place of a piece, and how many blocks show
/// it.
fn begins(
    peek: &Peek<'_>,
    piece: &Piece<'_>,
    at: usize,
    looks: &mut usize,
) -> Option<(usize, Blocks)> {
    let archs = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];
    let rings = archs.into_iter().filter_map(|arch| {
        let word = arch.word.bytes();
        let here = Bytes::new(piece.bytes.get(at..)?, arch);
        let size = first_size(here).filter(|_| at.is_multiple_of(word))?;
        if !here.u8(word).is_some_and(is_text) || *looks == MAX_LOOKS {
            return None;
        }
        *looks += 1;
        let real = piece.start + at as u64;
        let len = peek.range(real)?.end - real;
        let mut text = vec![0; usize::try_from(size.min(len).min(LOOKED_AT)).ok()?];
        peek.fill(real, &mut text).then_some(())?;
        let row = in_a_row(Bytes::new(&text, arch));
        (row >= ENOUGH).then_some((row, Blocks { arch, real, len, size: Some(size) }))
    });
    rings.max_by_key(|(row, _)| *row)
}

/// How many blocks have the id after the one before.
fn in_a_row(bytes: Bytes<'_>) -> usize {
    let word = bytes.arch().word.bytes();
    let mut before = None;
    let mut row = 0;
    for at in (0..bytes.data().len()).step_by(word) {
        let id = bytes.word(at).filter(|id| count_below(*id, bytes.arch().word).is_some());
        let Some(id) = id.filter(|_| bytes.u8(at + word).is_some_and(is_text)) else { continue };
        row += usize::from(before == Some(id.wrapping_sub(1)));
        before = Some(id);
    }
    row
}

/// The size of the ring whose first block has its very first id.
fn first_size(bytes: Bytes<'_>) -> Option<u64> {
    let count = count_below(bytes.word(0)?, bytes.arch().word)?.checked_neg()?;
    let count = u64::try_from(count).ok().filter(|count| count.is_power_of_two())?;
    // PRB_AVGBITS; CONFIG_LOG_BUF_SHIFT begins at 12.
    (1 << 7..=1 << 26).contains(&count).then_some(count << 5)
}

/// What an id counts from: the ids of a ring of n descriptors begin n below
/// 2^62, on 32-bit 2^30, or, where DESC0_ID was computed in 32 bits, 2^32.
/// `None` if it is so far from there that it is no id.
fn count_below(id: u64, word: Word) -> Option<i64> {
    let believed = -(1i64 << 26)..1 << 24;
    let begins: &[u64] = match word {
        Word::W32 => &[1 << 30],
        Word::W64 => &[1 << 62, 1 << 32],
    };
    let mut distances = begins.iter().map(|begin| id.wrapping_sub(*begin) as i64);
    distances.find(|distance| believed.contains(distance))
}
