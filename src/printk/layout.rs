//! Where the fields of 5.10's `struct printk_ringbuffer` and its parts are.
//!
//! In all releases so far offsets follow from the word size, and what differs
//! between them is told apart by self-checks in [`super::ringbuffer`], never
//! by a version. A kernel that is laid out in yet another way may say so by
//! its own types, from which a [`RingLayout`] can be made.
//! Struct names and fields are those of `kernel/printk/printk_ringbuffer.h`
//! since 5.10 (commit 896fbe20b4e2 "printk: use the lockless ringbuffer").

#![deny(clippy::indexing_slicing)]

use super::record::{Caller, Device, Record, State};
use crate::arch::{Arch, Bytes, Endian, Word};

/// `PRB_AVGBITS`: a descriptor for every 32 bytes of text, in static and in
/// dynamic rings alike.
pub(super) const AVG_BITS: u32 = 5;

/// `DESC_STATE()` (0 is `desc_reserved`): `desc_committed`, readable, may
/// still be extended by `pr_cont()`.
pub(super) const COMMITTED: u64 = 1;
/// `desc_finalized`.
pub(super) const FINALIZED: u64 = 2;
/// `desc_reusable`.
pub(super) const REUSABLE: u64 = 3;

/// `NO_LPOS`, later `EMPTY_LINE_LPOS`: a record of no text.
pub(super) const EMPTY_LINE_LPOS: u64 = 3;

/// `LOG_CONT` of `enum printk_info_flags` (before: `enum log_flags`).
pub(super) const LOG_CONT: u8 = 8;

/// The words of one kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// Bytes in one.
    pub size: u64,
    /// All ones: what `unsigned long` arithmetic is modulo of.
    pub mask: u64,
    /// `DESC_ID_MASK`: all but the two bits of state.
    pub id_mask: u64,
    /// `DESC_FLAGS_SHIFT`.
    pub state_shift: u32,
}

impl Words {
    pub(super) const fn of(word: Word) -> Self {
        match word {
            Word::W32 => Self { size: 4, mask: 0xffff_ffff, id_mask: 0x3fff_ffff, state_shift: 30 },
            Word::W64 => Self { size: 8, mask: u64::MAX, id_mask: u64::MAX >> 2, state_shift: 62 },
        }
    }

    /// `a - b` as the kernel computes it on logical positions.
    pub(super) const fn minus(self, a: u64, b: u64) -> u64 {
        a.wrapping_sub(b) & self.mask
    }

    /// `DESC_ID(a - b)`.
    pub(super) const fn id_minus(self, a: u64, b: u64) -> u64 {
        a.wrapping_sub(b) & self.id_mask
    }

    /// `DESC_ID(a + b)`.
    pub(super) const fn id_plus(self, a: u64, b: u64) -> u64 {
        a.wrapping_add(b) & self.id_mask
    }
}

/// What knows the types of one kernel: its BTF.
pub trait Types {
    /// Where a field is in a structure, in bits from its beginning, and of
    /// how many bits it is. A field of a field is `outer.inner`.
    fn field(&self, structure: &str, path: &str) -> Option<(usize, usize)>;
    /// The size of a structure in bytes.
    fn size(&self, structure: &str) -> Option<usize>;
}

/// Who says how the ring is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayoutSource {
    /// We do: it is one that kernels have had.
    #[default]
    Known,
    /// The BTF in the kernel's file.
    FileBtf,
    /// The BTF in guest memory.
    GuestBtf,
}

/// How one kernel's ring is laid out, told by its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    pub(super) source: LayoutSource,
    pub(crate) head: HeadForm,
    pub(crate) desc: DescForm,
    pub(super) info: InfoForm,
}

impl RingLayout {
    /// The layout that `types` tell, of a kernel compiled for `arch`; `None`
    /// where they lack a field, or have one that cannot be what it was.
    #[must_use]
    pub fn from_types(types: &dyn Types, arch: Arch, source: LayoutSource) -> Option<Self> {
        // A block is its id, then text, in every arithmetic of the ring.
        let word = arch.word.bytes();
        if types.field("prb_data_block", "data")?.0 != 8 * word {
            return None;
        }
        let layout = Self {
            source,
            head: HeadForm::from_types(types, word)?,
            desc: DescForm::from_types(types, word)?,
            info: InfoForm::from_types(types, arch)?,
        };
        let sizes = [layout.head.size, layout.desc.size, layout.info.stride];
        sizes.into_iter().all(|size| size <= LARGEST).then_some(layout)
    }

