//! ELF cores: RAM in `PT_LOAD` segments, by `p_paddr`.
//!
//! QEMU writes one segment a stretch of RAM. With `paging=true` it writes
//! one a mapping, with virtual addresses too, several of which may show the
//! same RAM: the first is as good as the others.

use std::ops::Range;

use crate::arch::{Arch, Bytes, Endian, Word};
use crate::guest::{Memory, ReadError};

use super::Error;
use super::file::{self, Source};

const ET_CORE: u16 = 4;
const EM_PPC: u16 = 20;
const EM_PPC64: u16 = 21;
const PT_LOAD: u32 = 1;
/// `e_phnum` when there are more: the number is in the first section header.
const PN_XNUM: u16 = 0xffff;

/// Segments believed: a guest's RAM is in few pieces, its mappings are many.
const MAX_SEGMENTS: u64 = 1 << 20;

/// RAM in the segments of an ELF core.
pub(super) struct Core {
    source: Box<dyn Source>,
    /// Ascending and disjoint.
    segments: Vec<Segment>,
    ram: Vec<Range<u64>>,
}

#[derive(Clone, Copy)]
struct Segment {
    real: u64,
    len: u64,
    offset: u64,
}

impl Core {
    pub(super) fn open(source: Box<dyn Source>) -> Result<Self, Error> {
        const SHORT: Error = Error::Damaged("ELF header is cut short");
        let head = file::bytes(&*source, 0, source.size().min(64))?;
        let word = match head.get(4) {
            Some(1) => Word::W32,
            Some(2) => Word::W64,
            _ => return Err(Error::Damaged("ELF header names no class")),
        };
        let endian = match head.get(5) {
            Some(1) => Endian::Little,
            Some(2) => Endian::Big,
            _ => return Err(Error::Damaged("ELF header names no byte order")),
        };
        let arch = Arch { word, endian };
        let head = Bytes::new(&head, arch);
        if head.u16(16) != Some(ET_CORE) {
            return Err(Error::Other("an ELF file, but no core dump"));
        }
        if !matches!(head.u16(18), Some(EM_PPC | EM_PPC64)) {
            return Err(Error::Other("a dump of a machine that is no Power"));
        }
        // e_phoff, e_shoff, e_phentsize, e_phnum.
        let (phoff, shoff, phentsize, phnum) = match word {
            Word::W64 => (head.word(32), head.word(40), head.u16(54), head.u16(56)),
            Word::W32 => (head.word(28), head.word(32), head.u16(42), head.u16(44)),
        };
        let (Some(phoff), Some(shoff), Some(phentsize), Some(phnum)) =
            (phoff, shoff, phentsize, phnum)
        else {
            return Err(SHORT);
        };
        let count = match phnum {
            PN_XNUM => {
                let section = file::bytes(&*source, shoff, 64).or(Err(SHORT))?;
                // sh_info.
                let at = if word == Word::W64 { 44 } else { 28 };
                u64::from(Bytes::new(&section, arch).u32(at).ok_or(SHORT)?)
            }
            count => u64::from(count),
        };
        let size = if word == Word::W64 { 56 } else { 32 };
        if count > MAX_SEGMENTS || u64::from(phentsize) != size {
            return Err(Error::Damaged("ELF header makes no sense"));
        }
        let table = file::bytes(&*source, phoff, count * size).or(Err(SHORT))?;
        let segments = table
            .chunks_exact(size as usize)
            .filter_map(|raw| segment(Bytes::new(raw, arch), source.size()))
            .collect();
        let segments = disjoint(segments);
        if segments.is_empty() {
            return Err(Error::Damaged("segments hold no memory"));
        }
        let ram = ranges(&segments);
        Ok(Self { source, segments, ram })
    }
}

/// A program header's RAM, as far as it is in the file.
fn segment(raw: Bytes<'_>, size: u64) -> Option<Segment> {
    if raw.u32(0)? != PT_LOAD {
        return None;
    }
    // p_offset, p_paddr, p_filesz.
    let (offset, real, len) = match raw.arch().word {
        Word::W64 => (raw.word(8)?, raw.word(24)?, raw.word(32)?),
        Word::W32 => (raw.word(4)?, raw.word(12)?, raw.word(16)?),
    };
    let len = len.min(size.checked_sub(offset)?);
    real.checked_add(len)?;
    (len > 0).then_some(Segment { real, len, offset })
}

/// The same RAM without overlaps, ascending.
fn disjoint(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_by_key(|segment| (segment.real, std::cmp::Reverse(segment.len)));
    let mut end = 0;
    segments.retain_mut(|segment| {
        let over = end.max(segment.real) - segment.real;
        if over >= segment.len {
            return false;
        }
        segment.real += over;
        segment.offset += over;
        segment.len -= over;
        end = segment.real + segment.len;
        true
    });
    segments
}

/// Neighbours joined.
fn ranges(segments: &[Segment]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for segment in segments {
        let end = segment.real + segment.len;
        match ranges.last_mut() {
            Some(last) if last.end == segment.real => last.end = end,
            _ => ranges.push(segment.real..end),
        }
    }
    ranges
}

impl Memory for Core {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let not_ram = ReadError::NotRam { address: real, len: buf.len() as u64 };
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = real.wrapping_add(done as u64);
            // The last segment that begins at or before it.
            let index = self.segments.partition_point(|segment| segment.real <= at);
            let segment = index.checked_sub(1).and_then(|index| self.segments.get(index));
            let Some(segment) = segment.filter(|segment| at - segment.real < segment.len) else {
                return Err(not_ram);
            };
            let skip = at - segment.real;
            let len = rest.len().min(usize::try_from(segment.len - skip).unwrap_or(usize::MAX));
            let part = rest.get_mut(..len).unwrap_or_default();
            self.source.read_at(segment.offset + skip, part)?;
            done += len;
        }
        Ok(())
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}
