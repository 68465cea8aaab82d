//! The functions of a kernel, to name the code an address lies in.

#![deny(clippy::indexing_slicing)]

use std::fmt;

use crate::arch::{Arch, Endian, Word};

/// Where a stretch of code ends: the linker's own names, present in every
/// source. Past one of them an address is in no function.
const ENDS: &[&[u8]] = &[b"_etext", b"_einittext"];

/// Names that mark a place rather than a function.
const MARKS: &[&[u8]] = &[b"_stext", b"_text", b"_start", b"_sinittext"];

/// The functions of a kernel by address.
///
/// Built on demand, for it is a few megabytes: one name and eight bytes a
/// function.
#[derive(Clone, Default)]
pub struct Functions {
    /// The lowest address; the entries are relative to it.
    base: u64,
    /// Ascending by address, one an address.
    entries: Vec<Entry>,
    /// The names one after the other, each with its length in front as two
    /// bytes, low byte first.
    names: Vec<u8>,
    /// Where the last function ends, relative to `base`.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u32,
    /// Where in `names`; [`NOWHERE`] for the end of a stretch of code.
    name: u32,
}

const NOWHERE: u32 = u32::MAX;

/// How far code without a known size reaches, in bytes.
pub(super) const UNSIZED: u64 = 0x1_0000;

impl Functions {
    /// The function that effective address `address` lies in, and how many
    /// bytes from its start.
    #[must_use]
    pub fn resolve(&self, address: u64) -> Option<(&str, u64)> {
        let relative = address.checked_sub(self.base).filter(|relative| *relative < self.end)?;
        let after = self.entries.partition_point(|entry| u64::from(entry.address) <= relative);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        Some((self.name(entry.name)?, relative - u64::from(entry.address)))
    }

    /// How many functions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.name != NOWHERE).count()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All functions, ascending by effective address.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().filter_map(|entry| {
            Some((self.base + u64::from(entry.address), self.name(entry.name)?))
        })
    }

    fn name(&self, at: u32) -> Option<&str> {
        let (length, rest) = self.names.get(at as usize..)?.split_first_chunk::<2>()?;
        std::str::from_utf8(rest.get(..usize::from(u16::from_le_bytes(*length)))?).ok()
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Functions({} from {:#x})", self.len(), self.base)
    }
}

/// How good a name is for its address; of several the best is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A global function.
    Global,
    /// A weak or static one.
    Local,
    /// A mark of the linker.
    Mark,
    /// The end of a stretch of code: no name at all.
    End,
}

/// A [`Functions`] being made.
pub(super) struct Builder {
    dots: Dots,
    found: Vec<(u64, Rank, u32)>,
    names: Vec<u8>,
    end: u64,
}

/// What a dot before a name means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dots {
    /// ELFv1 (big-endian ppc64): `.func` is `func`'s code, and `func` itself
    /// its descriptor in `.opd`, which no source calls text.
    Code,
    /// A local label.
    Label,
}

impl Dots {
    /// For a kernel compiled for `arch`; `None` where unknown.
    pub(super) const fn of(arch: Option<Arch>) -> Self {
        match arch {
            Some(Arch { word: Word::W64, endian: Endian::Big }) | None => Self::Code,
            Some(_) => Self::Label,
        }
    }

    /// The name as it is shown, and how good it is; `None` for what is no
    /// function's.
    pub(super) fn classify(self, name: &[u8], global: bool) -> Option<(Rank, &[u8])> {
        let name = match (name.split_first(), self) {
            (Some((b'.', rest)), Self::Code) => rest,
            (Some((b'.' | b'$', _)), _) | (None, _) => return None,
            (Some(_), _) => name,
        };
        let rank = match name {
            _ if ENDS.contains(&name) => Rank::End,
            _ if MARKS.contains(&name) => Rank::Mark,
            _ if global => Rank::Global,
            _ => Rank::Local,
        };
        Some((rank, name))
    }
}