    /// Whether it is one of those that are known without being told.
    #[must_use]
    pub fn is_known(&self, word: Word) -> bool {
        HeadForm::known(word).contains(&self.head)
            && self.desc == DescForm::known(word)
            && self.info.is_known()
    }
}

/// No structure of the ring is larger, in bytes.
pub(super) const LARGEST: usize = 4096;

/// A number within a structure: whole bytes, or some bits of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    offset: usize,
    /// Bytes to read: 1, 2, 4 or 8.
    size: usize,
    shift: u32,
    mask: u64,
}

impl Field {
    /// A number of `size` bytes.
    const fn bytes(offset: usize, size: usize) -> Self {
        Self { offset, size, shift: 0, mask: u64::MAX >> (64 - 8 * size) }
    }

    /// `bits` bits from bit `at` on, which counts from the least significant
    /// end of a byte on little endian and from the other on big.
    fn bits((at, bits): (usize, usize), endian: Endian) -> Option<Self> {
        let (offset, skip) = (at / 8, at % 8);
        let size = (skip + bits).div_ceil(8).next_power_of_two();
        if !(1..=64).contains(&bits) || size > 8 {
            return None;
        }
        let shift = match endian {
            Endian::Little => skip,
            Endian::Big => 8 * size - skip - bits,
        };
        Some(Self { offset, size, shift: shift as u32, mask: u64::MAX >> (64 - bits) })
    }

    /// The number, in a structure that begins at `start`.
    #[inline]
    fn get(self, bytes: Bytes<'_>, start: usize) -> Option<u64> {
        let at = start.checked_add(self.offset)?;
        let raw = match self.size {
            1 => bytes.u8(at)?.into(),
            2 => bytes.u16(at)?.into(),
            4 => bytes.u32(at)?.into(),
            _ => bytes.u64(at)?,
        };
        Some(raw >> self.shift & self.mask)
    }
}

/// The offset of a field that must be of so many bytes.
fn whole(types: &dyn Types, (structure, path): (&str, &str), size: usize) -> Option<usize> {
    let (at, bits) = types.field(structure, path)?;
    (at % 8 == 0 && bits == 8 * size).then_some(at / 8)
}

/// Offsets in `struct printk_ringbuffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadForm {
    /// Bytes up to and with all that is listed here.
    pub size: usize,
    pub count_bits: usize,
    descs: usize,
    infos: usize,
    head_id: usize,
    tail_id: usize,
    pub size_bits: usize,
    data: usize,
    head_lpos: usize,
    tail_lpos: usize,
}

impl HeadForm {
    /// Its `struct prb_desc_ring` is of six words, with `last_finalized_id`
    /// (5.18, later `last_finalized_seq`), or of five.
    ///
    /// Six words first: their last one may hold any number, also one that
    /// makes the header look like five; the reverse needs a text buffer at an
    /// address of some 30 bytes.
    pub(crate) const fn known(word: Word) -> [Self; 2] {
        [Self::with_text_at(word, 6), Self::with_text_at(word, 5)]
    }

    const fn with_text_at(word: Word, words: usize) -> Self {
        let w = word.bytes();
        let text = words * w;
        Self {
            size: text + 4 * w,
            count_bits: 0,
            descs: w,
            infos: 2 * w,
            head_id: 3 * w,
            tail_id: 4 * w,
            size_bits: text,
            data: text + w,
            head_lpos: text + 2 * w,
            tail_lpos: text + 3 * w,
        }
    }

    fn from_types(types: &dyn Types, word: usize) -> Option<Self> {
        let field = |path, size| whole(types, ("printk_ringbuffer", path), size);
        let mut form = Self {
            size: 0,
            count_bits: field("desc_ring.count_bits", 4)?,
            descs: field("desc_ring.descs", word)?,
            infos: field("desc_ring.infos", word)?,
            head_id: field("desc_ring.head_id", word)?,
            tail_id: field("desc_ring.tail_id", word)?,
            size_bits: field("text_data_ring.size_bits", 4)?,
            data: field("text_data_ring.data", word)?,
            head_lpos: field("text_data_ring.head_lpos", word)?,
            tail_lpos: field("text_data_ring.tail_lpos", word)?,
        };
        let words = [form.descs, form.infos, form.head_id, form.tail_id];
        let text = [form.data, form.head_lpos, form.tail_lpos];
        let ends = words.into_iter().chain(text).map(|at| at + word);
        form.size = ends.chain([form.count_bits + 4, form.size_bits + 4]).max()?;
        Some(form)
    }
}

