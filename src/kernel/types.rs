//! How a kernel's log is laid out, by the kernel's own types.
//!
//! Asked only where the layouts that are known do not fit. The types are in
//! the kernel's file, and wherever they are loaded with it also in guest
//! memory, between `__start_BTF` and `__stop_BTF`; without names they are
//! found by their first bytes.

use std::ops::Range;
use std::sync::{self, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use super::banner::REACH;
use super::btf::{self, Btf};
use super::input::Input;
use crate::arch::{Arch, Endian};
use crate::guest::{AddressRule, Memory, View};
use crate::printk::{LayoutSource, RingLayout};

/// How much memory is searched in one read, in bytes.
const PIECE: usize = 1 << 20;

/// How many places are looked at: modules have BTF of their own.
const MOST_PLACES: usize = 64;

/// How many bytes of what looks like BTF are looked at: a guest may pretend.
const MOST_BYTES: u64 = 64 << 20;

/// What one look at what may be a header counts as, in such bytes.
const LOOK: u64 = 256;

/// How long to wait with a search that found nothing before the next.
const PAUSE: Duration = Duration::from_secs(2);

/// Where a kernel's types may be, and the layout once they told it.
#[derive(Clone, Debug, Default)]
pub struct KernelTypes {
    file: Option<(Input, Range<u64>)>,
    told: sync::Arc<Mutex<Told>>,
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

    /// The layout of the ring of the kernel in `view`, whose types are at the
    /// effective address `loaded`, if that is known.
    pub(super) fn layout(&self, view: &View<'_>, loaded: Option<u64>) -> Option<RingLayout> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.layout.is_none() && told.missed.is_none_or(|missed| missed.elapsed() > PAUSE) {
            told.layout = self.by_file(view).or_else(|| at(view, loaded?)).or_else(|| found(view));
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

/// By the BTF in guest memory that knows the ring's structures.
fn found(view: &View<'_>) -> Option<RingLayout> {
    found_in(view.memory(), &[(view.arch(), view.rule())], REACH).map(|(_, layout)| layout)
}

/// The layout of a ring that no kernel known has, by the BTF below `end` of
/// whichever kernel is in guest memory, and what that was compiled for.
pub(super) fn unknown_in(memory: &dyn Memory, end: u64) -> Option<(Arch, RingLayout)> {
    let archs = [
        (Arch::PPC64LE, AddressRule::Linear64),
        (Arch::PPC64, AddressRule::Linear64),
        (Arch::PPC32, AddressRule::PPC32),
    ];
    found_in(memory, &archs, end).filter(|(arch, layout)| !layout.is_known(arch.word))
}

/// The first BTF below `end` that knows the ring's structures, which a
/// module's does not, of a kernel of one of `archs`.
fn found_in(
    memory: &dyn Memory,
    archs: &[(Arch, AddressRule)],
    end: u64,
) -> Option<(Arch, RingLayout)> {
    // Magic, version, no flags.
    let needles = [(Endian::Little, [0x9f, 0xeb, 1, 0]), (Endian::Big, [0xeb, 0x9f, 1, 0])];
    let needles = needles.iter().filter(|(endian, _)| archs.iter().any(|a| a.0.endian == *endian));
    let finders: Vec<Finder<'_>> = needles.map(|(_, needle)| Finder::new(needle)).collect();
    const OVERLAP: usize = 3;
    let mut buf = vec![0; PIECE + OVERLAP];
    let (mut places, mut work) = (0, 0);
    for range in memory.ram() {
        let end = range.end.min(end);
        let mut start = range.start;
        while start < end {
            let left = usize::try_from(end - start).unwrap_or(usize::MAX);
            let piece = buf.get_mut(..left.min(PIECE + OVERLAP))?;
            memory.read(start, piece).ok()?;
            for hit in finders.iter().flat_map(|finder| finder.find_iter(piece)) {
                let real = start + hit as u64;
                for (arch, rule) in archs {
                    work += LOOK;
                    if places == MOST_PLACES || work > MOST_BYTES {
                        return None;
                    }
                    let mut header = [0; btf::HEADER];
                    let header = memory.read(real, &mut header).map(|()| header).ok();
                    let Some(length) = header.and_then(|header| btf::length(&header, *arch)) else {
                        continue;
                    };
                    places += 1;
                    work += length;
                    let view = View::new(memory, *arch, *rule);
                    if let Some(layout) = at(&view, rule.effective(real)) {
                        return Some((*arch, layout));
                    }
                }
            }
            start += PIECE as u64;
        }
    }
    None
}
