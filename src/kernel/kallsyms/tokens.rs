//! The token table: what kallsyms is found by.
//!
//! Names are compressed by giving each of the 256 byte values a string, the
//! most frequent parts of names, or, for the bytes that names contain, that
//! one character. `kallsyms_token_table` has the strings, each ended by a
//! zero byte, and `kallsyms_token_index` where each begins, as 16-bit
//! numbers. Digits occur in every kernel's names, so [`DIGITS`] is in every
//! table, and in hardly anything else; the index must then agree with the
//! strings, which also tells the byte order.

use crate::arch::{Arch, Bytes, Endian, Word};
use crate::guest::{Memory, ReadError, is_ram, ram_at};

/// The tokens 0x30 to 0x39.
pub(super) const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";

/// The number of the first of [`DIGITS`].
const FIRST_DIGIT: usize = 0x30;

/// More than the table and the index take on either side of the digits, in
/// bytes: tables of real kernels have less than 2 KiB.
const AROUND: u64 = 1 << 14;

/// The most between the table and its index, in bytes: only alignment is, to
/// 256 in old kernels.
const GAP: usize = 256;

/// A token table with its index.
pub(super) struct Tokens {
    /// The real address of the table's beginning.
    pub(super) real: u64,
    /// The real address at which the index ends.
    pub(super) end: u64,
    pub(super) endian: Endian,
    table: Vec<u8>,
    starts: Vec<usize>,
}

impl Tokens {
    /// The table that has its [`DIGITS`] at a real address.
    pub(super) fn around(memory: &dyn Memory, digits: u64) -> Result<Option<Self>, ReadError> {
        let Some(ram) = ram_at(memory.ram(), digits) else { return Ok(None) };
        let start = digits.saturating_sub(AROUND).max(ram.start);
        let end = digits.saturating_add(AROUND).min(ram.end);
        debug_assert!(is_ram(memory.ram(), start, end - start));
        let mut bytes = vec![0; (end - start) as usize];
        memory.read(start, &mut bytes)?;
        Ok(Self::parse(&bytes, (digits - start) as usize, start))
    }

    /// The same of `bytes`, which begin at real address `start` and have the
    /// digits at offset `digits`.
    fn parse(bytes: &[u8], digits: usize, start: u64) -> Option<Self> {
        // Back to the second token: where the first begins, only the index
        // tells, for what lies before it may be anything.
        let before = bytes.get(..digits)?;
        let second = memchr::memrchr_iter(0, before).nth(FIRST_DIGIT - 1)? + 1;
        // The beginnings of tokens 1 to 255, and the end.
        let mut starts = vec![second];
        starts
            .extend(memchr::memchr_iter(0, bytes.get(second..)?).take(255).map(|n| second + n + 1));
        if starts.len() != 256 {
            return None;
        }
        let end = starts.pop()?;
        let (index, endian, first) = (end..end + GAP)
            .filter(|at| (start + *at as u64).is_multiple_of(2))
            .flat_map(|at| [(at, Endian::Little), (at, Endian::Big)])
            .find_map(|(at, endian)| {
                let first = second.checked_sub(agrees(bytes, at, endian, &starts)?)?;
                Some((at, endian, first))
            })?;
        let table = bytes.get(first..end)?.to_vec();
        let mut relative = vec![0];
        relative.extend(starts.iter().map(|start| start - first));
        Some(Self {
            real: start + first as u64,
            end: start + index as u64 + 512,
            endian,
            table,
            starts: relative,
        })
    }

    /// The string of a token, without its zero byte.
    pub(super) fn get(&self, token: u8) -> Option<&[u8]> {
        let rest = self.table.get(*self.starts.get(usize::from(token))?..)?;
        rest.get(..memchr::memchr(0, rest)?)
    }

    /// All 256 strings, one after the other, and where each begins and ends.
    pub(super) fn flat(&self) -> (Vec<u8>, Vec<(u16, u16)>) {
        let bounds = (0..=255_u8).map(|token| {
            let start = self.starts.get(usize::from(token)).copied().unwrap_or_default();
            let length = self.get(token).unwrap_or_default().len();
            (start as u16, (start + length) as u16)
        });
        (self.table.clone(), bounds.collect())
    }
}

/// The length of the first token with its zero byte, if an index of tokens
/// that begin at `starts` (from the second on) is at `at`.
fn agrees(bytes: &[u8], at: usize, endian: Endian, starts: &[usize]) -> Option<usize> {
    let index = Bytes::new(bytes.get(at..at + 512)?, Arch { word: Word::W64, endian });
    let second = usize::from(index.u16(2)?);
    let origin = *starts.first()?;
    let same = index.u16(0)? == 0
        && second > 0
        && starts.iter().enumerate().all(|(n, start)| {
            index.u16(2 + 2 * n).map(usize::from) == Some(second + start - origin)
        });
    same.then_some(second)
}