/// Offsets in `struct prb_desc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescForm {
    /// From one to the next, in bytes.
    pub size: usize,
    pub state_var: usize,
    begin: usize,
    next: usize,
}

impl DescForm {
    /// `state_var` and `text_blk_lpos`.
    pub(crate) const fn known(word: Word) -> Self {
        let w = word.bytes();
        Self { size: 3 * w, state_var: 0, begin: w, next: 2 * w }
    }

    fn from_types(types: &dyn Types, word: usize) -> Option<Self> {
        let field = |path| whole(types, ("prb_desc", path), word);
        Some(Self {
            size: types.size("prb_desc").filter(|size| *size > 0)?,
            state_var: field("state_var")?,
            begin: field("text_blk_lpos.begin")?,
            next: field("text_blk_lpos.next")?,
        })
    }
}

/// `struct printk_ringbuffer`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub count_bits: u32,
    pub descs: u64,
    pub infos: u64,
    pub data: u64,
    pub marks: Marks,
}

/// The fields of the header that move as the kernel prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub head_id: u64,
    pub tail_id: u64,
    pub head_lpos: u64,
    pub tail_lpos: u64,
}

impl Header {
    /// Read as a header of that form; `None` where the two sizes in it do not
    /// fit each other.
    ///
    /// Both sizes are `unsigned int` at the start of a word: reading a word
    /// there would be right on little endian only.
    pub(crate) fn parse(bytes: Bytes<'_>, form: &HeadForm) -> Option<Self> {
        let count_bits = bytes.u32(form.count_bits)?;
        if bytes.u32(form.size_bits)? != count_bits.checked_add(AVG_BITS)? {
            return None;
        }
        Some(Self {
            count_bits,
            descs: bytes.word(form.descs)?,
            infos: bytes.word(form.infos)?,
            data: bytes.word(form.data)?,
            marks: Marks {
                head_id: bytes.word(form.head_id)?,
                tail_id: bytes.word(form.tail_id)?,
                head_lpos: bytes.word(form.head_lpos)?,
                tail_lpos: bytes.word(form.tail_lpos)?,
            },
        })
    }
}

/// A `struct prb_desc`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desc {
    pub id: u64,
    pub state: u64,
    pub begin: u64,
    pub next: u64,
}

impl Desc {
    /// The descriptor at `place` of an array of them.
    #[inline]
    pub(super) fn parse(
        array: Bytes<'_>,
        words: Words,
        form: &DescForm,
        place: usize,
    ) -> Option<Self> {
        let at = place.checked_mul(form.size)?;
        let var = array.word(at.checked_add(form.state_var)?)?;
        Some(Self {
            id: var & words.id_mask,
            state: var >> words.state_shift,
            begin: array.word(at.checked_add(form.begin)?)?,
            next: array.word(at.checked_add(form.next)?)?,
        })
    }
}

/// A `struct printk_info` within an array of them, without its device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    pub seq: u64,
    pub ts_nsec: u64,
    pub text_len: usize,
    pub facility: u8,
    pub flags: u8,
    pub level: u8,
    pub caller_id: u32,
}

impl Info {
    /// The record it is of, with its text.
    pub(super) fn record(
        &self,
        device: Option<Box<Device>>,
        text: Vec<u8>,
        state: State,
    ) -> Record {
        Record {
            seq: self.seq,
            ts_nsec: Some(self.ts_nsec),
            level: self.level,
            facility: self.facility,
            continues: self.flags & LOG_CONT != 0,
            caller: Some(Caller::from_id(self.caller_id)),
            device,
            text,
            state,
        }
    }
}

/// `u8 flags:5; u8 level:3;`: the compiler fills a byte from its least
/// significant bit on little endian and from the most significant on big.
/// Returns (flags, level).
#[inline]
pub(super) const fn split_flags(byte: u8, arch: Arch) -> (u8, u8) {
    match arch.endian {
        Endian::Little => (byte & 0x1f, byte >> 5),
        Endian::Big => (byte >> 3, byte & 0x07),
    }
}

/// The form of `struct printk_info`, whose first 24 bytes are the same in
/// all that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InfoForm {
    /// From one to the next, in bytes.
    pub stride: usize,
    seq: usize,
    /// Where the other numbers are, if not where they always were.
    told: Option<Told>,
    /// `dev_info`, where known: `subsystem` and `device`, each with its size.
    device: Option<[(usize, usize); 2]>,
}

/// Fields of a `struct printk_info` that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    ts_nsec: Field,
    text_len: Field,
    facility: Field,
    flags: Field,
    level: Field,
    caller_id: Field,
}

