//! The printk ringbuffer of 5.10 and later, from its writer's side
//! (kernel/printk/printk_ringbuffer.c).

use super::{Line, Sheet};
use crate::arch::{Arch, Word};

/// Which kernel writes a printk ring (5.10 and later).
#[derive(Clone, Copy, Debug)]
pub struct RingPlan {
    /// Word size and byte order.
    pub arch: Arch,
    /// Real address of the image.
    pub base: u64,
    /// `count_bits`; the text ring has five more.
    pub count_bits: u32,
    /// `sizeof(struct printk_info)`: 88, or 112 with
    /// `CONFIG_PRINTK_EXECUTION_CTX`.
    pub info_stride: usize,
    /// `last_finalized_id` or `_seq` is there (5.18).
    pub six_words: bool,
    /// `_DESCS_COUNT` is `unsigned long` (7.2): 64-bit ids start below 2^62.
    pub wide_ids: bool,
    /// Blocks may end exactly at the ring's end (6.19).
    pub perfect_fit: bool,
    /// A kernel there is none of yet: each structure begins with fields that
    /// nobody knows.
    pub future: bool,
}

impl RingPlan {
    /// A ring of 6.1 ppc64le, small.
    pub const SMALL: Self = Self {
        arch: Arch::PPC64LE,
        base: 0x0200_0000,
        count_bits: 6,
        info_stride: 88,
        six_words: true,
        wide_ids: false,
        perfect_fit: false,
        future: false,
    };

    /// Bytes of unknown fields that the header, a descriptor and an info
    /// begin with.
    pub(super) const fn unknown(&self) -> [usize; 3] {
        match self.future {
            true => [self.arch.word.bytes(), self.arch.word.bytes(), 16],
            false => [0; 3],
        }
    }
}

/// Writes records as the kernel does.
#[derive(Clone, Debug)]
pub struct RingWriter {
    plan: RingPlan,
    /// The memory so far.
    pub sheet: Sheet,
}

/// `desc_reserved` and so on.
const RESERVED: u64 = 0;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const REUSABLE: u64 = 3;

impl RingWriter {
    /// An empty ring, as the kernel image holds it.
    #[must_use]
    pub fn new(plan: RingPlan) -> Self {
        let probe = Self { plan, sheet: Sheet::new(plan.arch, plan.base, 0) };
        let len = probe.data_at() + probe.size() as usize + 64;
        let mut writer = Self { plan, sheet: Sheet::new(plan.arch, plan.base, len) };
        let w = writer.w();
        let at = |offset| writer.sheet.address(offset);
        let (descs, infos, data) =
            (at(writer.descs_at()), at(writer.infos_at()), at(writer.data_at()));
        let before = writer.id(writer.origin().wrapping_sub(1));
        let blk0 = writer.size().wrapping_neg();
        let text = writer.text_ring();
        let last = writer.count() as usize - 1;
        let head = writer.head_at();
        let sheet = &mut writer.sheet;
        sheet.put_number(head, u64::from(plan.count_bits), 4);
        sheet.put_word(head + w, descs);
        sheet.put_word(head + 2 * w, infos);
        sheet.put_word(head + 3 * w, before);
        sheet.put_word(head + 4 * w, before);
        sheet.put_number(text, u64::from(plan.count_bits + 5), 4);
        sheet.put_word(text + w, data);
        sheet.put_word(text + 2 * w, blk0);
        sheet.put_word(text + 3 * w, blk0);
        writer.set_desc(last, before, REUSABLE, Some((1, 1)));
        let infos = writer.infos_at() + plan.unknown()[2];
        writer.sheet.put_number(infos, writer.count().wrapping_neg(), 8);
        writer
    }

    /// The kernel this is written for.
    #[must_use]
    pub const fn plan(&self) -> RingPlan {
        self.plan
    }

    /// Offset of `struct printk_ringbuffer`.
    #[must_use]
    pub const fn prb_at(&self) -> usize {
        0x40
    }

    /// Effective address of it.
    #[must_use]
    pub fn prb(&self) -> u64 {
        self.sheet.address(self.prb_at())
    }

    /// Offset of the descriptors.
    #[must_use]
    pub const fn descs_at(&self) -> usize {
        0x100
    }

    /// Offset of the infos.
    #[must_use]
    pub fn infos_at(&self) -> usize {
        self.descs_at() + self.count() as usize * self.desc_size()
    }

