//! The entries of `.symtab` and the strings they are named by, as a few
//! megabytes are gone through that are never in memory whole.

#![deny(clippy::indexing_slicing)]

use object::elf;

use super::{PIECE, Section};
use crate::arch::{Arch, Bytes, Endian, Word};
use crate::kernel::error::SourceError;
use crate::kernel::input::Input;
use crate::kernel::wanted::{Index, key};

/// One entry of `.symtab`.
#[derive(Clone, Copy)]
pub(super) struct RawSymbol {
    pub(super) name: u32,
    info: u8,
    pub(super) section: u16,
    pub(super) address: u64,
    pub(super) size: u64,
}

impl RawSymbol {
    /// The entry that `bytes` begin with.
    #[inline]
    pub(super) fn decode(bytes: &[u8], arch: Arch) -> Option<Self> {
        let bytes = Bytes::new(bytes, arch);
        let name = bytes.u32(0)?;
        Some(match arch.word {
            Word::W64 => Self {
                name,
                info: bytes.u8(4)?,
                section: bytes.u16(6)?,
                address: bytes.u64(8)?,
                size: bytes.u64(16)?,
            },
            Word::W32 => Self {
                name,
                info: bytes.u8(12)?,
                section: bytes.u16(14)?,
                address: bytes.u32(4)?.into(),
                size: bytes.u32(8)?.into(),
            },
        })
    }

    pub(super) const fn kind(&self) -> elf::SymbolType {
        elf::SymbolType(self.info & 0xf)
    }

    pub(super) const fn is_global(&self) -> bool {
        self.info >> 4 != elf::STB_LOCAL.0
    }
}

/// Picks out of a piece of `.symtab` the few entries worth a closer look.
pub(super) struct Sieve<'a> {
    pub(super) index: &'a Index,
    /// A part of the string table, with at least eight more bytes behind it.
    pub(super) strings: &'a [u8],
    /// The offset of that part in the string table.
    pub(super) start: u64,
}

impl Sieve<'_> {
    /// The numbers in `piece` of the files' symbols and of those that may
    /// have a wanted name.
    pub(super) fn sift(&self, piece: &[u8], arch: Arch, hits: &mut Vec<usize>) {
        // A loop for each kind of file, so that the choice is not made anew
        // for every symbol.
        match (arch.word, arch.endian) {
            (Word::W64, Endian::Little) => self.sift_as::<24, 4>(piece, u32::from_le_bytes, hits),
            (Word::W64, Endian::Big) => self.sift_as::<24, 4>(piece, u32::from_be_bytes, hits),
            (Word::W32, Endian::Little) => self.sift_as::<16, 12>(piece, u32::from_le_bytes, hits),
            (Word::W32, Endian::Big) => self.sift_as::<16, 12>(piece, u32::from_be_bytes, hits),
        }
    }

    /// `SIZE` is an entry's, `INFO` where in it `st_info` is. Most of the
    /// time goes into waiting for the strings, so nothing else is done here
    /// that would keep the processor from fetching several at once.
    #[inline(always)]
    fn sift_as<const SIZE: usize, const INFO: usize>(
        &self,
        piece: &[u8],
        number: impl Fn([u8; 4]) -> u32,
        hits: &mut Vec<usize>,
    ) {
        for (n, entry) in piece.chunks_exact(SIZE).enumerate() {
            let (Some(name), Some(info)) = (entry.first_chunk(), entry.get(INFO)) else { continue };
            let at = u64::from(number(*name)).wrapping_sub(self.start) as usize;
            let first = self.strings.get(at..).and_then(|string| string.first_chunk());
            let wanted = first.is_some_and(|first| self.index.maybe(key(*first)));
            if wanted || info & 0xf == elf::STT_FILE.0 {
                hits.push(n);
            }
        }
    }

    /// The string at `offset` of the table, if it lies in this part.
    pub(super) fn name(&self, offset: u32) -> Option<&[u8]> {
        let at = usize::try_from(u64::from(offset).checked_sub(self.start)?).ok()?;
        let string = self.strings.get(at..)?;
        string.get(..memchr::memchr(0, string)?)
    }
}

/// Strings of a table by ascending offset, read in pieces.
pub(super) struct StringReader {
    input: Input,
    start: u64,
    size: u64,
    buf: Vec<u8>,
    /// The offset in the table of what `buf` holds.
    at: u64,
    held: usize,
}

impl StringReader {
    pub(super) fn new(input: Input, table: &Section) -> Self {
        let (start, size) = (table.offset, table.size);
        Self { input, start, size, buf: vec![0; PIECE], at: 0, held: 0 }
    }

    /// The string at `offset`; `None` where there is none, or none of a sane
    /// length.
    pub(super) fn at(&mut self, offset: u32) -> Result<Option<&[u8]>, SourceError> {
        let offset = u64::from(offset);
        if offset >= self.size {
            return Ok(None);
        }
        if self.end(offset).is_none() {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let piece = self.buf.len().min(left);
            let piece = self.buf.get_mut(..piece).unwrap_or_default();
            self.held = self.input.read_at(self.start.saturating_add(offset), piece)?;
            self.at = offset;
        }
        let Some(end) = self.end(offset) else { return Ok(None) };
        let from = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        Ok(self.buf.get(from..end))
    }

    /// Where in the buffer the string at `offset` ends.
    fn end(&self, offset: u64) -> Option<usize> {
        let from = usize::try_from(offset.checked_sub(self.at)?).ok()?;
        let held = self.buf.get(..self.held)?.get(from..)?;
        Some(from + memchr::memchr(0, held)?)
    }
}
