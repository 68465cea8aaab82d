//! From a kernel's effective addresses to real addresses.
//!
//! Kernel code, data and the linear map need no page tables on Power: a
//! fixed rule gives the real address, in real mode and with translation on
//! alike.

/// How a kernel's linear map is laid over real memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRule {
    /// 64-bit: the top four bits are dropped. `PAGE_OFFSET` is
    /// `0xc000000000000000` on Book3S and on Book3E-64, and the processor
    /// ignores those bits in real mode too.
    Linear64,
    /// 32-bit: `real = effective - page_offset + memstart`, where
    /// `page_offset` is the kernel's `PAGE_OFFSET` (`0xc0000000` unless
    /// configured otherwise) and `memstart` where its RAM begins (0 but for
    /// relocatable Book-E kernels).
    Linear32 {
        /// `CONFIG_PAGE_OFFSET`.
        page_offset: u32,
        /// The real address that `page_offset` maps to.
        memstart: u32,
    },
}

impl AddressRule {
    /// The usual rule of 32-bit kernels.
    pub const PPC32: Self = Self::Linear32 { page_offset: 0xc000_0000, memstart: 0 };

    /// The real address behind `effective`, or `None` where it is no address
    /// of the kernel's linear map.
    #[must_use]
    pub const fn real(self, effective: u64) -> Option<u64> {
        match self {
            Self::Linear64 => match effective >> 60 {
                0x0 | 0xc => Some(effective & 0x0fff_ffff_ffff_ffff),
                _ => None,
            },
            Self::Linear32 { page_offset, memstart } => {
                if effective > 0xffff_ffff || effective < page_offset as u64 {
                    return None;
                }
                Some(effective - page_offset as u64 + memstart as u64)
            }
        }
    }

    /// The effective address of `real` in the kernel's linear map.
    #[must_use]
    pub const fn effective(self, real: u64) -> u64 {
        match self {
            Self::Linear64 => real | 0xc000_0000_0000_0000,
            Self::Linear32 { page_offset, memstart } => {
                real.wrapping_sub(memstart as u64).wrapping_add(page_offset as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_addresses_lose_their_top_bits() {
        assert_eq!(AddressRule::Linear64.real(0xc000_0000_0203_5ca8), Some(0x0203_5ca8));
        assert_eq!(AddressRule::Linear64.real(0x0203_5ca8), Some(0x0203_5ca8));
        assert_eq!(AddressRule::Linear64.real(0xd000_0000_0000_0000), None);
        assert_eq!(AddressRule::PPC32.real(0xc012_3456), Some(0x0012_3456));
        assert_eq!(AddressRule::PPC32.real(0x0012_3456), None);
        assert_eq!(AddressRule::PPC32.effective(0x10), 0xc000_0010);
    }
}