    /// Bytes of a `struct prb_desc`.
    const fn desc_size(&self) -> usize {
        3 * self.plan.arch.word.bytes() + self.plan.unknown()[1]
    }

    /// Offset of the fields of `struct printk_ringbuffer` that are known.
    fn head_at(&self) -> usize {
        self.prb_at() + self.plan.unknown()[0]
    }

    /// Offset of the text ring.
    #[must_use]
    pub fn data_at(&self) -> usize {
        self.infos_at() + self.count() as usize * self.plan.info_stride
    }

    /// Number of descriptors.
    #[must_use]
    pub const fn count(&self) -> u64 {
        1 << self.plan.count_bits
    }

    /// Bytes of text.
    #[must_use]
    pub const fn size(&self) -> u64 {
        32 << self.plan.count_bits
    }

    /// Store a record and finish it. Returns its id.
    pub fn print(&mut self, line: &Line) -> u64 {
        let id = self.commit(line);
        self.set_state(id, FINALIZED);
        id
    }

    /// Store a record that `pr_cont()` may extend.
    pub fn commit(&mut self, line: &Line) -> u64 {
        let id = self.reserve(line.text.len());
        self.write(id, line);
        self.set_state(id, COMMITTED);
        id
    }

    /// Take a descriptor and room for text, and stop there.
    pub fn reserve(&mut self, text_len: usize) -> u64 {
        let id = self.take();
        let blocks = self.alloc(id, text_len);
        self.set_desc(self.place(id), id, RESERVED, Some(blocks));
        id
    }

    /// Take the next id and stop before the descriptor says so.
    pub fn take_id_only(&mut self) -> u64 {
        let (head, id) = self.next_id();
        if self.id(id.wrapping_sub(self.count())) == self.tail_id() {
            self.push_desc_tail();
        }
        self.sheet.put_word(head, id);
        id
    }

    /// A record whose text found no room (`FAILED_LPOS`).
    pub fn fail(&mut self) -> u64 {
        let id = self.take();
        self.set_desc(self.place(id), id, FINALIZED, Some((1, 1)));
        id
    }

    /// Fill in a reserved record's text and info.
    pub fn write(&mut self, id: u64, line: &Line) {
        let place = self.place(id);
        let info = self.info_at(id);
        let (begin, next) = self.blocks(place);
        if begin & 1 == 0 {
            let text = self.text_at(begin, next);
            self.sheet.put(text, &line.text);
            // What vsnprintf() leaves behind, and then some.
            let room = self.room(begin, next) - line.text.len();
            self.sheet.put(text + line.text.len(), &b"\0stale!!"[..room.min(8)]);
        }
        let flags = self.sheet.flags(line.flags, line.level);
        let sheet = &mut self.sheet;
        sheet.put_number(info + 8, line.ts_nsec, 8);
        sheet.put_number(info + 16, line.text.len() as u64, 2);
        sheet.put(info + 18, &[line.facility, flags]);
        sheet.put_number(info + 20, u64::from(line.caller_id), 4);
        let mut device = info + 24;
        if self.plan.info_stride == 112 {
            sheet.put_number(info + 24, u64::from(line.caller_id & 0x8000_0000), 4);
            sheet.put(info + 28, b"swapper/0");
            device = info + 44;
        }
        if let Some((subsystem, name)) = &line.device {
            sheet.put(device, subsystem);
            sheet.put(device + 16, name);
        }
    }

    /// Change a record's state.
    pub fn set_state(&mut self, id: u64, state: u64) {
        self.set_desc(self.place(id), id, state, None);
        if self.plan.six_words && state == FINALIZED {
            let seq = self.sheet.number(self.info_at(id), 8);
            let at = self.head_at() + 5 * self.w();
            self.sheet.put_word(at, if self.plan.wide_ids { seq } else { id });
        }
    }

    /// Append to an open record whose block is the newest: `pr_cont()`.
    pub fn extend(&mut self, id: u64, more: &[u8]) {
        let place = self.place(id);
        let info = self.info_at(id);
        let (begin, next) = self.blocks(place);
        let old_len = self.sheet.number(info + 16, 2) as usize;
        let old_text = self.text_at(begin, next);
        let text = self.sheet.bytes[old_text..old_text + old_len].to_vec();
        let text = [&text[..], more].concat();
        let size = self.block_size(text.len());
        let end = self.end_of(begin, size);
        if self.lpos(end.wrapping_sub(next)) < self.size() && end != next {
            self.push_text_tail(self.lpos(end.wrapping_sub(self.size())));
            let head = self.text_ring() + 2 * self.w();
            self.sheet.put_word(head, end);
            self.set_desc(place, id, COMMITTED, Some((begin, end)));
        }
        let (begin, next) = self.blocks(place);
        if self.wraps(begin, next) {
            let start = self.data_at();
            self.sheet.put_word(start, id);
        }
        let at = self.text_at(begin, next);
        self.sheet.put(at, &text);
        self.sheet.put_number(info + 16, text.len() as u64, 2);
    }

