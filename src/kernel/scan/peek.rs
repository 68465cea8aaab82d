//! Small reads of guest memory at no particular places, through a few
//! blocks kept at hand: a look at a candidate costs one transfer, not one a
//! field.

use std::cell::RefCell;
use std::ops::Range;

use crate::arch::{Arch, Bytes, Endian, Word};
use crate::guest::{Memory, ReadError, ram_at};

const BLOCK: u64 = 64 << 10;
const KEPT: usize = 8;

/// Guest memory, read in small pieces.
pub(super) struct Peek<'a> {
    memory: &'a dyn Memory,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    blocks: Vec<(u64, Vec<u8>)>,
    /// Which block gives way to the next new one.
    oldest: usize,
    /// What ended the connection to the guest, for the next who asks.
    failure: Option<ReadError>,
}

impl<'a> Peek<'a> {
    pub(super) fn new(memory: &'a dyn Memory) -> Self {
        Self { memory, state: RefCell::default() }
    }

    /// Where RAM is.
    pub(super) fn ram(&self) -> &'a [Range<u64>] {
        self.memory.ram()
    }

    /// The RAM range that holds `real`.
    pub(super) fn range(&self, real: u64) -> Option<&'a Range<u64>> {
        ram_at(self.ram(), real)
    }

    /// Fill `buf` from `real`; false where that is not RAM.
    pub(super) fn fill(&self, real: u64, buf: &mut [u8]) -> bool {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(copied) = self.part(real.wrapping_add(done as u64), rest) else {
                return false;
            };
            done += copied;
        }
        true
    }

    /// Copy from one block as much as it has of what is asked for.
    fn part(&self, real: u64, buf: &mut [u8]) -> Option<usize> {
        let range = self.range(real)?;
        let start = (real - real % BLOCK).max(range.start);
        let end = (real - real % BLOCK).saturating_add(BLOCK).min(range.end);
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.failure.is_some() {
            return None;
        }
        let index = match state.blocks.iter().position(|(at, _)| *at == start) {
            Some(index) => index,
            None => {
                let mut block = vec![0; usize::try_from(end - start).ok()?];
                match self.memory.read(start, &mut block) {
                    Ok(()) => {}
                    Err(error) if super::is_hole(&error) => return None,
                    Err(failure) => {
                        state.failure = Some(failure);
                        return None;
                    }
                }
                let index = state.oldest;
                state.oldest = (index + 1) % KEPT;
                match state.blocks.get_mut(index) {
                    Some(slot) => *slot = (start, block),
                    None => state.blocks.push((start, block)),
                }
                index
            }
        };
        let (_, block) = state.blocks.get(index)?;
        let from = block.get(usize::try_from(real - start).ok()?..)?;
        let len = from.len().min(buf.len());
        buf.get_mut(..len)?.copy_from_slice(from.get(..len)?);
        Some(len)
    }

    /// `N` bytes from `real`.
    pub(super) fn bytes<const N: usize>(&self, real: u64) -> Option<[u8; N]> {
        let mut buf = [0; N];
        self.fill(real, &mut buf).then_some(buf)
    }

    /// A word of a kernel for `arch`.
    pub(super) fn word(&self, real: u64, arch: Arch) -> Option<u64> {
        match arch.word {
            Word::W64 => self.u64(real, arch.endian),
            Word::W32 => Bytes::new(&self.bytes::<4>(real)?, arch).word(0),
        }
    }

    /// A 64-bit number.
    pub(super) fn u64(&self, real: u64, endian: Endian) -> Option<u64> {
        Bytes::new(&self.bytes::<8>(real)?, Arch { word: Word::W64, endian }).u64(0)
    }

    /// The RAM around `real`, up to `reach` bytes to either side, and where
    /// it begins.
    pub(super) fn around(&self, real: u64, reach: u64) -> Option<(u64, Vec<u8>)> {
        let range = self.range(real)?;
        let start = real.saturating_sub(reach).max(range.start);
        let end = real.saturating_add(reach).min(range.end);
        let mut buf = vec![0; usize::try_from(end - start).ok()?];
        self.fill(start, &mut buf).then_some((start, buf))
    }

    /// What ended the connection to the guest, if anything did.
    pub(super) fn failure(&self) -> Result<(), ReadError> {
        match self.state.borrow_mut().failure.take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}
