//! Whether the kernel in the guest is the one a file describes.
//!
//! The guest's `linux_banner` is compared with the file's: it names the
//! release, the compiler and the time of the build. A guest holds it several
//! times over, and not every copy says that this kernel runs:
//!
//! - the variable itself, at its linked address: the running kernel;
//! - the image as it was loaded, of which a kernel that moves itself to real
//!   address 0 leaves a pristine copy behind: `0x400000` higher on pseries,
//!   `0x20000000` under skiboot, `0x1000000` on a Mac. Before the kernel is
//!   entered it is the only one;
//! - the log, which the banner is printed to: without the newline and zero
//!   byte that end the variable.

#![deny(clippy::indexing_slicing)]

use super::banner;
use super::names::Names;
use crate::guest::{Memory, ReadError, View};

/// What comparing a file's kernel with the guest's gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The guest runs this kernel: its banner is where the names say. Where
    /// the names come without a banner (System.map), a banner is there.
    Matches,
    /// The guest holds another kernel, with this banner.
    Other {
        /// The guest's banner, without its newline.
        guest: Vec<u8>,
    },
    /// There is no banner where it should be: no kernel is there, not yet,
    /// or one with its banner elsewhere, which [`find`] may tell.
    Absent,
}

/// Compare `names` with what lies at their `linux_banner`. Reads at most
/// [`banner::LONGEST`] bytes.
///
/// # Errors
/// As the holder of the memory fails; an address that is no RAM is
/// [`Identity::Absent`].
pub fn check(names: &Names, view: &View<'_>) -> Result<Identity, ReadError> {
    let address = names.address("linux_banner").and_then(|address| view.rule().real(address));
    let Some(real) = address else { return Ok(Identity::Absent) };
    check_at(names.banner.as_deref(), view.memory(), real)
}

/// Compare a banner (`None`: any) with what lies at a real address.
///
/// # Errors
/// As [`check`].
pub fn check_at(
    expected: Option<&[u8]>,
    memory: &dyn Memory,
    real: u64,
) -> Result<Identity, ReadError> {
    let end = memory.ram().iter().find(|range| range.contains(&real)).map_or(real, |r| r.end);
    let length = (end - real).min(banner::LONGEST as u64) as usize;
    let mut bytes = vec![0; length];
    match memory.read(real, &mut bytes) {
        Err(ReadError::NotRam { .. }) => return Ok(Identity::Absent),
        other => other?,
    }
    Ok(match banner::starting(&bytes) {
        None => Identity::Absent,
        Some(guest) if expected.is_none_or(|expected| expected == guest) => Identity::Matches,
        Some(guest) => Identity::Other { guest: guest.to_vec() },
    })
}

/// The same as [`check`], and where nothing is at the address, look for the
/// guest's banner in RAM below real address `limit`: another one found there
/// is [`Identity::Other`]. The same one elsewhere stays [`Identity::Absent`]:
/// that kernel is loaded, but not running at its address.
///
/// # Errors
/// As [`check`].
pub fn check_or_find(names: &Names, view: &View<'_>, limit: u64) -> Result<Identity, ReadError> {
    let identity = check(names, view)?;
    if identity != Identity::Absent {
        return Ok(identity);
    }
    let found = find(view.memory(), limit)?;
    let other = found.filter(|found| names.banner.as_ref().is_some_and(|b| *b != found.text));
    Ok(other.map_or(Identity::Absent, |found| Identity::Other { guest: found.text }))
}

/// A banner in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its real address.
    pub real: u64,
    /// Its text, without the newline.
    pub text: Vec<u8>,
}

