//! Naming a few addresses.
//!
//! A call chain needs a dozen names of the sixty thousand functions of a
//! kernel. Rather than hold all of them ([`super::Functions`]) between one
//! report and the next, the table is gone through once, and for each address
//! only the few symbols before it are kept. The names are the same.

#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use super::error::SourceError;
use super::functions::{Dots, Rank, UNSIZED};
use crate::arch::Arch;

/// How many symbols are kept for an address: aliases, marks and local labels
/// share it or lie between.
const KEPT: usize = 16;

/// The function that an address lies in, and how many bytes from its start.
pub type Place = (String, u64);

/// Knows the names of a kernel's code.
pub trait Resolve {
    /// The places of `addresses`, effective ones as linked, in their order.
    ///
    /// # Errors
    /// As the source fails to be read.
    fn resolve(&self, addresses: &[u64]) -> Result<Vec<Option<Place>>, SourceError>;
}

/// The symbols nearest before each of some addresses.
pub(super) struct Nearest<N> {
    asked: Vec<u64>,
    /// Ascending.
    sorted: Vec<u64>,
    /// For each of these, symbols between it and the one before, the highest
    /// address first.
    before: Vec<VecDeque<Near<N>>>,
}

struct Near<N> {
    address: u64,
    size: u64,
    name: N,
}

impl<N: Ord> Nearest<N> {
    pub(super) fn new(addresses: &[u64]) -> Self {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let before = sorted.iter().map(|_| VecDeque::new()).collect();
        Self { asked: addresses.to_vec(), sorted, before }
    }

    /// Take a symbol; `size` in bytes, 0 where unknown. Of one address, what
    /// `name` gives decides, the least first.
    #[inline]
    pub(super) fn offer(&mut self, address: u64, size: u64, name: impl FnOnce() -> N) {
        let bucket = self.sorted.partition_point(|asked| *asked < address);
        let Some(near) = self.before.get_mut(bucket) else { return };
        if near.len() == KEPT {
            if near.back().is_some_and(|last| last.address >= address) {
                return;
            }
            near.pop_back();
        }
        let at = near.partition_point(|other| other.address > address);
        near.insert(at, Near { address, size, name: name() });
    }

    /// What was kept of all that was offered.
    pub(super) fn kept(&self) -> impl Iterator<Item = &N> {
        self.before.iter().flatten().map(|near| &near.name)
    }

    /// The places. `name` gives a symbol's name and whether it is global;
    /// `None` for what is no code.
    pub(super) fn settle<E>(
        &self,
        arch: Option<Arch>,
        mut name: impl FnMut(&N) -> Result<Option<(bool, Vec<u8>)>, E>,
    ) -> Result<Vec<Option<Place>>, E> {
        let dots = Dots::of(arch);
        let mut places = Vec::with_capacity(self.asked.len());
        for asked in &self.asked {
            let buckets = self.sorted.partition_point(|other| other <= asked);
            let mut best: Option<(u64, Rank, &N, Vec<u8>)> = None;
            let mut size = 0;
            for near in self.before.iter().take(buckets).rev().flatten() {
                if best.as_ref().is_some_and(|(address, ..)| *address != near.address) {
                    break;
                }
                let Some((global, text)) = name(&near.name)? else { continue };
                let Some((rank, text)) = dots.classify(&text, global) else { continue };
                size = near.size.max(size);
                if best
                    .as_ref()
                    .is_none_or(|(_, better, first, _)| (rank, &near.name) < (*better, *first))
                {
                    best = Some((near.address, rank, &near.name, text.to_vec()));
                }
            }
            places.push(best.and_then(|(address, rank, _, text)| {
                let offset = asked - address;
                let inside = rank != Rank::End && offset < size.max(UNSIZED);
                inside.then_some((String::from_utf8(text).ok()?, offset))
            }));
        }
        Ok(places)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::kernel::functions::Builder;

    const BASE: u64 = 0xc000_0000_0000_0000;

    type Symbols = Vec<(u64, u64, bool, String)>;

    fn resolved(symbols: &Symbols, addresses: &[u64]) -> Vec<Option<Place>> {
        let mut nearest = Nearest::new(addresses);
        for (n, (address, size, ..)) in symbols.iter().enumerate() {
            nearest.offer(BASE + address, *size, || n);
        }
        let name = |n: &usize| -> Result<_, Infallible> {
            Ok(symbols.get(*n).map(|(_, _, global, name)| (*global, name.clone().into_bytes())))
        };
        nearest.settle(Some(Arch::PPC64LE), name).unwrap_or_default()
    }

    fn symbol(address: u64, size: u64, global: bool, name: &str) -> (u64, u64, bool, String) {
        (address, size, global, name.to_owned())
    }

    #[test]
    fn the_nearest_function_before_an_address_names_it() {
        let symbols = vec![
            symbol(0x200, 0x80, true, "schedule"),
            symbol(0, 0, false, "_stext"),
            symbol(0x200, 0x80, false, "alias"),
            symbol(0x210, 0, false, ".Llabel"),
            symbol(0x280, 0, true, "_etext"),
            symbol(0x1000, 0x20, true, "start_kernel"),
        ];
        let at = |address: u64| resolved(&symbols, &[BASE + address]).pop().flatten();
        assert_eq!(at(0x214), Some(("schedule".to_owned(), 0x14)));
        assert_eq!(at(0x10), Some(("_stext".to_owned(), 0x10)));
        assert_eq!(at(0x280), None, "behind the text");
        assert_eq!(at(0x2_1000), None, "too far behind");
        let many = resolved(&symbols, &[BASE + 0x1004, BASE - 1, BASE + 0x204, BASE + 0x204]);
        let names: Vec<Option<&str>> =
            many.iter().map(|place| place.as_ref().map(|(name, _)| name.as_str())).collect();
        assert_eq!(names, [Some("start_kernel"), None, Some("schedule"), Some("schedule")]);
    }

    proptest::proptest! {
        #[test]
        fn names_are_those_of_the_whole_table(
            symbols in proptest::collection::vec((0..64_u64, 0..3_u64, proptest::bool::ANY), 1..60),
            asked in proptest::collection::vec(0..80_u64, 1..12),
        ) {
            let symbols: Symbols = symbols
                .into_iter()
                .enumerate()
                .map(|(n, (at, kind, global))| match kind {
                    0 => symbol(at * 4, 8, global, &format!("f{n}")),
                    1 => symbol(at * 4, 8, global, &format!(".L{n}")),
                    _ => symbol(at * 4, 8, global, "_etext"),
                })
                .collect();
            let mut builder = Builder::new(Some(Arch::PPC64LE));
            for (address, size, global, name) in &symbols {
                builder.push(BASE + address, *size, *global, name.as_bytes());
            }
            let all = builder.finish();
            let asked: Vec<u64> = asked.into_iter().map(|at| BASE + at * 4).collect();
            for (at, place) in asked.iter().zip(resolved(&symbols, &asked)) {
                // The whole table knows where the last function ends.
                if let Some((name, offset)) = all.resolve(*at) {
                    proptest::prop_assert_eq!(place, Some((name.to_owned(), offset)));
                }
            }
        }
    }
}
