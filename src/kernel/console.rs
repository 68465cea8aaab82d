//! What a kernel's consoles have printed of its log, by the sequence numbers
//! the kernel keeps for itself.
//!
//! | kernels | where the number is |
//! |---|---|
//! | 3.5 - 5.18 | `console_seq`, one for all consoles (7ff9554bb578 "printk: convert byte-buffer to variable-length record buffer") |
//! | 5.19 - | `struct console.seq`, each console its own (a699449bb13b "printk: refactor and rework printing logic") |
//! | 6.7 - | `nbcon_seq` for consoles with `CON_NBCON` (ad56ebd1d778 "printk: nbcon: Add sequence handling") |
//!
//! The consoles are chained by `console_drivers` and `next`, since 6.2 by
//! `console_list` and `node` (6f8836756f7d "printk: Convert console_drivers
//! list to hlist"). What comes before these in the structure has not changed
//! since 5.19, and everything read is checked: a name, flags, a number that
//! the log has reached.

#![deny(clippy::indexing_slicing)]

use super::names::Names;
use crate::arch::{Bytes, Word};
use crate::guest::View;

/// More consoles than anybody registers.
const MOST: usize = 32;

/// `CON_ENABLED`.
const ENABLED: u16 = 1 << 2;

/// `CON_NBCON`.
const NBCON: u16 = 1 << 8;

/// All flags there are, with some room for those to come.
const FLAGS: u16 = 0x0fff;

/// How far the consoles have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    /// No console is registered: nothing was printed.
    Nothing,
    /// All records before this sequence number were printed by one at least,
    /// or passed over for their level.
    Before(u64),
    /// It cannot be told; why not.
    Unknown(&'static str),
}

/// What the consoles of the kernel in `view` have printed, a kernel that
/// `names` are of and that runs `displacement` bytes above where it was
/// linked to. `next` is the sequence number that its next record will have.
#[must_use]
pub fn printed(view: &View<'_>, names: &Names, displacement: u64, next: u64) -> Printed {
    let address = |name| Some(names.address(name)?.wrapping_add(displacement));
    let list = address("console_drivers").map(|list| (list, Link::Next));
    let list = list.or_else(|| address("console_list").map(|list| (list, Link::Node)));
    let first = list.map(|(list, _)| view.word(list));
    if matches!(first, Some(Ok(0))) {
        return Printed::Nothing;
    }
    if let Some(common) = address("console_seq") {
        let mut raw = [0; 8];
        let read = view.read(common, &mut raw).is_ok();
        return match Bytes::new(&raw, view.arch()).u64(0).filter(|seq| read && *seq <= next) {
            Some(seq) => Printed::Before(seq),
            None => Printed::Unknown("console_seq makes no sense"),
        };
    }
    match (list, first) {
        (Some((_, link)), Some(Ok(first))) => walk(view, first, link, next),
        (Some(_), _) => Printed::Unknown("its list of consoles can't be read"),
        (None, _) => Printed::Unknown("none of the names tell where its consoles are"),
    }
}

/// By what a console is chained.
#[derive(Clone, Copy)]
enum Link {
    /// `next`, a pointer to the next console.
    Next,
    /// `node`, a pointer to the next console's own `node`.
    Node,
}

/// Where the fields of `struct console` are.
struct Layout {
    flags: usize,
    seq: usize,
    /// Of `next` or `node`.
    link: usize,
    /// Where `nbcon_seq` may be: behind four functions (6.12), one, or none.
    nbcon: [usize; 3],
    size: usize,
}

impl Layout {
    /// `char name[16]`, seven functions, `short flags, index`, three numbers
    /// of 32 bits, `u64 seq`, `unsigned long dropped`, `void *data`, the link.
    const fn of(word: Word) -> Self {
        match word {
            Word::W64 => Self { flags: 72, seq: 88, link: 112, nbcon: [168, 144, 136], size: 176 },
            Word::W32 => Self { flags: 44, seq: 64, link: 80, nbcon: [108, 96, 92], size: 112 },
        }
    }
}

fn walk(view: &View<'_>, first: u64, link: Link, next: u64) -> Printed {
    let layout = Layout::of(view.arch().word);
    let mut printed = Printed::Nothing;
    let mut at = first;
    for _ in 0..MOST {
        if at == 0 {
            return printed;
        }
        let console = match link {
            Link::Next => at,
            Link::Node => at.wrapping_sub(layout.link as u64),
        };
        let Ok(bytes) = view.bytes(console, layout.size) else {
            return Printed::Unknown("a console of its list can't be read");
        };
        let bytes = Bytes::new(&bytes, view.arch());
        let Some(flags) = flags(bytes, &layout) else {
            return Printed::Unknown("what is in its list of consoles is none");
        };
        if flags & ENABLED != 0 {
            let Some(seq) = sequence(bytes, &layout, flags, next) else {
                return Printed::Unknown("a console's sequence number makes no sense");
            };
            printed = match printed {
                Printed::Before(other) => Printed::Before(seq.max(other)),
                _ => Printed::Before(seq),
            };
        }
        at = bytes.word(layout.link).unwrap_or(0);
    }
    Printed::Unknown("its list of consoles has no end")
}

/// A console's flags, if it is one.
fn flags(bytes: Bytes<'_>, layout: &Layout) -> Option<u16> {
    let name = bytes.slice(0, 16)?;
    let length = name.iter().position(|byte| *byte == 0)?;
    let named = length > 0 && name.iter().take(length).all(u8::is_ascii_graphic);
    bytes.u16(layout.flags).filter(|flags| named && flags & !FLAGS == 0)
}

