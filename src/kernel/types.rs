//! How a kernel's log is laid out, by the kernel's own types.
//!
//! Asked only where the layouts that are known do not fit. The types are in
//! the kernel's file, and wherever they are loaded with it also in guest
//! memory, between `__start_BTF` and `__stop_BTF`; without names they are
//! found by their first bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::btf::{self, Btf};
use super::identity::REACH;
use super::input::Input;
use super::names::Names;
use crate::arch::Endian;
use crate::guest::View;
use crate::printk::{LayoutSource, RingLayout};

/// How much memory is searched in one read, in bytes.
const PIECE: usize = 1 << 20;

/// How many places are looked at: modules have BTF of their own.
const MOST_PLACES: usize = 64;

/// How long to wait with a search that found nothing before the next.
const PAUSE: Duration = Duration::from_secs(2);

/// Where a kernel's types may be, and the layout once they told it.
#[derive(Clone, Debug, Default)]
pub struct KernelTypes {
    file: Option<(Input, Range<u64>)>,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    layout: Option<RingLayout>,
    /// When it was last looked for in vain.
    missed: Option<Instant>,
}

impl KernelTypes {
    /// Types that a part of the kernel's file holds.
    pub(super) fn in_file(input: &Input, part: Range<u64>) -> Self {
        Self { file: Some((input.clone(), part)), ..Self::default() }
    }

    /// The layout of the ring of the kernel in `view`, which has `names`, if
    /// any are known, `displacement` bytes above where it was linked to.
    pub(super) fn layout(
        &self,
        view: &View<'_>,
        names: Option<&Names>,
        displacement: u64,
    ) -> Option<RingLayout> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.layout.is_none() && told.missed.is_none_or(|missed| missed.elapsed() > PAUSE) {
            told.layout = self
                .by_file(view)
                .or_else(|| named(view, names?, displacement))
                .or_else(|| found(view));
            told.missed = told.layout.is_none().then(Instant::now);
        }
        told.layout
    }

    fn by_file(&self, view: &View<'_>) -> Option<RingLayout> {
        let (input, part) = self.file.as_ref()?;
        let mut header = [0; btf::HEADER];
        input.read_exact_at(part.start, &mut header).ok()?;
        let length = btf::length(&header, view.arch())?.min(part.end.checked_sub(part.start)?);
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        input.read_exact_at(part.start, &mut bytes).ok()?;
        of(&bytes, view, LayoutSource::FileBtf)
    }
}

/// The layout by the BTF that `bytes` are.
fn of(bytes: &[u8], view: &View<'_>, source: LayoutSource) -> Option<RingLayout> {
    RingLayout::from_types(&Btf::parse(bytes, view.arch())?, view.arch(), source)
}

/// By the BTF at an effective address of the guest.
fn at(view: &View<'_>, address: u64) -> Option<RingLayout> {
    let length = btf::length(&view.bytes(address, btf::HEADER).ok()?, view.arch())?;
    let bytes = view.bytes(address, usize::try_from(length).ok()?).ok()?;
    of(&bytes, view, LayoutSource::GuestBtf)
}

fn named(view: &View<'_>, names: &Names, displacement: u64) -> Option<RingLayout> {
    at(view, names.address("__start_BTF")?.wrapping_add(displacement))
}

/// By the BTF in low memory that knows the ring's structures: not a module's.
fn found(view: &View<'_>) -> Option<RingLayout> {
    // Magic, version, no flags.
    let needle: [u8; 4] = match view.arch().endian {
        Endian::Little => [0x9f, 0xeb, 1, 0],
        Endian::Big => [0xeb, 0x9f, 1, 0],
    };
    let finder = memchr::memmem::Finder::new(&needle);
    let overlap = needle.len() - 1;
    let mut buf = vec![0; PIECE + overlap];
    let mut places = 0;
    for range in view.memory().ram() {
        let end = range.end.min(REACH);
        let mut start = range.start;
        while start < end {
            let left = usize::try_from(end - start).unwrap_or(usize::MAX);
            let piece = buf.get_mut(..left.min(PIECE + overlap))?;
            view.memory().read(start, piece).ok()?;
            for hit in finder.find_iter(piece) {
                let real = start + hit as u64;
                let mut header = [0; btf::HEADER];
                let is_header = view.memory().read(real, &mut header).is_ok()
                    && btf::length(&header, view.arch()).is_some();
                if !is_header {
                    continue;
                }
                places += 1;
                let layout = at(view, view.rule().effective(real));
                if layout.is_some() || places == MOST_PLACES {
                    return layout;
                }
            }
            start += PIECE as u64;
        }
    }
    None
}
