//! Guest RAM out of a file: a dump that QEMU, libvirt or makedumpfile wrote,
//! or plain bytes.
//!
//! | file | written by |
//! |---|---|
//! | ELF core | `dump-guest-memory`, `virsh dump --memory-only` |
//! | kdump-compressed | `dump-guest-memory -z`, `-l`, `-s`; makedumpfile |
//! | plain | `pmemsave` |
//!
//! Real dumps of every format that QEMU lists are compared with the guest
//! they are of (tests/boot/attach.rs): ELF and kdump with zlib, flattened and,
//! since QEMU 8.2, raw. No QEMU of Debian's, 7.2 to 11.1, is built with lzo or
//! snappy (`dump-guest-memory -l` and `-s` say so): such pages, and zstd's, are
//! crafted.
//!
//! Files are as large as guests, so they are read in the pieces asked for
//! and never held whole. They are also not trusted: every number in them is
//! checked before it is used.
//!
//! What is in the memory is not looked at here, nor are a dump's notes.

#![deny(clippy::indexing_slicing)]

#[doc(hidden)]
pub mod craft;
mod elf;
mod file;
mod flat;
mod kdump;
mod lzo;
#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::single_range_in_vec_init, clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::guest::{Memory, ReadError};

use file::{Plain, Source};

/// What a file of guest memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ELF core with RAM in its `PT_LOAD` segments.
    Elf,
    /// makedumpfile's format of compressed pages.
    Kdump,
    /// The same in its form for pipes, as QEMU writes it.
    KdumpFlattened,
    /// RAM, byte for byte.
    Raw,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "ELF core",
            Self::Kdump | Self::KdumpFlattened => "kdump-compressed dump",
            Self::Raw => "raw memory",
        })
    }
}

/// Why a file cannot be read as guest memory.
#[derive(Debug)]
pub enum Error {
    /// The host failed.
    Io(std::io::Error),
    /// It is something else, in words that follow "it is".
    Other(&'static str),
    /// It is damaged, in words that follow "its".
    Damaged(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => f.write_str(&crate::sys::reason(error)),
            Self::Other(what) => write!(f, "it is {what}"),
            Self::Damaged(what) => write!(f, "its {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Other(_) | Self::Damaged(_) => None,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Guest memory in a file.
pub struct Dump {
    kind: Kind,
    memory: Box<dyn Memory>,
}

impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump").field("kind", &self.kind).field("ram", &self.ram()).finish()
    }
}

impl Dump {
    /// What the file is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }
}

impl Memory for Dump {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(real, buf)
    }

    fn ram(&self) -> &[Range<u64>] {
        self.memory.ram()
    }
}

/// Beginnings of files that are often at hand, but hold no RAM to read.
const OTHERS: [(&[u8], &str); 7] = [
    (b"LibvirtQemud", "a saved machine; dump it with virsh dump --memory-only instead"),
    (b"QEVM", "a migration stream; use dump-guest-memory instead"),
    (b"QFI\xfb", "a disk image"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\xfd7zXZ\0", "compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"PAGEDUMP", "a Windows crash dump"),
];

/// Open a file of guest memory.
///
/// With a `base` it is taken for plain bytes from that real address on;
/// without, a dump is told by its beginning, and anything else is plain bytes
/// from 0 on.
///
/// # Errors
/// As the file cannot be read, is none, or contradicts itself.
pub fn open(path: &Path, base: Option<u64>) -> Result<Dump, Error> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::Other("no regular file"));
    }
    open_source(Box::new(Plain::new(file)?), base)
}

/// The same of a file that is at hand as bytes.
///
/// # Errors
/// As [`open`].
pub fn of_bytes(bytes: Vec<u8>, base: Option<u64>) -> Result<Dump, Error> {
    open_source(Box::new(bytes), base)
}

fn open_source(source: Box<dyn Source>, base: Option<u64>) -> Result<Dump, Error> {
    if source.size() == 0 {
        return Err(Error::Other("empty"));
    }
    let mut start = [0; 16];
    let len = source.size().min(start.len() as u64) as usize;
    let start = start.get_mut(..len).unwrap_or_default();
    source.read_at(0, start)?;
    if let Some(base) = base {
        return raw(source, base);
    }
    if start.starts_with(b"\x7fELF") {
        return Ok(Dump { kind: Kind::Elf, memory: Box::new(elf::Core::open(source)?) });
    }
    if start.starts_with(kdump::SIGNATURE) {
        return Ok(Dump { kind: Kind::Kdump, memory: Box::new(kdump::Pages::open(source)?) });
    }
    if start.starts_with(flat::SIGNATURE) {
        let source = Box::new(flat::Flat::open(source)?);
        let memory = Box::new(kdump::Pages::open(source)?);
        return Ok(Dump { kind: Kind::KdumpFlattened, memory });
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(Error::Other(what));
    }
    raw(source, 0)
}

fn raw(source: Box<dyn Source>, base: u64) -> Result<Dump, Error> {
    let end = base.checked_add(source.size()).ok_or(Error::Other("too long for that address"))?;
    let ram = std::array::from_fn(|_| base..end);
    Ok(Dump { kind: Kind::Raw, memory: Box::new(Raw { source, ram }) })
}

/// RAM, byte for byte.
struct Raw {
    source: Box<dyn Source>,
    ram: [Range<u64>; 1],
}

impl Memory for Raw {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let [range] = &self.ram;
        if !crate::guest::is_ram(&self.ram, real, buf.len() as u64) {
            return Err(ReadError::NotRam { address: real, len: buf.len() as u64 });
        }
        Ok(self.source.read_at(real - range.start, buf)?)
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}