    /// How many descriptors hold a record that was not given up.
    #[must_use]
    pub fn live(&self) -> usize {
        let w = self.w();
        let state = |place| self.sheet.word(self.desc_field(place)) >> (8 * w - 2);
        (0..self.count() as usize).filter(|place| matches!(state(*place), 1 | 2)).count()
    }

    /// Offset of a record's `struct printk_info`.
    #[must_use]
    pub fn info_at(&self, id: u64) -> usize {
        self.infos_at() + self.place(id) * self.plan.info_stride + self.plan.unknown()[2]
    }

    /// Offset of a record's `struct prb_desc`.
    #[must_use]
    pub fn desc_at(&self, id: u64) -> usize {
        self.desc_field(self.place(id))
    }

    /// Offset of a record's text block, where its id is.
    #[must_use]
    pub fn block_at(&self, id: u64) -> usize {
        let (begin, _) = self.blocks(self.place(id));
        self.data_at() + (begin & (self.size() - 1)) as usize
    }

    /// The id of record 0.
    #[must_use]
    pub fn origin(&self) -> u64 {
        match self.plan.arch.word {
            Word::W64 if !self.plan.wide_ids => (1 << 32) - self.count(),
            _ => self.id(self.count().wrapping_neg()),
        }
    }

    /// Make the ring as if so many records had gone before (in whole rounds
    /// of the descriptors).
    pub fn age(&mut self, rounds: u64) {
        let by = rounds * self.count();
        let head = self.head_at() + 3 * self.w();
        for at in [head, head + self.w()] {
            let id = self.id(self.sheet.word(at).wrapping_add(by));
            self.sheet.put_word(at, id);
        }
        for place in 0..self.count() as usize {
            let id = self.origin().wrapping_add(by).wrapping_add(place as u64);
            let id = self.id(id.wrapping_sub(self.count()));
            self.set_desc(place, id, REUSABLE, Some((1, 1)));
            let seq = (place as u64).wrapping_add(by).wrapping_sub(self.count());
            let at = self.infos_at() + place * self.plan.info_stride + self.plan.unknown()[2];
            self.sheet.put_number(at, seq, 8);
        }
    }

    /// Move the text ring's positions on by that many rounds of it.
    pub fn age_text(&mut self, rounds: u64) {
        for nth in [2, 3] {
            let at = self.text_ring() + nth * self.w();
            let lpos = self.sheet.word(at).wrapping_add(rounds * self.size());
            self.sheet.put_word(at, lpos);
        }
    }

    fn w(&self) -> usize {
        self.plan.arch.word.bytes()
    }

    fn id(&self, number: u64) -> u64 {
        match self.plan.arch.word {
            Word::W32 => number & (u64::from(u32::MAX) >> 2),
            Word::W64 => number & (u64::MAX >> 2),
        }
    }

    fn lpos(&self, number: u64) -> u64 {
        match self.plan.arch.word {
            Word::W32 => number & u64::from(u32::MAX),
            Word::W64 => number,
        }
    }

    fn text_ring(&self) -> usize {
        self.head_at() + if self.plan.six_words { 6 } else { 5 } * self.w()
    }

    /// Offset of a descriptor's `state_var`.
    fn desc_field(&self, place: usize) -> usize {
        self.descs_at() + place * self.desc_size() + self.plan.unknown()[1]
    }

    fn place(&self, id: u64) -> usize {
        (id & (self.count() - 1)) as usize
    }

    fn tail_id(&self) -> u64 {
        self.sheet.word(self.head_at() + 4 * self.w())
    }

    fn set_desc(&mut self, place: usize, id: u64, state: u64, blocks: Option<(u64, u64)>) {
        let w = self.w();
        let at = self.desc_field(place);
        self.sheet.put_word(at, id | state << (8 * w - 2));
        if let Some((begin, next)) = blocks {
            self.sheet.put_word(at + w, begin);
            self.sheet.put_word(at + 2 * w, next);
        }
    }

