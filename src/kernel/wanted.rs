//! Picking the wanted names out of the hundred thousand of a kernel.
//!
//! A source offers every symbol it has; [`Index`] tells at the cost of one
//! hash whether a name can be wanted, [`Finds`] keeps those that are and, at
//! the end, settles which of several symbols of one name is `printk`'s.

#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::names::{OF_PRINTK, Symbol, WANTED};

/// How many symbols of one name are kept; more would be no kernel.
const MOST_OF_ONE_NAME: usize = 64;

/// The linker's own names, which may lie in any section; all others are data.
const ANYWHERE: &[&str] = &["_stext", "_text", "_end", "__start_BTF", "__stop_BTF"];

/// `kernel/printk/printk.c`'s variables, most of them static and some with
/// names that other files use too: bpf/verifier.c had a `log_buf` of its own
/// from 3.18 to 4.14 (kernel commit cbd357008604, "bpf: verifier (add ability
/// to receive verification log)", to 61bd5218eef3).
const PRINTK: &[&str] = WANTED.split_at(OF_PRINTK).0;

/// What a symbol stands for, as far as its source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Code.
    Text,
    /// Anything else.
    Data,
}

/// Whether `nm`'s letter for a symbol's type says code.
pub(super) const fn is_code(letter: u8) -> bool {
    matches!(letter, b't' | b'T' | b'w' | b'W')
}

/// The source file a symbol was defined in, as far as its source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// `printk.c`.
    Printk,
    /// Another file, by name.
    Elsewhere,
    /// Not said.
    Unknown,
}

/// One symbol that has a wanted name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Find {
    pub(super) symbol: Symbol,
    pub(super) kind: Kind,
    pub(super) home: Home,
    pub(super) global: bool,
}

/// Recognises wanted names by their first eight bytes: cheap enough to ask of
/// every symbol of a kernel.
pub(super) struct Index {
    /// One bit for each hash of a [`key`].
    bits: Box<[u64; 1024]>,
}

impl Index {
    /// For the [`WANTED`] names, which are numbered in that order.
    pub(super) fn new() -> Self {
        let mut bits = Box::new([0; 1024]);
        for name in WANTED {
            let hash = hash(key(first(name.as_bytes())));
            if let Some(word) = bits.get_mut(hash / 64) {
                *word |= 1 << (hash % 64);
            }
        }
        Self { bits }
    }

    /// Whether a name can be wanted; `key` is [`key`] of its beginning.
    #[inline]
    pub(super) fn maybe(&self, key: u64) -> bool {
        let hash = hash(key);
        self.bits.get(hash / 64).is_some_and(|word| word >> (hash % 64) & 1 == 1)
    }

    /// The number of the name that `name` is.
    #[inline]
    pub(super) fn number(&self, name: &[u8]) -> Option<usize> {
        if !self.maybe(key(first(name))) {
            return None;
        }
        WANTED.iter().position(|wanted| wanted.as_bytes() == name)
    }
}

/// The first eight bytes of a name as a number: those after a zero byte
/// don't count.
#[inline]
pub(super) const fn key(first: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let all = u64::from_le_bytes(first);
    let zeros = all.wrapping_sub(ONES) & !all & (ONES << 7);
    let lowest = zeros & zeros.wrapping_neg();
    all & lowest.wrapping_sub(1)
}

/// The first eight bytes of a name, zeros where it is shorter.
#[inline]
fn first(name: &[u8]) -> [u8; 8] {
    match name.first_chunk::<8>() {
        Some(first) => *first,
        None => {
            let mut first = [0; 8];
            first.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
            first
        }
    }
}

#[inline]
fn hash(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
}

/// The wanted symbols found so far.
#[derive(Default)]
pub(super) struct Finds {
    by_name: BTreeMap<usize, Vec<Find>>,
    /// How often a wanted name was seen with a dot in front.
    dotted: BTreeMap<usize, usize>,
}

impl Finds {
    /// Keep a symbol whose name is number `name` of [`WANTED`].
    pub(super) fn push(&mut self, name: usize, find: Find) {
        let finds = self.by_name.entry(name).or_default();
        if finds.len() < MOST_OF_ONE_NAME {
            finds.push(find);
        }
    }

    /// Keep a symbol of that name if it is wanted: for sources that give no
    /// more than addresses, type letters and names.
    pub(super) fn offer(&mut self, index: &Index, address: u64, letter: u8, name: &[u8]) {
        if let Some(number) = index.number(name) {
            let symbol = Symbol { address, size: 0 };
            let kind = if is_code(letter) { Kind::Text } else { Kind::Data };
            let global = letter.is_ascii_uppercase();
            self.push(number, Find { symbol, kind, home: Home::Unknown, global });
        } else if let Some((b'.', name)) = name.split_first()
            && let Some(number) = index.number(name)
        {
            *self.dotted.entry(number).or_default() += 1;
        }
    }