/// The number of the next record that a console will print.
fn sequence(bytes: Bytes<'_>, layout: &Layout, flags: u16, next: u64) -> Option<u64> {
    if flags & NBCON == 0 {
        return bytes.u64(layout.seq).filter(|seq| *seq <= next);
    }
    layout.nbcon.iter().find_map(|at| bytes.word(*at).filter(|seq| (1..=next).contains(seq)))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::arch::{Arch, Endian};
    use crate::guest::{AddressRule, Image};
    use crate::kernel::KernelTypes;
    use crate::kernel::names::{Source, Symbol};

    /// Memory of a kernel with these consoles: flags and number of each.
    struct Made {
        arch: Arch,
        bytes: Vec<u8>,
        symbols: BTreeMap<String, Symbol>,
    }

    impl Made {
        fn new(arch: Arch) -> Self {
            Self { arch, bytes: vec![0; 0x1000], symbols: BTreeMap::new() }
        }

        fn rule(&self) -> AddressRule {
            match self.arch.word {
                Word::W64 => AddressRule::Linear64,
                Word::W32 => AddressRule::PPC32,
            }
        }

        fn put(&mut self, at: usize, value: u64, size: usize) {
            let bytes: Vec<u8> = match self.arch.endian {
                Endian::Little => value.to_le_bytes().into_iter().take(size).collect(),
                Endian::Big => value.to_be_bytes().into_iter().skip(8 - size).collect(),
            };
            self.bytes.splice(at..at + size, bytes);
        }

        fn symbol(&mut self, name: &str, real: u64) {
            let address = self.rule().effective(real);
            self.symbols.insert(name.to_owned(), Symbol { address, size: 8 });
        }

        fn consoles(&mut self, link: Link, consoles: &[(u16, u64)]) {
            let (layout, word) = (Layout::of(self.arch.word), self.arch.word.bytes());
            let (name, offset) = match link {
                Link::Next => ("console_drivers", 0),
                Link::Node => ("console_list", layout.link as u64),
            };
            self.symbol(name, 0x100);
            let mut pointer = 0x100;
            for (n, (flags, seq)) in consoles.iter().enumerate() {
                let at = 0x200 * (n + 1);
                self.put(pointer, self.rule().effective(at as u64 + offset), word);
                self.bytes.splice(at..at + 4, *b"hvc0");
                self.put(at + layout.flags, (*flags).into(), 2);
                let (place, size) = match flags & NBCON {
                    0 => (layout.seq, 8),
                    _ => (layout.nbcon.first().copied().unwrap_or_default(), word),
                };
                self.put(at + place, *seq, size);
                pointer = at + layout.link;
            }
        }

        fn printed(&self) -> Printed {
            let memory = Image::new(0, self.bytes.clone());
            let view = View::new(&memory, self.arch, self.rule());
            let symbols = self.symbols.clone();
            let types = KernelTypes::default();
            let names = Names { source: Source::Scan, arch: None, banner: None, symbols, types };
            printed(&view, &names, 0, 100)
        }
    }

    #[test]
    fn the_console_that_has_printed_most_counts() {
        for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
            for link in [Link::Next, Link::Node] {
                let of = |consoles: &[(u16, u64)]| {
                    let mut made = Made::new(arch);
                    made.consoles(link, consoles);
                    made.printed()
                };
                assert_eq!(of(&[]), Printed::Nothing);
                assert_eq!(of(&[(0, 50)]), Printed::Nothing, "none is enabled");
                assert_eq!(of(&[(7, 40), (5, 60), (1, 90)]), Printed::Before(60));
                assert_eq!(of(&[(7 | NBCON, 33)]), Printed::Before(33));
                assert!(matches!(of(&[(7, 101)]), Printed::Unknown(_)), "not printed yet");
                assert!(matches!(of(&[(0x7007, 3)]), Printed::Unknown(_)), "no flags");
            }
        }
    }

    #[test]
    fn one_number_for_all_consoles_is_read_before_5_19() {
        let mut made = Made::new(Arch::PPC64);
        made.symbol("console_seq", 0x80);
        made.put(0x80, 77, 8);
        assert_eq!(made.printed(), Printed::Before(77));
        made.symbol("console_drivers", 0x100);
        assert_eq!(made.printed(), Printed::Nothing, "none is registered");
        made.put(0x100, 0xc000_0000_0000_0200, 8);
        assert_eq!(made.printed(), Printed::Before(77));
        made.put(0x80, 101, 8);
        assert!(matches!(made.printed(), Printed::Unknown(_)));
    }

    #[test]
    fn what_makes_no_sense_is_said_to_be_unknown() {
        assert!(matches!(Made::new(Arch::PPC64LE).printed(), Printed::Unknown(_)));
        let mut made = Made::new(Arch::PPC64LE);
        made.consoles(Link::Node, &[(7, 1)]);
        made.put(0x200, 0x1b00, 8);
        assert!(matches!(made.printed(), Printed::Unknown(_)), "no name");
        let mut made = Made::new(Arch::PPC64LE);
        made.consoles(Link::Next, &[(7, 1)]);
        made.put(0x200 + 112, 0xc000_0000_0000_0200, 8);
        assert!(matches!(made.printed(), Printed::Unknown(_)), "a ring");
        made.put(0x100, 0xc000_0000_0fff_0000, 8);
        assert!(matches!(made.printed(), Printed::Unknown(_)), "not RAM");
    }
}
