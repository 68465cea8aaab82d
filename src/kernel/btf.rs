//! BTF: the types of a kernel, as it carries them for BPF
//! (Documentation/bpf/btf.rst; in the image since 5.2, where
//! `CONFIG_DEBUG_INFO_BTF` is set).
//!
//! Only what structures consist of is read: enough to say where a field is.
//! The bytes may be a guest's, so nothing in them is believed: every step is
//! bounded by their length.

#![deny(clippy::indexing_slicing)]

use crate::arch::{Arch, Bytes, Word};
use crate::printk::Types;

/// `BTF_MAGIC`, version 1.
const MAGIC: u16 = 0xeb9f;

/// Bytes of the header that are looked at; later versions may have more.
pub const HEADER: usize = 24;

/// No kernel has more of it, in bytes.
const LARGEST: u64 = 24 << 20;

/// How deep types are followed: typedefs of typedefs, structures within
/// structures.
const DEEPEST: usize = 16;

/// How many members are looked at for one field. Those of the ring have a
/// few dozen; structures without names that hold each other would make it
/// more at every level.
const MOST_MEMBERS: usize = 1 << 12;

/// The kinds that matter (`BTF_KIND_*`).
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FLOAT: u32 = 16;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// The types of one kernel.
#[derive(Clone, Debug)]
pub struct Btf<'a> {
    types: Bytes<'a>,
    strings: &'a [u8],
    /// Where each type begins, by its number less one.
    starts: Vec<u32>,
}

/// One type's first words.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    count: usize,
    /// `kind_flag`: members say their number of bits.
    flag: bool,
    /// Size in bytes, or the type it leads to.
    size: u32,
}

/// The length of the BTF that begins with this header, if it is one.
#[must_use]
pub fn length(header: &[u8], arch: Arch) -> Option<u64> {
    let header = Bytes::new(header, arch);
    if header.u16(0)? != MAGIC {
        return None;
    }
    let number = |at| header.u32(at).map(u64::from);
    let (own, types, strings) = (number(4)?, number(8)? + number(12)?, number(16)? + number(20)?);
    let is_sound = header.u8(2)? == 1 && (HEADER as u64..=256).contains(&own) && number(20)? > 0;
    Some(own + types.max(strings)).filter(|length| is_sound && *length <= LARGEST)
}

impl<'a> Btf<'a> {
    /// The BTF that `bytes` begin with; `None` where it makes no sense.
    #[must_use]
    pub fn parse(bytes: &'a [u8], arch: Arch) -> Option<Self> {
        length(bytes, arch)?;
        let all = Bytes::new(bytes, arch);
        let number = |at| all.u32(at).and_then(|number| usize::try_from(number).ok());
        let part = |at, len| all.slice(number(4)?.checked_add(number(at)?)?, number(len)?);
        let types = Bytes::new(part(8, 12)?, arch);
        let strings = part(16, 20)?;
        let mut this = Self { types, strings, starts: Vec::new() };
        let mut at = 0;
        while let Some(kind) = this.read(at) {
            this.starts.push(u32::try_from(at).ok()?);
            at += 12 + kind.rest()?;
        }
        // Cut off, or of a kind whose length nobody knows yet.
        (at == types.data().len()).then_some(this)
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = self.types.u32(at + 4)?;
        Some(Type {
            at,
            name: self.types.u32(at)?,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            flag: info >> 31 == 1,
            size: self.types.u32(at + 8)?,
        })
    }

    /// Whether the string at `at` is that one; looks at no more of it.
    fn is_named(&self, at: u32, name: &[u8]) -> bool {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.strip_prefix(name).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0))
    }

    /// The type of that number, without what only qualifies it.
    fn resolve(&self, number: u32) -> Option<Type> {
        let mut number = number;
        for _ in 0..DEEPEST {
            let at = *self.starts.get((number as usize).checked_sub(1)?)?;
            let found = self.read(at as usize)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    number = found.size
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn structure(&self, name: &str) -> Option<Type> {
        let all = self.starts.iter().filter_map(|at| self.read(*at as usize));
        all.filter(|found| found.kind == kind::STRUCT)
            .find(|found| self.is_named(found.name, name.as_bytes()))
    }

    /// Bytes of a type.
    fn bytes(&self, found: &Type, depth: usize) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        match found.kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                usize::try_from(found.size).ok()
            }
            kind::PTR => Some(match self.types.arch().word {
                Word::W32 => 4,
                Word::W64 => 8,
            }),
            kind::ARRAY => {
                let element = self.resolve(self.types.u32(found.at + 12)?)?;
                let count = usize::try_from(self.types.u32(found.at + 20)?).ok()?;
                self.bytes(&element, depth)?.checked_mul(count)
            }
            _ => None,
        }
    }

    /// A member of a structure, also of one without a name within it: its
    /// first bit, its number of bits, and its type. `left` is how many may
    /// still be looked at.
    fn member(
        &self,
        of: &Type,
        name: &str,
        depth: usize,
        left: &mut usize,
    ) -> Option<(usize, usize, Type)> {
        let depth = depth.checked_sub(1)?;
        if of.kind != kind::STRUCT && of.kind != kind::UNION {
            return None;
        }
        (0..of.count).find_map(|nth| {
            *left = left.checked_sub(1)?;
            let at = of.at + 12 + 12 * nth;
            let own = self.types.u32(at)?;
            let unnamed = self.is_named(own, b"");
            if !unnamed && !self.is_named(own, name.as_bytes()) {
                return None;
            }
            let found = self.resolve(self.types.u32(at + 4)?)?;
            let place = self.types.u32(at + 8)?;
            let (bit, bits) = match of.flag {
                true => ((place & 0xff_ffff) as usize, (place >> 24) as usize),
                false => (place as usize, 0),
            };
            if unnamed {
                let (inner, bits, found) = self.member(&found, name, depth, left)?;
                return Some((bit + inner, bits, found));
            }
            let bits = match bits {
                0 => self.bytes(&found, DEEPEST)?.checked_mul(8)?,
                bits => bits,
            };
            Some((bit, bits, found))
        })
    }
}

