//! Guest memory: reading it by real address, whatever holds it.
//!
//! A [`Memory`] is the guest's RAM, of a running QEMU or of a dump file; a
//! [`View`] is the same memory as one kernel sees it, by effective address.
//! Nothing here knows what the bytes mean.

#![forbid(unsafe_code)]

pub mod address;
pub mod cpu;
pub mod dump;
pub mod live;

use std::fmt;
use std::ops::Range;

use crate::arch::Arch;
pub use address::AddressRule;
pub use cpu::Cpu;
pub use live::LiveMemory;

/// Why guest memory could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// `address .. address + len` is not (all) RAM, by real address.
    NotRam {
        /// Where the read began.
        address: u64,
        /// How many bytes were asked for.
        len: u64,
    },
    /// An effective address that no rule maps to a real one.
    Unmapped(u64),
    /// QEMU has ended.
    Gone,
    /// QEMU did not answer in time.
    Silent,
    /// QEMU refused, in its own words.
    Refused(String),
    /// The user cancelled a long read.
    Cancelled,
    /// The host failed.
    Io(std::io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRam { address, len } => {
                write!(f, "{len} bytes at real address {address:#x} are not guest RAM")
            }
            Self::Unmapped(address) => write!(f, "effective address {address:#x} is not mapped"),
            Self::Gone => f.write_str("QEMU has ended"),
            Self::Silent => f.write_str("QEMU does not answer its monitor"),
            Self::Refused(words) => write!(f, "QEMU refused: {words}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Io(error) => f.write_str(&crate::sys::reason(error)),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// The guest's RAM, by real address.
pub trait Memory {
    /// Fill `buf` with the bytes at real address `real`; all or nothing.
    ///
    /// # Errors
    /// [`ReadError::NotRam`] when any byte of it is outside RAM, else as the
    /// holder of the memory fails.
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError>;

    /// Where RAM is: disjoint ranges of real addresses, ascending.
    fn ram(&self) -> &[Range<u64>];
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(real, buf)
    }
    fn ram(&self) -> &[Range<u64>] {
        (**self).ram()
    }
}

impl<M: Memory + ?Sized> Memory for Box<M> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(real, buf)
    }
    fn ram(&self) -> &[Range<u64>] {
        (**self).ram()
    }
}

/// Whether `len` bytes at `real` lie within one of `ram`'s ranges.
#[must_use]
pub fn is_ram(ram: &[Range<u64>], real: u64, len: u64) -> bool {
    real.checked_add(len).is_some_and(|end| {
        let range = ram.get(ram.partition_point(|range| range.end < end));
        range.is_some_and(|range| range.start <= real)
    })
}

/// The one of `ram`'s ranges that holds `real`. A dump may have a million.
#[must_use]
pub fn ram_at(ram: &[Range<u64>], real: u64) -> Option<&Range<u64>> {
    let range = ram.get(ram.partition_point(|range| range.end <= real));
    range.filter(|range| range.start <= real)
}

/// Guest memory as one kernel sees it: by effective address, with its word
/// size and byte order.
#[derive(Clone, Copy)]
pub struct View<'a> {
    memory: &'a dyn Memory,
    arch: Arch,
    rule: AddressRule,
}

impl<'a> View<'a> {
    /// The kernel's view of `memory`.
    #[must_use]
    pub fn new(memory: &'a dyn Memory, arch: Arch, rule: AddressRule) -> Self {
        Self { memory, arch, rule }
    }

    /// Word size and byte order.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// How effective addresses become real ones.
    #[must_use]
    pub const fn rule(&self) -> AddressRule {
        self.rule
    }

    /// The memory behind.
    #[must_use]
    pub const fn memory(&self) -> &'a dyn Memory {
        self.memory
    }

    /// The real address of `len` bytes at `effective`, if all are RAM.
    #[must_use]
    pub fn real(&self, effective: u64, len: u64) -> Option<u64> {
        let real = self.rule.real(effective)?;
        is_ram(self.memory.ram(), real, len).then_some(real)
    }

    /// Fill `buf` from an effective address.
    ///
    /// # Errors
    /// [`ReadError::Unmapped`] where the address is no kernel address,
    /// otherwise as [`Memory::read`].
    pub fn read(&self, effective: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let real = self.rule.real(effective).ok_or(ReadError::Unmapped(effective))?;
        self.memory.read(real, buf)
    }

    /// `len` bytes from an effective address. The length is the caller's to
    /// bound: it is checked against RAM before anything is allocated.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn bytes(&self, effective: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let real = self.rule.real(effective).ok_or(ReadError::Unmapped(effective))?;
        if !is_ram(self.memory.ram(), real, len as u64) {
            return Err(ReadError::NotRam { address: real, len: len as u64 });
        }
        let mut buf = vec![0; len];
        self.memory.read(real, &mut buf)?;
        Ok(buf)
    }

    /// One `unsigned long` or pointer.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn word(&self, effective: u64) -> Result<u64, ReadError> {
        let mut raw = [0; 8];
        let size = self.arch.word.bytes();
        let raw = &mut raw[..size];
        self.read(effective, raw)?;
        crate::arch::Bytes::new(raw, self.arch).word(0).ok_or(ReadError::Unmapped(effective))
    }
}

/// RAM that is at hand as bytes: a test's image, or a file read whole.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pieces: Vec<(u64, Vec<u8>)>,
    ram: Vec<Range<u64>>,
}

impl Image {
    /// RAM that begins at real address `base` and holds `bytes`.
    #[must_use]
    pub fn new(base: u64, bytes: Vec<u8>) -> Self {
        Self::default().with(base, bytes)
    }

    /// The same, with a further piece that overlaps none of the others.
    #[must_use]
    pub fn with(mut self, base: u64, bytes: Vec<u8>) -> Self {
        self.ram.push(base..base + bytes.len() as u64);
        self.ram.sort_by_key(|range| range.start);
        self.pieces.push((base, bytes));
        self
    }
}

impl Memory for Image {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (base, bytes) in &self.pieces {
            let piece = real
                .checked_sub(*base)
                .and_then(|start| usize::try_from(start).ok())
                .and_then(|start| bytes.get(start..start.checked_add(buf.len())?));
            if let Some(piece) = piece {
                buf.copy_from_slice(piece);
                return Ok(());
            }
        }
        Err(ReadError::NotRam { address: real, len: buf.len() as u64 })
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}
