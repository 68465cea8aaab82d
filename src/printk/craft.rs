//! Log buffers made to order: exact memory images of what kernels write.
//!
//! For tests and fuzzers only. The writers here are the kernel's own
//! algorithms written once more from its side, down to where a block goes
//! and which descriptor is given up for it, so that a decoder that
//! misunderstands them does not find its own misunderstanding confirmed.

mod running;

pub use running::{Running, Writer};

use crate::arch::{Arch, Endian, Word};
use crate::guest::{AddressRule, Image, View};

/// Memory that is written by offset in one kernel's order of bytes.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// What the numbers are written as.
    pub arch: Arch,
    /// Real address of the first byte.
    pub base: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Sheet {
    /// Zeros.
    #[must_use]
    pub fn new(arch: Arch, base: u64, len: usize) -> Self {
        Self { arch, base, bytes: vec![0; len] }
    }

    /// The usual address rule of the kernel.
    #[must_use]
    pub const fn rule(&self) -> AddressRule {
        match self.arch.word {
            Word::W32 => AddressRule::PPC32,
            Word::W64 => AddressRule::Linear64,
        }
    }

    /// Effective address of a byte.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        self.rule().effective(self.base + offset as u64)
    }

    /// Write bytes.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Write `size` bytes of a number.
    pub fn put_number(&mut self, offset: usize, number: u64, size: usize) {
        match self.arch.endian {
            Endian::Little => self.put(offset, &number.to_le_bytes()[..size]),
            Endian::Big => self.put(offset, &number.to_be_bytes()[8 - size..]),
        }
    }

    /// Write an `unsigned long`.
    pub fn put_word(&mut self, offset: usize, number: u64) {
        self.put_number(offset, number, self.arch.word.bytes());
    }

    /// Read `size` bytes of a number.
    #[must_use]
    pub fn number(&self, offset: usize, size: usize) -> u64 {
        let bytes = &self.bytes[offset..offset + size];
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        match self.arch.endian {
            Endian::Little => bytes.iter().rev().fold(0, add),
            Endian::Big => bytes.iter().fold(0, add),
        }
    }

    /// Read an `unsigned long`.
    #[must_use]
    pub fn word(&self, offset: usize) -> u64 {
        self.number(offset, self.arch.word.bytes())
    }

    /// The byte of `flags:5, level:3`.
    #[must_use]
    pub fn flags(&self, flags: u8, level: u8) -> u8 {
        match self.arch.endian {
            Endian::Little => flags | level << 5,
            Endian::Big => level | flags << 3,
        }
    }

    /// Guest RAM that holds this.
    #[must_use]
    pub fn image(&self) -> Image {
        Image::new(self.base, self.bytes.clone())
    }

    /// Look at memory as this kernel.
    #[must_use]
    pub fn view<'a>(&self, image: &'a Image) -> View<'a> {
        View::new(image, self.arch, self.rule())
    }
}

/// What a record is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The text.
    pub text: Vec<u8>,
    /// Severity.
    pub level: u8,
    /// Facility.
    pub facility: u8,
    /// `LOG_*` flags.
    pub flags: u8,
    /// Nanoseconds.
    pub ts_nsec: u64,
    /// Who printed.
    pub caller_id: u32,
    /// `SUBSYSTEM=` and `DEVICE=`.
    pub device: Option<(Vec<u8>, Vec<u8>)>,
}