impl Builder {
    /// For a kernel compiled for `arch`; `None` where unknown.
    pub(super) fn new(arch: Option<Arch>) -> Self {
        let dots = Dots::of(arch);
        Self { dots, found: Vec::new(), names: Vec::new(), end: 0 }
    }

    /// Add a text symbol; `size` in bytes, 0 where unknown.
    pub(super) fn push(&mut self, address: u64, size: u64, global: bool, name: &[u8]) {
        let Some((rank, name)) = self.dots.classify(name, global) else { return };
        let Ok(length) = u16::try_from(name.len()) else { return };
        let Ok(at) = u32::try_from(self.names.len()) else { return };
        if std::str::from_utf8(name).is_err() {
            return;
        }
        if rank == Rank::End {
            self.found.push((address, rank, NOWHERE));
            return;
        }
        self.names.extend(length.to_le_bytes());
        self.names.extend(name);
        self.found.push((address, rank, at));
        let size = if size == 0 && rank != Rank::Mark { UNSIZED } else { size };
        self.end = self.end.max(address.saturating_add(size));
    }

    /// The table.
    pub(super) fn finish(mut self) -> Functions {
        self.found.sort_unstable();
        self.found.dedup_by_key(|(address, ..)| *address);
        let base = self.found.first().map_or(0, |(address, ..)| *address);
        let mut entries = Vec::with_capacity(self.found.len());
        entries.extend(self.found.iter().filter_map(|(address, _, name)| {
            let address = u32::try_from(address - base).ok()?;
            Some(Entry { address, name: *name })
        }));
        self.names.shrink_to_fit();
        Functions { base, entries, names: self.names, end: self.end.saturating_sub(base) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xc000_0000_0000_0000;

    fn built(arch: Arch, symbols: &[(u64, u64, bool, &str)]) -> Functions {
        let mut builder = Builder::new(Some(arch));
        for (address, size, global, name) in symbols {
            builder.push(BASE + address, *size, *global, name.as_bytes());
        }
        builder.finish()
    }

    #[test]
    fn an_address_is_named_by_the_function_before_it() {
        let functions = built(
            Arch::PPC64LE,
            &[
                (0x200, 0x80, true, "schedule"),
                (0, 0, false, "_stext"),
                (0x100, 0x40, false, "helper"),
                (0x280, 0, true, "_etext"),
                (0x1000, 0x20, true, "start_kernel"),
            ],
        );
        assert_eq!(functions.resolve(BASE + 0x204), Some(("schedule", 4)));
        assert_eq!(functions.resolve(BASE + 0x1ff), Some(("helper", 0xff)));
        assert_eq!(functions.resolve(BASE + 8), Some(("_stext", 8)));
        assert_eq!(functions.resolve(BASE + 0x280), None);
        assert_eq!(functions.resolve(BASE + 0x101f), Some(("start_kernel", 0x1f)));
        assert_eq!(functions.resolve(BASE + 0x1020), None);
        assert_eq!(functions.resolve(BASE - 1), None);
        assert_eq!(functions.len(), 4);
    }

    #[test]
    fn of_several_names_the_global_one_is_shown() {
        let symbols = [
            (0, 0, false, "_text"),
            (0, 4, false, "local"),
            (0, 4, true, "global"),
            (0, 0, false, ".Lx"),
        ];
        assert_eq!(built(Arch::PPC32, &symbols).resolve(BASE), Some(("global", 0)));
    }

    #[test]
    fn elfv1_code_is_shown_without_its_dot() {
        let functions = built(Arch::PPC64, &[(0x10, 8, true, ".start_kernel")]);
        assert_eq!(functions.resolve(BASE + 0x14), Some(("start_kernel", 4)));
        let functions = built(Arch::PPC64LE, &[(0x10, 8, true, ".LC0")]);
        assert_eq!(functions.resolve(BASE + 0x14), None);
    }

    #[test]
    fn an_empty_table_names_nothing() {
        assert!(Functions::default().is_empty());
        assert_eq!(Functions::default().resolve(0), None);
    }
}
