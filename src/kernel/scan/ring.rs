//! Format C, 5.10 and later: recognising a `struct printk_ringbuffer`
//! (kernel/printk/printk_ringbuffer.h, commit b6cf8b3f3312 "printk: add
//! lockless ringbuffer", in 5.10), and telling the living from the stale.
//!
//! A kernel's image in memory holds a ring as the compiler made it. Where
//! the image was copied to its place before it ran (always on pseries and
//! powernv), the original stays behind with a ring that looks whole: its
//! pointers lead to the arrays of the living one. It differs in two ways:
//! nothing was ever written through it, and no variable `prb` points at it.
//!
//! No record is read here: that is the decoder's part.

use crate::arch::{Arch, Bytes, Word};
use crate::guest::{AddressRule, is_ram};
use crate::printk::{DescForm, HeadForm, Header, RingLayout};

use super::peek::Peek;
use super::sieve::{AVG_BITS, COUNT_BITS};

/// How far from a ring its variable `prb` is looked for.
///
/// Both are data of kernel/printk/printk.o. In the builds looked at they
/// were 0x40 to 0x168 bytes apart; the whole of that object's small data
/// fits in this.
const REACH: u64 = 4 << 10;

/// `R_PPC64_RELATIVE` and `R_PPC_RELATIVE`: an address after it is a
/// relocation's addend, not a variable.
const RELATIVE: u64 = 22;

/// The usual `PAGE_OFFSET`s of 32-bit kernels (arch/powerpc/Kconfig,
/// `PAGE_OFFSET`, and the vmsplit choices people set).
const PAGE_OFFSETS: [u32; 5] = [0xc000_0000, 0x8000_0000, 0xb000_0000, 0x7000_0000, 0x4000_0000];

/// Distances tried for one ring, so that a page of pretended ones costs little.
const MAX_RULES: usize = 64;

/// How a ring is laid out that is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub arch: Arch,
    pub head: HeadForm,
    desc: DescForm,
    /// Kernels have had it, so that what lies beside the fields is known too.
    known: bool,
}

impl Shape {
    /// Those of all kernels so far. struct prb_desc_ring grew by
    /// last_finalized_id in 5.18 (renamed last_finalized_seq in 6.9).
    pub(super) fn known() -> Vec<Self> {
        let archs = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32].into_iter();
        archs
            .flat_map(|arch| HeadForm::known(arch.word).map(|head| (arch, head)))
            .map(|(arch, head)| Self { arch, head, desc: DescForm::known(arch.word), known: true })
            .collect()
    }

    /// One that a kernel's types tell.
    pub(super) fn told(arch: Arch, layout: &RingLayout) -> Self {
        Self { arch, head: layout.head, desc: layout.desc, known: false }
    }
}

/// The head of a ring, with what can be told without following pointers.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub real: u64,
    pub arch: Arch,
    shape: Shape,
    count_bits: u32,
    descs: u64,
    infos: u64,
    data: u64,
    head_id: u64,
    tail_id: u64,
    /// As the compiler made it: nothing was ever logged through it.
    pub pristine: bool,
}

/// A ring whose descriptors are where it says.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub head: Head,
    pub rule: AddressRule,
    /// No record was ever reserved.
    pub empty: bool,
    /// `sizeof(struct printk_info)`, where the infos tell.
    pub info_size: Option<usize>,
    /// All pointers in the data around, sorted: one of them is the variable
    /// `prb`, if this is the ring the kernel was linked with.
    pointers: Vec<u64>,
}

/// A piece of memory as words.
#[derive(Clone, Debug, Default)]
struct Near {
    start: u64,
    bytes: Vec<u8>,
}

impl Head {
    /// What a place that passed the sieve may be: the first head of one of
    /// the shapes that makes sense. `bytes` begin at the place.
    pub(super) fn parse(bytes: &[u8], real: u64, shapes: &[Shape]) -> Option<Self> {
        shapes.iter().find_map(|shape| Self::parse_as(bytes, real, shape))
    }

    /// The same at a place of which nothing was read yet.
    pub(super) fn at(real: u64, peek: &Peek<'_>, shapes: &[Shape]) -> Option<Self> {
        let mut bytes = vec![0; shapes.iter().map(|shape| shape.head.size).max()?];
        peek.fill(real, &mut bytes).then(|| Self::parse(&bytes, real, shapes))?
    }

