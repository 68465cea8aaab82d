//! Where the fields of 5.10's `struct printk_ringbuffer` and its parts are.
//!
//! Offsets follow from the word size alone; what differs between releases is
//! told apart by self-checks in [`super::ringbuffer`], never by a version.
//! Struct names and fields are those of `kernel/printk/printk_ringbuffer.h`
//! since 5.10 (commit 896fbe20b4e2 "printk: use the lockless ringbuffer").

#![deny(clippy::indexing_slicing)]

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

    /// Bytes of a `struct prb_desc`: `state_var` and `text_blk_lpos`.
    pub(super) const fn desc_size(self) -> u64 {
        3 * self.size
    }

    /// Bytes of `struct printk_ringbuffer` up to and with
    /// `text_data_ring.tail_lpos`, in the longer of its two layouts.
    pub(super) const fn header_size(self) -> usize {
        10 * self.size as usize
    }
}

/// `struct printk_ringbuffer`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub count_bits: u32,
    pub descs: u64,
    pub infos: u64,
    pub data: u64,
    pub marks: Marks,
}

/// The fields of the header that move as the kernel prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub head_id: u64,
    pub tail_id: u64,
    pub head_lpos: u64,
    pub tail_lpos: u64,
}

impl Header {
    /// Read as a header whose `struct prb_desc_ring` is of six words, with
    /// `last_finalized_id` (5.18, later `last_finalized_seq`), or of five.
    /// `None` where the two sizes in it do not fit each other.
    ///
    /// Both sizes are `unsigned int` at the start of a word: reading a word
    /// there would be right on little endian only.
    pub(super) fn parse(bytes: Bytes<'_>, six_words: bool) -> Option<Self> {
        let w = bytes.arch().word.bytes();
        let text = if six_words { 6 * w } else { 5 * w };
        let count_bits = bytes.u32(0)?;
        if bytes.u32(text)? != count_bits.checked_add(AVG_BITS)? {
            return None;
        }
        Some(Self {
            count_bits,
            descs: bytes.word(w)?,
            infos: bytes.word(2 * w)?,
            data: bytes.word(text + w)?,
            marks: Marks {
                head_id: bytes.word(3 * w)?,
                tail_id: bytes.word(4 * w)?,
                head_lpos: bytes.word(text + 2 * w)?,
                tail_lpos: bytes.word(text + 3 * w)?,
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
    pub(super) fn parse(array: Bytes<'_>, words: Words, place: usize) -> Option<Self> {
        let w = words.size as usize;
        let at = place.checked_mul(3 * w)?;
        let var = array.word(at)?;
        Some(Self {
            id: var & words.id_mask,
            state: var >> words.state_shift,
            begin: array.word(at + w)?,
            next: array.word(at + 2 * w)?,
        })
    }
}

/// A `struct printk_info` within an array of them, without its device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    pub seq: u64,
    pub ts_nsec: u64,
    pub text_len: u16,
    pub facility: u8,
    pub flags: u8,
    pub level: u8,
    pub caller_id: u32,
}

impl Info {
    #[inline]
    pub(super) fn parse(array: Bytes<'_>, at: usize) -> Option<Self> {
        let (flags, level) = split_flags(array.u8(at + 19)?, array.arch());
        Some(Self {
            seq: array.u64(at)?,
            ts_nsec: array.u64(at + 8)?,
            text_len: array.u16(at + 16)?,
            facility: array.u8(at + 18)?,
            flags,
            level,
            caller_id: array.u32(at + 20)?,
        })
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

/// The form of `struct printk_info`, whose first 24 bytes never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InfoForm {
    /// From one to the next, in bytes.
    pub stride: usize,
    /// Offset of `dev_info`, where known.
    pub device: Option<usize>,
}

impl InfoForm {
    /// 5.10: `struct dev_printk_info` follows the common fields (commit
    /// 74caba7f2a06 "printk: move dictionary keys to dev_printk_info").
    pub(super) const PLAIN: Self = Self { stride: 88, device: Some(24) };
    /// With `CONFIG_PRINTK_EXECUTION_CTX` (after 6.13): `caller_id2` and
    /// `comm[16]` come between.
    pub(super) const EXECUTION_CTX: Self = Self { stride: 112, device: Some(44) };

    /// The form of that stride; one not known yet has no known device.
    pub(super) const fn of(stride: usize) -> Self {
        match stride {
            88 => Self::PLAIN,
            112 => Self::EXECUTION_CTX,
            _ => Self { stride, device: None },
        }
    }
}

/// `struct dev_printk_info`: `subsystem[16]`, `device[48]`.
pub(super) const SUBSYSTEM_SIZE: usize = 16;
/// The second array of it.
pub(super) const DEVICE_SIZE: usize = 48;