impl Line {
    /// An informational line.
    #[must_use]
    pub fn new(text: impl Into<Vec<u8>>) -> Self {
        Self { text: text.into(), level: 6, ..Self::default() }
    }
}

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
    const fn unknown(&self) -> [usize; 3] {
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

/// The BTF of such a kernel, as far as it is about the ring: pahole's.
#[must_use]
pub fn btf(plan: RingPlan) -> Vec<u8> {
    let w = plan.arch.word.bytes();
    let [head, desc, info] = plan.unknown();
    let mut types = BtfWriter::new(plan.arch);
    let int = |types: &mut BtfWriter, size: usize| types.add("int", 1, 0, size, &[8 * size as u32]);
    let (byte, half, number) = (int(&mut types, 1), int(&mut types, 2), int(&mut types, 4));
    let (long, wide) = (int(&mut types, w), int(&mut types, 8));
    let flags = types.add("u8", 8, 0, byte as usize, &[]);
    let pointer = types.add("", 2, 0, byte as usize, &[]);
    let mut array = |count: u32| types.add("", 3, 0, 0, &[byte, number, count]);
    let (names, name, none) = (array(16), array(48), array(0));
    let at = |words: usize| 8 * (words * w) as u32;
    let counter = types.members("", w, &[("counter", long, 0, 0)]);
    let counter = types.add("atomic_long_t", 8, 0, counter as usize, &[]);
    let lpos = [("begin", long, 0, 0), ("next", long, at(1), 0)];
    let lpos = types.members("prb_data_blk_lpos", 2 * w, &lpos);
    types.members("prb_data_block", w, &[("id", long, 0, 0), ("data", none, at(1), 0)]);
    let past = 8 * desc as u32;
    let fields = [("state_var", counter, past, 0), ("text_blk_lpos", lpos, past + at(1), 0)];
    types.members("prb_desc", 3 * w + desc, &fields);
    let device = [("subsystem", names, 0, 0), ("device", name, 128, 0)];
    let device = types.members("dev_printk_info", 64, &device);
    let past = 8 * info as u32;
    let dev_info = if plan.info_stride == 112 { 44 } else { 24 };
    let fields = [
        ("seq", wide, past, 0),
        ("ts_nsec", wide, past + 64, 0),
        ("text_len", half, past + 128, 0),
        ("facility", byte, past + 144, 0),
        ("flags", flags, past + 152, 5),
        ("level", flags, past + 157, 3),
        ("caller_id", number, past + 160, 0),
        ("dev_info", device, past + 8 * dev_info, 0),
    ];
    types.members("printk_info", plan.info_stride, &fields);
    let words = if plan.six_words { 6 } else { 5 };
    let ring = [
        ("count_bits", number, 0, 0),
        ("descs", pointer, at(1), 0),
        ("infos", pointer, at(2), 0),
        ("head_id", counter, at(3), 0),
        ("tail_id", counter, at(4), 0),
    ];
    let ring = types.members("prb_desc_ring", words * w, &ring);
    let text = [
        ("size_bits", number, 0, 0),
        ("data", pointer, at(1), 0),
        ("head_lpos", counter, at(2), 0),
        ("tail_lpos", counter, at(3), 0),
    ];
    let text = types.members("prb_data_ring", 4 * w, &text);
    let past = 8 * head as u32;
    let fields = [("desc_ring", ring, past, 0), ("text_data_ring", text, past + at(words), 0)];
    types.members("printk_ringbuffer", head + (words + 5) * w, &fields);
    types.finish()
}

/// Writes BTF, type by type.
struct BtfWriter {
    arch: Arch,
    types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl BtfWriter {
    const fn new(arch: Arch) -> Self {
        Self { arch, types: Vec::new(), strings: Vec::new(), count: 0 }
    }

    fn string(&mut self, text: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A type of that kind; returns its number.
    fn add(&mut self, name: &str, kind: u32, count: u32, size: usize, rest: &[u32]) -> u32 {
        let name = self.string(name);
        let flag = u32::from(kind == 4) << 31;
        self.types.extend([name, flag | kind << 24 | count, size as u32]);
        self.types.extend(rest);
        self.count += 1;
        self.count
    }

    /// A structure: each member's name, type, first bit, and number of bits
    /// where it is a bit field.
    fn members(&mut self, name: &str, size: usize, members: &[(&str, u32, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (name, number, bit, bits) in members {
            rest.extend([self.string(name), *number, bits << 24 | bit]);
        }
        self.add(name, 4, members.len() as u32, size, &rest)
    }

    fn finish(self) -> Vec<u8> {
        let types = 4 * self.types.len();
        let mut sheet = Sheet::new(self.arch, 0, 24 + types);
        sheet.put_number(0, 0xeb9f, 2);
        sheet.put_number(2, 1, 1);
        let header = [24, 0, types, types, self.strings.len()];
        let header = header.into_iter().map(|number| number as u64);
        let all = header.chain(self.types.iter().map(|number| u64::from(*number)));
        for (nth, number) in all.enumerate() {
            sheet.put_number(4 + 4 * nth, number, 4);
        }
        [sheet.bytes, self.strings].concat()
    }
}

/// Which kernel writes variable records (3.5 to 5.9).
#[derive(Clone, Copy, Debug)]
pub struct VariablePlan {
    /// Word size and byte order.
    pub arch: Arch,
    /// Real address of the image.
    pub base: u64,
    /// `sizeof(struct printk_log)`: 16; with `caller_id` 20 or 24.
    pub header: usize,
    /// `LOG_ALIGN`: 4 or 8.
    pub align: usize,
    /// `log_buf_len`.
    pub size: usize,
    /// The form of `struct cont`.
    pub cont: ContForm,
}

/// The forms of `struct cont`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContForm {
    /// 3.5: `buf[1024]`, `len`, `cons`, `owner`.
    First,
    /// Up to 4.9: the same behind `buf[992]`.
    Early,
    /// 4.10: `len`, `owner`.
    Middle,
    /// 5.1: `len`, `caller_id`.
    Late,
    /// 5.1 with `CONFIG_PRINTK_CALLER`: the same behind `buf[976]`.
    LateCaller,
}

impl VariablePlan {
    /// 4.19 ppc64le, small.
    pub const SMALL: Self = Self {
        arch: Arch::PPC64LE,
        base: 0x0100_0000,
        header: 16,
        align: 4,
        size: 4096,
        cont: ContForm::Middle,
    };
}

/// Writes variable records as the kernel does.
#[derive(Clone, Debug)]
pub struct VariableWriter {
    plan: VariablePlan,
    /// The memory so far.
    pub sheet: Sheet,
}

/// Where the variables are.
const LOG_BUF: usize = 0;
const LOG_BUF_LEN: usize = 8;
const FIRST_SEQ: usize = 16;
const NEXT_SEQ: usize = 24;
const FIRST_IDX: usize = 32;
const NEXT_IDX: usize = 36;
const CONT: usize = 0x100;
const BUFFER: usize = 0x800;

impl VariableWriter {
    /// An empty log.
    #[must_use]
    pub fn new(plan: VariablePlan) -> Self {
        let mut sheet = Sheet::new(plan.arch, plan.base, BUFFER + plan.size + 64);
        let buffer = sheet.address(BUFFER);
        sheet.put_word(LOG_BUF, buffer);
        sheet.put_number(LOG_BUF_LEN, plan.size as u64, 4);
        Self { plan, sheet }
    }

    /// Effective address and offset of the buffer.
    #[must_use]
    pub fn buffer(&self) -> (u64, usize) {
        (self.sheet.address(BUFFER), BUFFER)
    }

    /// Effective addresses of the variables.
    #[must_use]
    pub fn symbols(&self) -> super::variable::VariableSymbols {
        let at = |offset| self.sheet.address(offset);
        super::variable::VariableSymbols {
            log_buf: at(LOG_BUF),
            log_buf_len: at(LOG_BUF_LEN),
            first_seq: at(FIRST_SEQ),
            first_idx: at(FIRST_IDX),
            next_seq: at(NEXT_SEQ),
            next_idx: at(NEXT_IDX),
            cont: Some(at(CONT)),
        }
    }

    /// Sequence number of the oldest record.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.sheet.number(FIRST_SEQ, 8)
    }

    /// Offset in the buffer where the next record goes.
    #[must_use]
    pub fn next_idx(&self) -> usize {
        self.sheet.number(NEXT_IDX, 4) as usize
    }

    /// `log_store()`. Returns the offset of the record in the buffer.
    pub fn print(&mut self, line: &Line) -> usize {
        let dict = line.device.as_ref().map_or_else(Vec::new, |(subsystem, device)| {
            [&b"SUBSYSTEM="[..], subsystem, b"\0DEVICE=", device].concat()
        });
        let used = self.plan.header + line.text.len() + dict.len();
        let size = used.next_multiple_of(self.plan.align);
        while self.first_seq() < self.sheet.number(NEXT_SEQ, 8) && !self.has_space(size) {
            let first = self.after(self.sheet.number(FIRST_IDX, 4) as usize);
            self.sheet.put_number(FIRST_IDX, first as u64, 4);
            let seq = self.first_seq() + 1;
            self.sheet.put_number(FIRST_SEQ, seq, 8);
        }
        let mut idx = self.next_idx();
        if idx + size + self.plan.header > self.plan.size {
            let header = vec![0; self.plan.header];
            self.sheet.put(BUFFER + idx, &header);
            idx = 0;
        }
        let at = BUFFER + idx;
        let flags = self.sheet.flags(line.flags, line.level);
        let sheet = &mut self.sheet;
        sheet.put_number(at, line.ts_nsec, 8);
        sheet.put_number(at + 8, size as u64, 2);
        sheet.put_number(at + 10, line.text.len() as u64, 2);
        sheet.put_number(at + 12, dict.len() as u64, 2);
        sheet.put(at + 14, &[line.facility, flags]);
        if self.plan.header > 16 {
            sheet.put_number(at + 16, u64::from(line.caller_id), 4);
        }
        sheet.put(at + self.plan.header, &line.text);
        sheet.put(at + self.plan.header + line.text.len(), &dict);
        sheet.put(at + used, &[0; 8][..size - used]);
        sheet.put_number(NEXT_IDX, (idx + size) as u64, 4);
        let seq = sheet.number(NEXT_SEQ, 8) + 1;
        sheet.put_number(NEXT_SEQ, seq, 8);
        idx
    }

    /// Leave a line open in `cont`; an empty one is as after its end.
    pub fn open(&mut self, line: &Line) {
        let w = self.plan.arch.word.bytes();
        let task = self.sheet.address(0x40);
        let sheet = &mut self.sheet;
        sheet.put(CONT, &line.text);
        let (end, owner) = match self.plan.cont {
            ContForm::First => (1024, Some(2)),
            ContForm::Early => (992, Some(2)),
            ContForm::Middle => (992, Some(1)),
            ContForm::Late => (992, None),
            ContForm::LateCaller => (976, None),
        };
        sheet.put_word(CONT + end, line.text.len() as u64);
        let time = match owner {
            Some(nth) => {
                sheet.put_word(CONT + end + nth * w, task);
                end + (nth + 1) * w
            }
            None => {
                sheet.put_number(CONT + end + w, u64::from(line.caller_id), 4);
                end + w + 4
            }
        };
        let time = CONT + time.next_multiple_of(8);
        sheet.put_number(time, line.ts_nsec, 8);
        sheet.put(time + 8, &[line.level, line.facility]);
        sheet.put_number(time + 12, u64::from(line.flags), 4);
    }

    /// `logbuf_has_space()`.
    fn has_space(&self, size: usize) -> bool {
        let (first, next) = (self.sheet.number(FIRST_IDX, 4) as usize, self.next_idx());
        let free = if next > first { (self.plan.size - next).max(first) } else { first - next };
        free >= size + self.plan.header
    }

    /// `log_next()`.
    fn after(&self, idx: usize) -> usize {
        let len = |idx: usize| self.sheet.number(BUFFER + idx + 8, 2) as usize;
        if len(idx) == 0 { len(0) } else { idx + len(idx) }
    }
}

/// Writes a byte ring as kernels before 3.5 do.
#[derive(Clone, Debug)]
pub struct ByteWriter {
    size: usize,
    long_end: bool,
    /// The memory so far.
    pub sheet: Sheet,
}

const LOG_END: usize = 16;
const LOGGED_CHARS: usize = 24;

impl ByteWriter {
    /// An empty ring of `size` bytes; `long_end` as up to 2.6.24.
    #[must_use]
    pub fn new(arch: Arch, size: usize, long_end: bool) -> Self {
        let mut sheet = Sheet::new(arch, 0x0040_0000, BUFFER + size + 64);
        let buffer = sheet.address(BUFFER);
        sheet.put_word(LOG_BUF, buffer);
        sheet.put_number(LOG_BUF_LEN, size as u64, 4);
        Self { size, long_end, sheet }
    }

    /// Effective addresses of the variables.
    #[must_use]
    pub fn symbols(&self) -> super::bytes::ByteSymbols {
        let at = |offset| self.sheet.address(offset);
        super::bytes::ByteSymbols {
            log_buf: at(LOG_BUF),
            log_buf_len: at(LOG_BUF_LEN),
            log_end: at(LOG_END),
            logged_chars: Some(at(LOGGED_CHARS)),
        }
    }

    /// Effective address of the buffer.
    #[must_use]
    pub fn buffer(&self) -> u64 {
        self.sheet.address(BUFFER)
    }

    /// How many characters were stored so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.sheet.number(LOG_END, self.end_size())
    }

    /// `emit_log_char()` for each.
    pub fn emit(&mut self, text: &[u8]) {
        let size = self.end_size();
        for byte in text {
            let end = self.end();
            let place = BUFFER + end as usize % self.size;
            self.sheet.put(place, &[*byte]);
            self.sheet.put_number(LOG_END, end + 1, size);
            let chars = self.sheet.number(LOGGED_CHARS, 4);
            self.sheet.put_number(LOGGED_CHARS, (chars + 1).min(self.size as u64), 4);
        }
    }

    fn end_size(&self) -> usize {
        if self.long_end { self.sheet.arch.word.bytes() } else { 4 }
    }
}