    fn desc_id(&self, place: usize) -> u64 {
        self.id(self.sheet.word(self.desc_field(place)))
    }

    fn blocks(&self, place: usize) -> (u64, u64) {
        let at = self.desc_field(place);
        (self.sheet.word(at + self.w()), self.sheet.word(at + 2 * self.w()))
    }

    fn next_id(&self) -> (usize, u64) {
        let head = self.head_at() + 3 * self.w();
        (head, self.id(self.sheet.word(head).wrapping_add(1)))
    }

    /// `desc_reserve()` and the beginning of `prb_reserve()`.
    fn take(&mut self) -> u64 {
        let id = self.take_id_only();
        let place = self.place(id);
        self.set_desc(place, id, RESERVED, None);
        let info = self.info_at(id);
        let seq = self.sheet.number(info, 8);
        let stride = self.plan.info_stride - self.plan.unknown()[2];
        self.sheet.put(info, &vec![0; stride]);
        let seq = match seq {
            0 if place != 0 => place as u64,
            _ => seq.wrapping_add(self.count()),
        };
        self.sheet.put_number(info, seq, 8);
        id
    }

    /// `desc_push_tail()`.
    fn push_desc_tail(&mut self) {
        let tail = self.tail_id();
        let place = self.place(tail);
        let (_, next) = self.blocks(place);
        self.set_desc(place, tail, REUSABLE, None);
        if next & 1 == 0 {
            self.push_text_tail(next);
        }
        let at = self.head_at() + 4 * self.w();
        let tail = self.id(tail.wrapping_add(1));
        self.sheet.put_word(at, tail);
    }

    /// `data_push_tail()`: give up blocks until the oldest is at `lpos`.
    fn push_text_tail(&mut self, lpos: u64) {
        let at = self.text_ring() + 3 * self.w();
        loop {
            let tail = self.sheet.word(at);
            if self.lpos(lpos.wrapping_sub(tail).wrapping_sub(1)) >= self.size() {
                return;
            }
            let block = self.data_at() + (tail & (self.size() - 1)) as usize;
            let id = self.sheet.word(block);
            let place = self.place(id);
            assert_eq!(self.desc_id(place), id, "a block without its descriptor");
            let (begin, next) = self.blocks(place);
            assert_eq!(begin, tail, "a descriptor without its block");
            self.set_desc(place, id, REUSABLE, None);
            self.sheet.put_word(at, next);
        }
    }

    /// `to_blk_size()`.
    fn block_size(&self, text_len: usize) -> u64 {
        ((text_len + self.w()).next_multiple_of(self.w())) as u64
    }

    /// `is_blk_wrapped()`, or before 6.19 the comparison in its place.
    fn wraps(&self, begin: u64, next: u64) -> bool {
        let next = if self.plan.perfect_fit { self.lpos(next.wrapping_sub(1)) } else { next };
        begin / self.size() != next / self.size()
    }

    /// `get_next_lpos()`.
    fn end_of(&self, begin: u64, size: u64) -> u64 {
        let next = self.lpos(begin.wrapping_add(size));
        if !self.wraps(begin, next) {
            return next;
        }
        self.lpos((next & !(self.size() - 1)).wrapping_add(size))
    }

    /// `data_alloc()`.
    fn alloc(&mut self, id: u64, text_len: usize) -> (u64, u64) {
        if text_len == 0 {
            return (3, 3);
        }
        let size = self.block_size(text_len);
        assert!(size <= self.size() / 2, "no kernel stores so long a text");
        let head = self.text_ring() + 2 * self.w();
        let begin = self.sheet.word(head);
        let next = self.end_of(begin, size);
        self.push_text_tail(self.lpos(next.wrapping_sub(self.size())));
        self.sheet.put_word(head, next);
        let block = self.data_at() + (begin & (self.size() - 1)) as usize;
        self.sheet.put_word(block, id);
        if self.wraps(begin, next) {
            let start = self.data_at();
            self.sheet.put_word(start, id);
        }
        (begin, next)
    }

    fn text_at(&self, begin: u64, next: u64) -> usize {
        let begin = if self.wraps(begin, next) { 0 } else { begin & (self.size() - 1) };
        self.data_at() + begin as usize + self.w()
    }

    fn room(&self, begin: u64, next: u64) -> usize {
        let len = match self.wraps(begin, next) {
            true => next & (self.size() - 1),
            false => self.lpos(next.wrapping_sub(begin)),
        };
        len as usize - self.w()
    }
}