    fn parse_as(bytes: &[u8], real: u64, shape: &Shape) -> Option<Self> {
        let arch = shape.arch;
        let bytes = Bytes::new(bytes, arch);
        let word = arch.word.bytes();
        let mask = word_mask(arch);
        let header = Header::parse(bytes, &shape.head)?;
        if !COUNT_BITS.contains(&header.count_bits) || !real.is_multiple_of(word as u64) {
            return None;
        }
        // On 64-bit an unsigned int is followed by padding, as far as is known.
        let padding = [shape.head.count_bits + 4, shape.head.size_bits + 4];
        let is_padded = || padding.into_iter().all(|at| bytes.u32(at) == Some(0));
        if shape.known && arch.word == Word::W64 && !is_padded() {
            return None;
        }
        let head = Self {
            real,
            arch,
            shape: *shape,
            count_bits: header.count_bits,
            descs: header.descs,
            infos: header.infos,
            head_id: header.marks.head_id,
            tail_id: header.marks.tail_id,
            data: header.data,
            pristine: false,
        };
        let aligned = |pointer: u64| pointer != 0 && pointer.is_multiple_of(word as u64);
        if ![head.descs, head.infos, head.data].into_iter().all(aligned) {
            return None;
        }
        // An id is an unsigned long less its two state bits.
        let ids = mask >> 2;
        if head.head_id > ids || head.tail_id > ids {
            return None;
        }
        if head.head_id.wrapping_sub(head.tail_id) & ids >= head.descriptors() {
            return None;
        }
        // Text positions are multiples of a word, the newest at most one
        // ring's length past the oldest.
        let (newest, oldest) = (header.marks.head_lpos, header.marks.tail_lpos);
        let size = head.descriptors() << AVG_BITS;
        if newest % word as u64 != 0
            || oldest % word as u64 != 0
            || newest.wrapping_sub(oldest) & mask > size
        {
            return None;
        }
        // DESC0_ID and BLK0_LPOS, where everything begins.
        let begins = head.head_id == head.tail_id
            && newest == oldest
            && newest == size.wrapping_neg() & mask
            && head.first_ids().contains(&head.head_id);
        Some(Self { pristine: begins, ..head })
    }

    /// The number of descriptors, and of infos.
    fn descriptors(&self) -> u64 {
        1 << self.count_bits
    }

    /// `DESC0_ID`: computed in 32 bits before 7.x (`_DESCS_COUNT` was `1U <<`),
    /// which shows on 64-bit only.
    fn first_ids(&self) -> [u64; 2] {
        let id = (self.descriptors() + 1).wrapping_neg();
        [id & 0xffff_ffff & (word_mask(self.arch) >> 2), id & (word_mask(self.arch) >> 2)]
    }

    /// The slot of an id in both arrays.
    fn slot(&self, id: u64) -> u64 {
        id & (self.descriptors() - 1)
    }

    /// Follow the pointers: whether descriptors, infos and text lie in RAM
    /// and the newest descriptor says it is the newest.
    pub(super) fn follow(&self, peek: &Peek<'_>) -> Option<Ring> {
        let (start, bytes) = peek.around(self.real, REACH)?;
        let near = Near { start, bytes };
        let (rule, empty) = match self.arch.word {
            Word::W64 => {
                let rule = AddressRule::Linear64;
                (rule, self.leads_to_arrays(rule, peek)?)
            }
            Word::W32 => self.rules32(&near, peek)?,
        };
        let info_size = if empty || !self.shape.known { None } else { self.info_size(rule, peek) };
        let pointers = near.pointers(self.arch);
        Some(Ring { head: self.clone(), rule, empty, info_size, pointers })
    }

    /// Whether the arrays are where the head says under this rule; if so,
    /// whether the ring is empty.
    fn leads_to_arrays(&self, rule: AddressRule, peek: &Peek<'_>) -> Option<bool> {
        let real = |pointer: u64, len: u64| {
            if self.arch.word == Word::W64 && pointer >> 60 != 0xc {
                return None;
            }
            rule.real(pointer).filter(|real| is_ram(peek.ram(), *real, len))
        };
        let desc = self.shape.desc;
        let descs = real(self.descs, self.descriptors() * desc.size as u64)?;
        // sizeof(struct printk_info) is 88 bytes or more.
        real(self.infos, self.descriptors() * 88)?;
        real(self.data, self.descriptors() << AVG_BITS)?;
        let state = |id: u64| {
            let at = self.slot(id) * desc.size as u64 + desc.state_var as u64;
            peek.word(descs + at, self.arch)
        };
        let ids = word_mask(self.arch) >> 2;
        let newest = state(self.head_id)?;
        let (id, flags) = (newest & ids, newest >> (self.arch.word.bytes() * 8 - 2));
        const REUSABLE: u64 = 3;
        // desc_reserve() moves head_id on before it takes the descriptor,
        // which until then has the id of one round before.
        let round_before = self.head_id.wrapping_sub(self.descriptors()) & ids;
        let reserving = id == round_before || newest == 0;
        if id != self.head_id && !(reserving && self.head_id != self.tail_id) {
            return None;
        }
        // Of the others a few are asked; a living ring may be torn in one.
        let used = self.head_id.wrapping_sub(self.tail_id) & ids;
        let asked = used.min(16);
        let right = (1..=asked)
            .map(|n| self.head_id.wrapping_sub(n * used / asked) & ids)
            .filter(|id| state(*id).is_some_and(|state| state & ids == *id))
            .count() as u64;
        if right * 2 < asked {
            return None;
        }
        Some(used == 0 && flags == REUSABLE)
    }