impl Type {
    /// Bytes that follow its first three words.
    fn rest(&self) -> Option<usize> {
        Some(match self.kind {
            // Pointers, forward declarations, qualifiers, functions, floats.
            2 | 7..=12 | 16 | 18 => 0,
            // Integers, variables, declarations' tags.
            1 | 14 | 17 => 4,
            3 => 12,
            // Structures and unions, sections, 64-bit enumerations.
            4 | 5 | 15 | 19 => 12 * self.count,
            // Enumerations, prototypes.
            6 | 13 => 8 * self.count,
            _ => return None,
        })
    }
}

impl Types for Btf<'_> {
    fn field(&self, structure: &str, path: &str) -> Option<(usize, usize)> {
        let mut within = self.structure(structure)?;
        let (mut at, mut bits) = (0_usize, 0);
        let mut left = MOST_MEMBERS;
        for name in path.split('.') {
            let (bit, own, found) = self.member(&within, name, DEEPEST, &mut left)?;
            at = at.checked_add(bit)?;
            (bits, within) = (own, found);
        }
        Some((at, bits))
    }

    fn size(&self, structure: &str) -> Option<usize> {
        self.structure(structure).and_then(|found| usize::try_from(found.size).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printk::craft::{RingPlan, btf};
    use crate::printk::{LayoutSource, RingLayout};

    #[test]
    fn fields_are_where_the_types_say_in_either_byte_order() {
        for arch in [Arch::PPC64LE, Arch::PPC64, Arch::PPC32] {
            let bytes = btf(RingPlan { arch, ..RingPlan::SMALL });
            let btf = Btf::parse(&bytes, arch).expect("BTF");
            assert_eq!(btf.size("printk_info"), Some(88));
            assert_eq!(btf.field("printk_info", "text_len"), Some((128, 16)));
            assert_eq!(btf.field("printk_info", "level"), Some((157, 3)));
            assert_eq!(btf.field("printk_info", "dev_info.device"), Some((320, 384)));
            let w = arch.word.bytes();
            assert_eq!(btf.field("prb_desc", "text_blk_lpos.next"), Some((16 * w, 8 * w)));
            assert_eq!(btf.field("prb_desc", "nothing"), None);
            let layout = RingLayout::from_types(&btf, arch, LayoutSource::FileBtf);
            assert!(layout.is_some_and(|layout| layout.is_known(arch.word)), "{layout:?}");
        }
    }

    #[test]
    fn structures_that_hold_each_other_end() {
        let number = |n: u32| n.to_le_bytes();
        let strings = b"\0prb_data_block\0";
        // Itself, four times, without a name.
        let members = [number(0), number(1), number(0)].concat().repeat(4);
        let types = [&[number(1), number(4 << 24 | 4), number(16)].concat()[..], &members].concat();
        let (len, strings_len) = (types.len() as u32, strings.len() as u32);
        let head = [24, 0, len, len, strings_len].map(number).concat();
        let bytes = [&[0x9f, 0xeb, 1, 0][..], &head, &types, strings].concat();
        let btf = Btf::parse(&bytes, Arch::PPC64LE).expect("BTF");
        let begun = std::time::Instant::now();
        assert_eq!(btf.field("prb_data_block", "id"), None);
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    proptest::proptest! {
        #[test]
        fn no_damage_makes_it_panic(
            changes in proptest::collection::vec((0..4096_usize, 0..=255_u8), 0..12),
        ) {
            let mut bytes = btf(RingPlan::SMALL);
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes.splice(at..=at, [value]);
            }
            if let Some(btf) = Btf::parse(&bytes, Arch::PPC64LE) {
                let _ = RingLayout::from_types(&btf, Arch::PPC64LE, LayoutSource::GuestBtf);
            }
        }
    }
}
