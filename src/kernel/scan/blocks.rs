//! A log buffer alone: the text ring of a 5.10 or later kernel with nothing
//! of the kernel around it, as a dump of just `__log_buf` holds it.
//!
//! What is left are text blocks, each the id of its descriptor and then its
//! text (`struct prb_data_block`). Ids count upwards, so a few that follow
//! one another are no accident.

use crate::arch::{Arch, Bytes, Word};

use super::peek::Peek;
use super::records::is_text;

/// Ids in a row that make a ring.
const ENOUGH: usize = 3;

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