impl InfoForm {
    /// 5.10: `struct dev_printk_info` follows the common fields (commit
    /// 74caba7f2a06 "printk: move dictionary keys to dev_printk_info").
    pub(super) const PLAIN: Self = Self::with_device(88, 24);
    /// With `CONFIG_PRINTK_EXECUTION_CTX` (after 6.13): `caller_id2` and
    /// `comm[16]` come between.
    pub(super) const EXECUTION_CTX: Self = Self::with_device(112, 44);

    /// `struct dev_printk_info` is `subsystem[16]`, `device[48]`.
    const fn with_device(stride: usize, at: usize) -> Self {
        Self { stride, seq: 0, told: None, device: Some([(at, 16), (at + 16, 48)]) }
    }

    /// The form of that stride; one not known yet has no known device.
    pub(super) const fn of(stride: usize) -> Self {
        match stride {
            88 => Self::PLAIN,
            112 => Self::EXECUTION_CTX,
            _ => Self { stride, seq: 0, told: None, device: None },
        }
    }

    /// Whether it is one that kernels have had.
    pub(super) fn is_known(&self) -> bool {
        [Self::PLAIN, Self::EXECUTION_CTX].contains(self)
    }

    fn from_types(types: &dyn Types, arch: Arch) -> Option<Self> {
        let place = |path| types.field("printk_info", path);
        let field = |path| Field::bits(place(path)?, arch.endian);
        let told = Told {
            ts_nsec: field("ts_nsec")?,
            text_len: field("text_len")?,
            facility: field("facility")?,
            flags: field("flags")?,
            level: field("level")?,
            caller_id: field("caller_id")?,
        };
        let array = |path| {
            let (at, bits) = place(path)?;
            Some((at / 8, bits / 8))
        };
        let form = Self {
            stride: types.size("printk_info").filter(|size| *size > 0)?,
            seq: whole(types, ("printk_info", "seq"), 8)?,
            told: Some(told),
            device: array("dev_info.subsystem").zip(array("dev_info.device")).map(Into::into),
        };
        // The same by another name.
        let same = |known: &Self| {
            (known.stride, known.seq, known.device) == (form.stride, form.seq, form.device)
        };
        let usual = told == Told::usual(arch.endian)?;
        let known = [Self::PLAIN, Self::EXECUTION_CTX].into_iter().find(same);
        Some(known.filter(|_| usual).unwrap_or(form))
    }

    /// The sequence number of the info at `at`.
    #[inline]
    pub(super) fn seq(&self, array: Bytes<'_>, at: usize) -> Option<u64> {
        array.u64(at.checked_add(self.seq)?)
    }

    /// The info at `at`.
    #[inline]
    pub(super) fn info(&self, array: Bytes<'_>, at: usize) -> Option<Info> {
        if let Some(told) = &self.told {
            return Some(Info {
                seq: self.seq(array, at)?,
                ts_nsec: told.ts_nsec.get(array, at)?,
                text_len: usize::try_from(told.text_len.get(array, at)?).ok()?,
                facility: told.facility.get(array, at)? as u8,
                flags: told.flags.get(array, at)? as u8,
                level: told.level.get(array, at)? as u8,
                caller_id: told.caller_id.get(array, at)? as u32,
            });
        }
        let (flags, level) = split_flags(array.u8(at + 19)?, array.arch());
        Some(Info {
            seq: array.u64(at)?,
            ts_nsec: array.u64(at + 8)?,
            text_len: array.u16(at + 16)?.into(),
            facility: array.u8(at + 18)?,
            flags,
            level,
            caller_id: array.u32(at + 20)?,
        })
    }

    /// The `struct dev_printk_info` of the info at `at`: its two arrays.
    #[inline]
    pub(super) fn device<'a>(&self, infos: Bytes<'a>, at: usize) -> Option<[&'a [u8]; 2]> {
        let [subsystem, device] = self.device?;
        let array = |(offset, len): (usize, usize)| infos.slice(at.checked_add(offset)?, len);
        Some([array(subsystem)?, array(device)?])
    }
}

impl Told {
    /// Where they are in all kernels that are known.
    fn usual(endian: Endian) -> Option<Self> {
        Some(Self {
            ts_nsec: Field::bytes(8, 8),
            text_len: Field::bytes(16, 2),
            facility: Field::bytes(18, 1),
            flags: Field::bits((19 * 8, 5), endian)?,
            level: Field::bits((19 * 8 + 5, 3), endian)?,
            caller_id: Field::bytes(20, 4),
        })
    }
}
