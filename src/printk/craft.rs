//! Log buffers made to order: exact memory images of what kernels write.
//!
//! For tests and fuzzers only. The writers here are the kernel's own
//! algorithms written once more from its side, down to where a block goes
//! and which descriptor is given up for it, so that a decoder that
//! misunderstands them does not find its own misunderstanding confirmed.

mod btf;
mod bytes;
mod ring;
mod running;
mod variable;

pub use btf::btf;
pub use bytes::ByteWriter;
pub use ring::{RingPlan, RingWriter};
pub use running::{Running, Writer};
pub use variable::{ContForm, VariablePlan, VariableWriter};

use crate::arch::{Arch, Endian, Word};
use crate::guest::{AddressRule, Image, View};

/// Where the variables `log_buf` and `log_buf_len` are, and the buffer, in an
/// image of before 5.10.
const LOG_BUF: usize = 0;
const LOG_BUF_LEN: usize = 8;
const BUFFER: usize = 0x800;

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
