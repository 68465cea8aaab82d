//! makedumpfile's flattened form: a file in pieces, each with the offset it
//! belongs at, for output that cannot seek. QEMU writes kdump-compressed
//! dumps only so (until 8.2 gave it `-R`).
//!
//! The header (`struct makedumpfile_header`) takes 4096 bytes; then follow
//! `struct makedumpfile_data_header { s64 offset, buf_size }`, always big
//! endian, and the bytes; offset -1 ends it.

use std::io::{Error as IoError, ErrorKind};

use crate::arch::{Arch, Bytes};

use super::Error;
use super::file::{self, Source};

/// What such a file begins with.
pub(super) const SIGNATURE: &[u8] = b"makedumpfile\0\0\0\0";

/// `MAX_SIZE_MDF_HEADER`.
const HEADER: u64 = 4096;

/// Pieces believed: at 16 KiB and more each, as QEMU and makedumpfile write
/// them, a dump of some hundred GiB.
const MAX_PIECES: usize = 1 << 22;

/// Pieces that came out of order and are kept in front of others: headers
/// that were written again.
const MAX_LATE: usize = 1 << 12;

/// A file put together from its pieces.
pub(super) struct Flat {
    source: Box<dyn Source>,
    /// Ascending and disjoint.
    pieces: Vec<Piece>,
    size: u64,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    offset: u64,
    len: u64,
    /// Where in the flattened file.
    at: u64,
}

impl Flat {
    pub(super) fn open(source: Box<dyn Source>) -> Result<Self, Error> {
        let head =
            file::bytes(&*source, 0, HEADER).or(Err(Error::Damaged("header is cut short")))?;
        let head = Bytes::new(&head, Arch::PPC64);
        // TYPE_FLAT_HEADER and VERSION_FLAT_HEADER.
        if (head.u64(16), head.u64(24)) != (Some(1), Some(1)) {
            return Err(Error::Damaged("header is of an unknown version"));
        }
        let mut flat = Self { source, pieces: Vec::new(), size: 0 };
        let mut late = 0;
        let mut at = HEADER;
        // A dump that was cut short has no end mark: what is there counts.
        while let Ok(raw) = file::bytes(&*flat.source, at, 16) {
            let raw = Bytes::new(&raw, Arch::PPC64);
            let (Some(offset), Some(len)) = (raw.u64(0), raw.u64(8)) else { break };
            if offset >> 63 != 0 {
                break;
            }
            at += 16;
            let len = len.min(flat.source.size() - at);
            let Some(end) = offset.checked_add(len) else { break };
            if len > 0 {
                late += usize::from(offset < flat.size);
                if flat.pieces.len() >= MAX_PIECES || late > MAX_LATE {
                    return Err(Error::Damaged("pieces are too many"));
                }
                flat.put(Piece { offset, len, at });
                flat.size = flat.size.max(end);
            }
            at += len;
        }
        Ok(flat)
    }

    /// Add a piece that covers whatever was there before.
    fn put(&mut self, new: Piece) {
        let end = new.offset + new.len;
        if new.offset >= self.size {
            self.pieces.push(new);
            return;
        }
        let first = self.pieces.partition_point(|old| old.offset + old.len <= new.offset);
        let last = self.pieces.partition_point(|old| old.offset < end);
        let mut between = Vec::new();
        let covered = self.pieces.get(first..last).unwrap_or_default();
        if let Some(old) = covered.first().filter(|old| old.offset < new.offset) {
            between.push(Piece { len: new.offset - old.offset, ..*old });
        }
        between.push(new);
        if let Some(old) = covered.last().filter(|old| old.offset + old.len > end) {
            let skip = end - old.offset;
            between.push(Piece { offset: end, len: old.len - skip, at: old.at + skip });
        }
        self.pieces.splice(first..last.max(first), between);
    }
}

impl Source for Flat {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = offset + done as u64;
            let index = self.pieces.partition_point(|piece| piece.offset + piece.len <= offset);
            let piece = self.pieces.get(index);
            let room = |len: u64| usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let len = match piece {
                Some(piece) if piece.offset <= offset => {
                    let skip = offset - piece.offset;
                    let len = room(piece.len - skip);
                    let part = rest.get_mut(..len).unwrap_or_default();
                    self.source.read_at(piece.at + skip, part)?;
                    len
                }
                // A hole, as lseek() makes them.
                _ => {
                    let len = room(piece.map_or(u64::MAX, |piece| piece.offset - offset));
                    rest.get_mut(..len).unwrap_or_default().fill(0);
                    len
                }
            };
            done += len;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}