/// The lowest `linux_banner` in RAM below real address `limit`: the running
/// kernel's, or that of an image which was loaded and not entered. Copies in
/// the log are passed over.
///
/// # Errors
/// As the holder of the memory fails.
pub fn find(memory: &dyn Memory, limit: u64) -> Result<Option<Found>, ReadError> {
    let mut buf = vec![0; PIECE + banner::LONGEST];
    for range in memory.ram() {
        let end = range.end.min(limit);
        let mut at = range.start;
        while at < end {
            // A little more than a piece, for what lies across its end.
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let bytes = buf.get_mut(..length).unwrap_or_default();
            memory.read(at, bytes)?;
            let variable = banner::all_in(bytes).find(|(start, text)| {
                bytes.get(start + text.len()..).is_some_and(|rest| rest.starts_with(b"\n\0"))
            });
            if let Some((start, text)) = variable {
                return Ok(Some(Found { real: at + start as u64, text: text.to_vec() }));
            }
            at += PIECE as u64;
        }
    }
    Ok(None)
}

/// How much memory is looked at in one read, in bytes.
const PIECE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::arch::Arch;
    use crate::guest::{AddressRule, Image};
    use crate::kernel::names::{Source, Symbol};

    const OURS: &[u8] = b"Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";
    const THEIRS: &[u8] = b"Linux version 6.9.0 (c@d) (gcc 14) #2 SMP Fri";

    fn names(banner: Option<&[u8]>) -> Names {
        let symbol = Symbol { address: 0xc000_0000_0000_1000, size: 0 };
        Names {
            source: Source::Scan,
            arch: None,
            banner: banner.map(<[u8]>::to_vec),
            symbols: BTreeMap::from([("linux_banner".to_owned(), symbol)]),
        }
    }

    fn ram(pieces: &[(usize, &[u8])]) -> Image {
        let mut bytes = vec![0; 0x40_0000];
        for (at, piece) in pieces {
            bytes.splice(*at..at + piece.len(), piece.iter().copied());
        }
        Image::new(0, bytes)
    }

    fn variable(text: &[u8]) -> Vec<u8> {
        [text, b"\n\0"].concat()
    }

    fn checked(banner: Option<&[u8]>, pieces: &[(usize, &[u8])]) -> Identity {
        let ram = ram(pieces);
        let view = View::new(&ram, Arch::PPC64LE, AddressRule::Linear64);
        check_or_find(&names(banner), &view, u64::MAX).expect("readable")
    }

    #[test]
    fn the_banner_decides() {
        let (ours, theirs) = (variable(OURS), variable(THEIRS));
        assert_eq!(checked(Some(OURS), &[(0x1000, &ours)]), Identity::Matches);
        let other = Identity::Other { guest: THEIRS.to_vec() };
        assert_eq!(checked(Some(OURS), &[(0x1000, &theirs)]), other);
        assert_eq!(checked(Some(OURS), &[(0x2000, &theirs)]), other);
        assert_eq!(checked(Some(OURS), &[]), Identity::Absent);
        assert_eq!(checked(None, &[(0x1000, &theirs)]), Identity::Matches);
    }

    #[test]
    fn a_loaded_copy_is_no_running_kernel() {
        assert_eq!(checked(Some(OURS), &[(0x20_1000, &variable(OURS))]), Identity::Absent);
    }

    #[test]
    fn the_variable_is_found_past_the_log_and_across_pieces() {
        for at in [0x3000, PIECE - 1, PIECE - 20, PIECE, 3 * PIECE - 46] {
            let ram = ram(&[(0x800, THEIRS), (at, &variable(OURS))]);
            let found = find(&ram, u64::MAX).expect("readable").expect("found");
            assert_eq!((found.real, found.text.as_slice()), (at as u64, OURS));
            assert_eq!(find(&ram, 0x1000).expect("readable"), None);
        }
    }

    #[test]
    fn an_address_outside_ram_is_no_match() {
        let ram = Image::new(0, vec![0; 0x800]);
        let view = View::new(&ram, Arch::PPC64LE, AddressRule::Linear64);
        assert_eq!(check(&names(Some(OURS)), &view).expect("no failure"), Identity::Absent);
    }
}
