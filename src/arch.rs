//! Word size and byte order, and reading numbers of that kind out of bytes.
//!
//! Both are properties of the guest kernel found out at run time, so no
//! struct is overlaid on guest bytes: every field is fetched by offset and
//! every fetch is checked.

/// The order of a number's bytes in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endian {
    /// Least significant byte first (ppc64le).
    Little,
    /// Most significant byte first (ppc64, ppc).
    Big,
}

/// The size of a C `unsigned long` and of a pointer in the guest kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// 4 bytes (ppc).
    W32,
    /// 8 bytes (ppc64, ppc64le).
    W64,
}

impl Word {
    /// The size in bytes: 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

/// What a kernel was compiled for, as far as reading its memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arch {
    /// Size of a word and a pointer.
    pub word: Word,
    /// Byte order of numbers in memory.
    pub endian: Endian,
}

impl Arch {
    /// 64-bit little endian: `ppc64le`.
    pub const PPC64LE: Self = Self { word: Word::W64, endian: Endian::Little };
    /// 64-bit big endian: `ppc64`.
    pub const PPC64: Self = Self { word: Word::W64, endian: Endian::Big };
    /// 32-bit big endian: `ppc`.
    pub const PPC32: Self = Self { word: Word::W32, endian: Endian::Big };
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.word, self.endian) {
            (Word::W64, Endian::Little) => "ppc64le",
            (Word::W64, Endian::Big) => "ppc64",
            (Word::W32, Endian::Big) => "ppc",
            (Word::W32, Endian::Little) => "ppcle",
        })
    }
}

/// Guest bytes together with the rule for reading numbers from them.
///
/// All offsets are in bytes from the start; a fetch that would reach past
/// the end gives `None`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    data: &'a [u8],
    arch: Arch,
}

impl<'a> Bytes<'a> {
    /// Bytes of a kernel compiled for `arch`.
    #[must_use]
    pub const fn new(data: &'a [u8], arch: Arch) -> Self {
        Self { data, arch }
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }

    /// What they are read as.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// `len` bytes from `offset`.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Option<&'a [u8]> {
        self.data.get(offset..offset.checked_add(len)?)
    }

    /// An 8-bit number.
    #[must_use]
    pub fn u8(&self, offset: usize) -> Option<u8> {
        self.data.get(offset).copied()
    }

    /// A 16-bit number.
    #[must_use]
    pub fn u16(&self, offset: usize) -> Option<u16> {
        let raw: [u8; 2] = self.slice(offset, 2)?.try_into().ok()?;
        Some(match self.arch.endian {
            Endian::Little => u16::from_le_bytes(raw),
            Endian::Big => u16::from_be_bytes(raw),
        })
    }

    /// A 32-bit number.
    #[must_use]
    pub fn u32(&self, offset: usize) -> Option<u32> {
        let raw: [u8; 4] = self.slice(offset, 4)?.try_into().ok()?;
        Some(match self.arch.endian {
            Endian::Little => u32::from_le_bytes(raw),
            Endian::Big => u32::from_be_bytes(raw),
        })
    }

    /// A 64-bit number.
    #[must_use]
    pub fn u64(&self, offset: usize) -> Option<u64> {
        let raw: [u8; 8] = self.slice(offset, 8)?.try_into().ok()?;
        Some(match self.arch.endian {
            Endian::Little => u64::from_le_bytes(raw),
            Endian::Big => u64::from_be_bytes(raw),
        })
    }

    /// An `unsigned long` or a pointer, widened to 64 bits.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<u64> {
        match self.arch.word {
            Word::W32 => self.u32(offset).map(u64::from),
            Word::W64 => self.u64(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_byte_order_and_never_reach_past_the_end() {
        let data = [1, 2, 3, 4, 5, 6, 7, 8];
        let le = Bytes::new(&data, Arch::PPC64LE);
        let be = Bytes::new(&data, Arch::PPC32);
        assert_eq!(le.u16(0), Some(0x0201));
        assert_eq!(be.u16(0), Some(0x0102));
        assert_eq!(le.word(0), Some(0x0807_0605_0403_0201));
        assert_eq!(be.word(4), Some(0x0506_0708));
        assert_eq!(le.u64(1), None);
        assert_eq!(le.u8(8), None);
        assert_eq!(le.slice(usize::MAX, 2), None);
    }
}
