//! Whether names and guest belong together: `linux_banner` in both.
//!
//! A kernel rebuilt since the guest was started gives plausible nonsense, so
//! nothing is decoded before the guest's own banner is seen to be the one
//! that the names come with.

use std::ops::ControlFlow;

use super::banner::{self, REACH};
use super::names::Names;
use crate::arch::{Arch, Word};
use crate::guest::{AddressRule, Memory, ReadError, View};

/// How much is read at a time when looking for a banner.
const PIECE: usize = 1 << 20;

/// What the guest turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The kernel that the names are of, in its own place: entered, or at
    /// least loaded where it runs.
    Here {
        /// How its addresses become real ones.
        rule: AddressRule,
        /// How far it runs from where it was linked to: 0 but for relocatable
        /// kernels that stay where they were loaded (kdump).
        displacement: u64,
    },
    /// The kernel that the names are of lies in memory as it was loaded, and
    /// has not moved itself to where it runs.
    Loaded {
        /// Real address of the banner found.
        real: u64,
    },
    /// The guest holds another kernel; its banner.
    Other(Vec<u8>),
    /// No kernel is in guest memory.
    Absent,
}

/// The rule by which the addresses of `names` become real ones, where the
/// kernel runs at the beginning of RAM.
#[must_use]
pub fn usual_rule(arch: Arch, names: &Names) -> AddressRule {
    match arch.word {
        Word::W64 => AddressRule::Linear64,
        Word::W32 => {
            let base =
                ["_text", "_stext", "linux_banner"].iter().find_map(|name| names.address(name));
            // CONFIG_PAGE_OFFSET is a multiple of 256 MiB in every defconfig.
            let page_offset = base.map_or(0xc000_0000, |base| (base & 0xf000_0000) as u32);
            AddressRule::Linear32 { page_offset, memstart: 0 }
        }
    }
}

/// How far a kernel whose banner is at real address `banner` is from where
/// it was linked to; `None` without the banner's name.
#[must_use]
pub fn displacement_of(names: &Names, rule: AddressRule, banner: u64) -> Option<u64> {
    Some(banner.wrapping_sub(rule.real(names.address("linux_banner")?)?))
}

/// Compare the guest in `memory` with `names`, of a kernel compiled for
/// `arch`.
///
/// # Errors
/// As the memory fails.
pub fn identify(memory: &dyn Memory, arch: Arch, names: &Names) -> Result<Identity, ReadError> {
    let rule = usual_rule(arch, names);
    let view = View::new(memory, arch, rule);
    let here = names.address("linux_banner").and_then(|address| {
        let mut bytes = [0; banner::LONGEST];
        view.read(address, &mut bytes).ok()?;
        banner::starting(&bytes).map(<[u8]>::to_vec)
    });
    if let Some(found) = here {
        return Ok(match &names.banner {
            Some(expected) if *expected != found => Identity::Other(found),
            // Names without a banner of their own (System.map): one at the
            // very address is as good as a match.
            _ => Identity::Here { rule, displacement: 0 },
        });
    }
    let mut other = None;
    let mut loaded = None;
    let mut displaced = None;
    each_banner(memory, &mut |real, text| {
        if names.banner.as_deref().is_some_and(|expected| expected != text) {
            other.get_or_insert_with(|| text.to_vec());
        } else if let Some(found) = runs_displaced(memory, arch, rule, names, real) {
            displaced = Some(found);
            return ControlFlow::Break(());
        } else {
            loaded.get_or_insert(real);
        }
        ControlFlow::Continue(())
    })?;
    Ok(match (displaced, loaded, other) {
        (Some(displaced), _, _) => displaced,
        (None, Some(real), _) => Identity::Loaded { real },
        (None, None, Some(other)) => Identity::Other(other),
        (None, None, None) => Identity::Absent,
    })
}

/// Whether the kernel whose banner was found at `real` runs there, away from
/// where it was linked to: relocated, its pointer to the ring says so (64-bit
/// `CONFIG_RELOCATABLE` with `__run_at_load`); 32-bit Book-E kernels note
/// where their RAM begins instead.
fn runs_displaced(
    memory: &dyn Memory,
    arch: Arch,
    rule: AddressRule,
    names: &Names,
    real: u64,
) -> Option<Identity> {
    let displacement = real.checked_sub(rule.real(names.address("linux_banner")?)?)?;
    match rule {
        AddressRule::Linear64 => {
            let view = View::new(memory, arch, rule);
            let leads_to = |pointer: &str, target: &str| {
                let pointer = names.address(pointer)?.checked_add(displacement)?;
                let target = names.address(target)?.checked_add(displacement)?;
                Some(view.word(pointer).ok()? == target)
            };
            // The static ring, the one it was moved to (log_buf_len=, many
            // CPUs), and the buffer of kernels before 5.10.
            let relocated = [
                ("prb", "printk_rb_static"),
                ("prb", "printk_rb_dynamic"),
                ("log_buf", "__log_buf"),
            ]
            .iter()
            .any(|(pointer, target)| leads_to(pointer, target) == Some(true));
            (displacement != 0 && relocated).then_some(Identity::Here { rule, displacement })
        }
        AddressRule::Linear32 { page_offset, .. } => {
            let memstart = u32::try_from(displacement).ok()?;
            let rule = AddressRule::Linear32 { page_offset, memstart };
            let view = View::new(memory, arch, rule);
            // phys_addr_t: a word, or 64 bits with CONFIG_PHYS_64BIT.
            let mut raw = [0; 8];
            view.read(names.address("memstart_addr")?, &mut raw).ok()?;
            let number = crate::arch::Bytes::new(&raw, arch);
            (number.u32(0) == Some(memstart) || number.u64(0) == Some(displacement))
                .then_some(Identity::Here { rule, displacement: 0 })
        }
    }
}

/// Call `found` for each `linux_banner` in low RAM, by real address,
/// ascending, until it breaks. The log's own copy of the text is none: it does
/// not end in a newline.
///
/// # Errors
/// As the memory fails.
pub fn each_banner(
    memory: &dyn Memory,
    found: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let mut buf = vec![0; PIECE + banner::LONGEST];
    for range in memory.ram() {
        let end = range.end.min(REACH);
        let mut at = range.start;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let Some(piece) = buf.get_mut(..len) else { break };
            memory.read(at, piece)?;
            for (offset, text) in banner::all_in(piece) {
                let is_variable = piece.get(offset + text.len()) == Some(&b'\n');
                if offset < PIECE && is_variable && found(at + offset as u64, text).is_break() {
                    return Ok(());
                }
            }
            at += PIECE as u64;
        }
    }
    Ok(())
}
