//! A pointer somewhere in the kernel's data that leads to a buffer: the
//! variable `log_buf` of the formats before 5.10.
//!
//! It tells the buffer in use from one given up for a larger, and what the
//! kernel was compiled for, which text alone does not.

use crate::arch::{Arch, Bytes, Word};
use crate::guest::AddressRule;

/// Nearly all 32-bit kernels have one of these (arch/powerpc/Kconfig).
const RULES: [(Arch, AddressRule); 5] = [
    (Arch::PPC64LE, AddressRule::Linear64),
    (Arch::PPC64, AddressRule::Linear64),
    (Arch::PPC32, AddressRule::PPC32),
    (Arch::PPC32, AddressRule::Linear32 { page_offset: 0x8000_0000, memstart: 0 }),
    (Arch::PPC32, AddressRule::Linear32 { page_offset: 0xb000_0000, memstart: 0 }),
];

/// `R_PPC64_RELATIVE` and `R_PPC_RELATIVE`: what follows is an addend.
const RELATIVE: u64 = 22;

/// A variable that points at what is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variable {
    pub arch: Arch,
    pub rule: AddressRule,
    /// `log_buf_len`, which is declared beside `log_buf`, if it shows.
    pub len: Option<u64>,
}

/// Look through `bytes`, which begin at a multiple of 8, for a pointer to
/// `real` in any kernel's form; `used` bytes of the buffer are known to be
/// in use.
pub(super) fn find(bytes: &[u8], real: u64, used: u64) -> Option<Variable> {
    RULES.into_iter().find_map(|(arch, rule)| {
        let effective = rule.effective(real);
        let word = arch.word.bytes();
        if arch.word == Word::W32 && effective > 0xffff_ffff {
            return None;
        }
        let data = Bytes::new(bytes, arch);
        // The lower half is compared first: it is what differs.
        let half = if arch == Arch::PPC64 { 4 } else { 0 };
        let needle = effective as u32;
        let raw = match arch {
            Arch::PPC64LE => needle.to_le_bytes(),
            _ => needle.to_be_bytes(),
        };
        let mut at = 0;
        while let Some(found) = next(bytes, raw, at) {
            at = found + 4;
            let Some(start) = found.checked_sub(half).filter(|start| start % word == 0) else {
                continue;
            };
            let before = start.checked_sub(word).and_then(|start| data.word(start));
            if data.word(start) == Some(effective) && before.is_none_or(|info| info != RELATIVE) {
                return Some(Variable { arch, rule, len: len_near(data, start, used) });
            }
        }
        None
    })
}

/// The next multiple of 4 from `from` on where `needle` is.
fn next(bytes: &[u8], needle: [u8; 4], from: usize) -> Option<usize> {
    const BLOCK: usize = 256;
    let needle = u32::from_le_bytes(needle);
    let is_needle =
        |raw: &[u8]| raw.first_chunk().is_some_and(|raw| u32::from_le_bytes(*raw) == needle);
    let mut start = from;
    // One look at each whole block, without branches.
    while let Some(block) = bytes.get(start..)?.first_chunk::<BLOCK>() {
        if block.chunks_exact(4).fold(0, |any, raw| any | u32::from(is_needle(raw))) != 0 {
            break;
        }
        start += BLOCK;
    }
    let at = bytes.get(start..)?.chunks_exact(4).position(is_needle)?;
    Some(start + 4 * at)
}

/// A power of two near the variable that may be the buffer's length.
fn len_near(data: Bytes<'_>, at: usize, used: u64) -> Option<u64> {
    let places = (4..=64).step_by(4).flat_map(|by| [at.checked_add(by + 4), at.checked_sub(by)]);
    places
        .flatten()
        .filter_map(|at| data.u32(at))
        .map(u64::from)
        .find(|len| len.is_power_of_two() && (4 << 10..=1 << 31).contains(len) && *len >= used)
}