    /// For a 32-bit kernel the distance of effective from real addresses is
    /// to be found out: the usual ones, then those that would make some word
    /// nearby the pointer `prb` to this very ring.
    fn rules32(&self, near: &Near, peek: &Peek<'_>) -> Option<(AddressRule, bool)> {
        let usual = PAGE_OFFSETS.into_iter().map(u64::from);
        let implied = near
            .words(self.arch)
            .map(|(_, word)| word.wrapping_sub(self.real) & 0xffff_ffff)
            .filter(|distance| distance & 0xfff == 0);
        for distance in usual.chain(implied).take(MAX_RULES) {
            let rule = rule32(distance, self.real);
            if let Some(empty) = self.leads_to_arrays(rule, peek) {
                return Some((rule, empty));
            }
        }
        None
    }

    /// `sizeof(struct printk_info)`: 88, or 112 where printk notes the
    /// caller's name too (CONFIG_PRINTK_EXECUTION_CTX, after 6.13). A
    /// record's sequence number and its slot agree modulo the ring's size.
    fn info_size(&self, rule: AddressRule, peek: &Peek<'_>) -> Option<usize> {
        let infos = rule.real(self.infos)?;
        let ids = word_mask(self.arch) >> 2;
        let used = self.head_id.wrapping_sub(self.tail_id) & ids;
        let slots: Vec<u64> =
            (0..=used.min(32)).map(|n| self.slot(self.head_id.wrapping_sub(n))).collect();
        let right = |size: u64| {
            let agrees = |slot: &u64| {
                let seq = peek.u64(infos + slot * size, self.arch.endian);
                // Slot 0 agrees with whatever zeros are there.
                *slot != 0 && seq.is_some_and(|seq| seq & (self.descriptors() - 1) == *slot)
            };
            slots.iter().filter(|slot| agrees(slot)).count()
        };
        let (old, new) = (right(88), right(112));
        match old.cmp(&new) {
            std::cmp::Ordering::Greater => Some(88),
            std::cmp::Ordering::Less => Some(112),
            std::cmp::Ordering::Equal => None,
        }
    }
}

impl Ring {
    /// The ring's effective address.
    pub(super) fn effective(&self) -> u64 {
        self.rule.effective(self.head.real)
    }

    /// Whether a variable in the data around `self` points at `other`, which
    /// may be `self`: then `other` is the ring the kernel uses.
    pub(super) fn names(&self, other: &Self) -> bool {
        self.head.arch == other.head.arch && self.pointers.binary_search(&other.effective()).is_ok()
    }

    /// The rings that words in the data around point at: where `prb` leads,
    /// should the ring it names lie where no scan came by.
    pub(super) fn named(&self, peek: &Peek<'_>) -> Vec<Self> {
        let word = self.head.arch.word.bytes() as u64;
        self.pointers
            .iter()
            .copied()
            .filter(|pointer| pointer % word == 0)
            .filter_map(|pointer| self.rule.real(pointer).filter(|real| *real != self.head.real))
            .filter_map(|real| Head::at(real, peek, &[self.head.shape])?.follow(peek))
            .filter(|ring| ring.head.arch == self.head.arch)
            .collect()
    }
}

impl Near {
    fn words(&self, arch: Arch) -> impl Iterator<Item = (usize, u64)> {
        let word = arch.word.bytes();
        let skew = self.start.wrapping_neg() as usize % word;
        let bytes = Bytes::new(&self.bytes, arch);
        (skew..self.bytes.len()).step_by(word).filter_map(move |at| Some((at, bytes.word(at)?)))
    }

    /// The words that may be variables holding a pointer, each once.
    fn pointers(&self, arch: Arch) -> Vec<u64> {
        let mut before = 0;
        let mut pointers: Vec<u64> = self
            .words(arch)
            .filter_map(|(_, word)| {
                let addend = before == RELATIVE;
                before = word;
                let kernel = arch.word == Word::W32 || word >> 60 == 0xc;
                (word != 0 && !addend && kernel).then_some(word)
            })
            .collect();
        pointers.sort_unstable();
        pointers.dedup();
        pointers
    }
}

/// All bits of a word.
const fn word_mask(arch: Arch) -> u64 {
    match arch.word {
        Word::W32 => 0xffff_ffff,
        Word::W64 => u64::MAX,
    }
}

/// The 32-bit rule with a given distance of effective from real addresses,
/// of a kernel that has `real` within its linear map.
fn rule32(distance: u64, real: u64) -> AddressRule {
    let distance = u32::try_from(distance).unwrap_or(0);
    // A relocatable Book-E kernel: the usual offset, RAM that begins higher.
    match 0xc000_0000u32.checked_sub(distance) {
        Some(memstart) if !PAGE_OFFSETS.contains(&distance) && u64::from(memstart) <= real => {
            AddressRule::Linear32 { page_offset: 0xc000_0000, memstart }
        }
        _ => AddressRule::Linear32 { page_offset: distance, memstart: 0 },
    }
}