    /// One symbol a name, `printk`'s where there were several.
    pub(super) fn settle(mut self) -> BTreeMap<String, Symbol> {
        self.drop_code();
        self.drop_foreign();
        let anchors = self.anchors();
        let mut symbols = BTreeMap::new();
        for (number, finds) in self.by_name {
            let Some(name) = WANTED.get(number) else { continue };
            let best = finds.iter().min_by_key(|find| {
                let distance = match PRINTK.contains(name) {
                    true => anchors.iter().map(|a| a.abs_diff(find.symbol.address)).min(),
                    false => None,
                };
                (find.home != Home::Printk, distance.unwrap_or(0), !find.global)
            });
            if let Some(best) = best {
                symbols.insert((*name).to_owned(), best.symbol);
            }
        }
        symbols
    }

    /// A function that happens to have a variable's name is not meant.
    fn drop_code(&mut self) {
        for (number, finds) in &mut self.by_name {
            if WANTED.get(*number).is_none_or(|name| !ANYWHERE.contains(name)) {
                finds.retain(|find| find.kind == Kind::Data);
                // ELFv1's `name` is the descriptor of the code at `.name`.
                if self.dotted.get(number).is_some_and(|dotted| *dotted >= finds.len()) {
                    finds.clear();
                }
            }
        }
    }

    /// Where the source says which file a static variable is from, only
    /// `printk.c`'s is meant: 5.10 has no `cont`, but some driver may.
    fn drop_foreign(&mut self) {
        let told = self.by_name.values().flatten().any(|find| find.home == Home::Printk);
        if !told {
            return; // Link-time optimisation: the files are all one.
        }
        for (number, finds) in &mut self.by_name {
            if WANTED.get(*number).is_some_and(|name| PRINTK.contains(name)) {
                finds.retain(|find| find.global || find.home != Home::Elsewhere);
            }
        }
    }

    /// The addresses of `printk.c`'s variables with names nobody else uses:
    /// what else is `printk.c`'s lies near one of them.
    fn anchors(&self) -> Vec<u64> {
        self.by_name
            .iter()
            .filter(|(number, _)| WANTED.get(**number).is_some_and(|name| PRINTK.contains(name)))
            .filter_map(|(_, finds)| match finds.as_slice() {
                [only] => Some(only.symbol.address),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str) -> usize {
        Index::new().number(name.as_bytes()).expect("wanted")
    }

    fn data(address: u64) -> Find {
        let symbol = Symbol { address, size: 0 };
        Find { symbol, kind: Kind::Data, home: Home::Unknown, global: false }
    }

    #[test]
    fn every_wanted_name_is_recognised_and_no_other() {
        let index = Index::new();
        for (n, name) in WANTED.iter().enumerate() {
            assert_eq!(index.number(name.as_bytes()), Some(n));
            assert_eq!(index.number(format!("{name}_").as_bytes()), None);
            let in_table = format!("{name}\0next\0\0\0\0");
            assert!(index.maybe(key(first(in_table.as_bytes()))));
        }
        assert_eq!(index.number(b""), None);
        assert_eq!(index.number(b"schedule"), None);
    }

    #[test]
    fn the_printk_names_are_the_first_of_those_wanted() {
        assert_eq!(PRINTK.first(), Some(&"prb"));
        assert_eq!(PRINTK.last(), Some(&"console_seq"));
        for name in ANYWHERE {
            assert!(WANTED.contains(name) && !PRINTK.contains(name), "{name}");
        }
    }

    #[test]
    fn of_two_log_bufs_the_one_near_the_other_printk_variables_is_taken() {
        let mut finds = Finds::default();
        finds.push(number("log_buf"), data(0x9000_0000));
        finds.push(number("log_buf"), data(0x1000_0010));
        finds.push(number("log_buf_len"), data(0x1000_0000));
        assert_eq!(finds.settle().get("log_buf").map(|s| s.address), Some(0x1000_0010));
    }

    #[test]
    fn a_descriptor_is_not_taken_for_a_variable() {
        let index = Index::new();
        let mut finds = Finds::default();
        finds.offer(&index, 8, b'd', b"con_start");
        finds.offer(&index, 80, b't', b".con_start");
        finds.offer(&index, 16, b'd', b"log_end");
        assert_eq!(finds.settle().keys().collect::<Vec<_>>(), ["log_end"]);
    }

    #[test]
    fn a_static_of_another_file_and_a_function_are_not_taken() {
        let mut finds = Finds::default();
        finds.push(number("cont"), Find { home: Home::Elsewhere, ..data(8) });
        finds.push(number("prb"), Find { home: Home::Printk, ..data(16) });
        finds.push(number("log_end"), Find { kind: Kind::Text, ..data(24) });
        finds.push(number("_stext"), Find { kind: Kind::Text, ..data(32) });
        let symbols = finds.settle();
        assert_eq!(symbols.keys().collect::<Vec<_>>(), ["_stext", "prb"]);
    }
}
