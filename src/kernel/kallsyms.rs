//! kallsyms: the symbol table a kernel carries in its own read-only data.
//!
//! Written by `scripts/kallsyms.c` at the end of the kernel's build, so it is
//! in every image and in guest memory from the moment the image is loaded.
//! Which symbols are in it depends on `CONFIG_KALLSYMS_ALL`: without (stock
//! Debian 6.1) only code, with it (trixie and later) data too, `prb` among
//! them.
//!
//! It is found by its token table (`tokens`), from which the names are
//! found, and from these the addresses. Its form changed over the years:
//!
//! | kernels | addresses | where |
//! |---|---|---|
//! | before 4.6 | words, as linked | before the names |
//! | 4.6 - 6.3 | 32-bit, relative to a base that follows them (2213e9a66bb8 "kallsyms: add support for relative offsets in kallsyms address table") | before the names |
//! | 6.4 - 6.19 | the same | behind the token index (404bad70fcf7 "scripts/kallsyms: change the output order") |
//! | 7.0 and later | 32-bit, relative to their own place; absolute in a 32-bit kernel that is not relocatable (a081b5789255 "kallsyms: Get rid of kallsyms relative base") | behind the token index |
//!
//! Which it is follows from no version number: all are tried, and the one is
//! taken by which `_text` lies at the base of a kernel, the addresses ascend,
//! and a banner is at `linux_banner` if that is listed. Ascending addresses
//! alone would prove nothing: with a wrong base they still ascend.

#![deny(clippy::indexing_slicing)]

mod names;
mod tokens;

use std::path::PathBuf;

use self::names::Compressed;
use self::tokens::Tokens;
use super::banner;
use super::error::SourceError;
use super::functions::{Builder, Functions};
use super::names::{Names, Source};
use super::resolve::{Nearest, Place as Placed, Resolve};
use super::types::KernelTypes;
use super::wanted::{Finds, Index, is_code};
use crate::arch::{Arch, Bytes, Word};
use crate::guest::{AddressRule, Memory, ReadError, is_ram, ram_at};

/// How much memory is searched in one read, in bytes.
const PIECE: usize = 1 << 20;

/// How many token tables are looked at more closely. A running kernel and the
/// image it was copied from make two.
const MOST_TABLES: usize = 16;

/// `PAGE_OFFSET` of 32-bit kernels: the default, and what the memory split
/// options of `arch/powerpc/Kconfig` make of it.
const PAGE_OFFSETS: [u32; 4] = [0xc000_0000, 0xb000_0000, 0x8000_0000, 0x7000_0000];

/// The farthest a kernel's symbols lie from its base, in bytes.
const REACH: u64 = 1 << 30;

/// How much work a search may be, about in names looked at: what a guest
/// holds may look like a table from many places. Of the kernels
/// tried, from 3.4 to 7.0, none takes more than a fortieth of it.
const MOST_WORK: usize = 1 << 26;

/// What one look at what may be a token table costs of it: 32 KiB are read.
const TOKENS_WORK: usize = 1 << 12;

/// What is left of a search's work.
struct Budget(usize);

impl Budget {
    fn take(&mut self, work: usize) -> Option<()> {
        let left = self.0.checked_sub(work);
        self.0 = left.unwrap_or(0);
        left.map(|_| ())
    }

    const fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// A kernel's own symbol table.
#[derive(Clone)]
pub struct Kallsyms {
    names: Compressed,
    addresses: Addresses,
    rule: AddressRule,
    base: u64,
    banner: Option<Vec<u8>>,
    real: u64,
}

/// How the addresses are stored; the bytes are those of the table.
#[derive(Clone)]
enum Addresses {
    /// One word each.
    Absolute(Vec<u8>),
    /// Unsigned 32-bit distances from a base.
    Based(u64, Vec<u8>),
    /// Signed 32-bit distances from their own effective address, of which
    /// the first is given.
    Placed(u64, Vec<u8>),
    /// 32-bit addresses.
    Narrow(Vec<u8>),
}

impl Addresses {
    fn get(&self, n: usize, arch: Arch) -> Option<u64> {
        let n4 = n.checked_mul(4)?;
        let mask = match arch.word {
            Word::W32 => 0xffff_ffff,
            Word::W64 => u64::MAX,
        };
        Some(match self {
            Self::Absolute(words) => {
                Bytes::new(words, arch).word(n.checked_mul(arch.word.bytes())?)?
            }
            Self::Based(base, offsets) => {
                base.wrapping_add(u64::from(Bytes::new(offsets, arch).u32(n4)?)) & mask
            }
            Self::Placed(place, offsets) => {
                let offset = Bytes::new(offsets, arch).u32(n4)? as i32;
                place.wrapping_add(n4 as u64).wrapping_add_signed(offset.into()) & mask
            }
            Self::Narrow(addresses) => Bytes::new(addresses, arch).u32(n4)?.into(),
        })
    }
}

/// The lowest kallsyms in `memory` that makes sense: that of the running
/// kernel, or of an image loaded and not yet entered.
///
/// Reads RAM upwards until it is found; a kernel without `CONFIG_KALLSYMS`
/// costs reading all of it.
///
/// # Errors
/// As the holder of the memory fails, a cancelled read among them.
pub fn find(memory: &dyn Memory) -> Result<Option<Kallsyms>, ReadError> {
    let finder = memchr::memmem::Finder::new(tokens::DIGITS);
    let overlap = tokens::DIGITS.len() - 1;
    let mut buf = vec![0; PIECE + overlap];
    let mut tables = 0;
    let mut budget = Budget(MOST_WORK);
    for range in memory.ram() {
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let piece = buf.get_mut(..left.min(PIECE + overlap)).unwrap_or_default();
            memory.read(at, piece)?;
            for digits in finder.find_iter(piece) {
                if tables == MOST_TABLES || budget.take(TOKENS_WORK).is_none() {
                    return Ok(None);
                }
                let Some(tokens) = Tokens::around(memory, at + digits as u64)? else { continue };
                if let Some(found) = Kallsyms::at(memory, tokens, &mut budget)? {
                    return Ok(Some(found));
                }
                tables += 1;
            }
            at += PIECE as u64;
        }
    }
    Ok(None)
}

impl Kallsyms {
    /// What the kernel was compiled for.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.names.arch
    }

    /// How its addresses become real ones.
    #[must_use]
    pub const fn rule(&self) -> AddressRule {
        self.rule
    }

    /// The effective address of the kernel's beginning (`_text`).
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The real address of the token table it was found by. That of a kernel
    /// running at real address 0 lies within the kernel's own extent; one
    /// higher by a load address is of an image not (or no longer) in use.
    #[must_use]
    pub const fn real(&self) -> u64 {
        self.real
    }

    /// Every symbol: effective address, type as `nm` has it, name. In
    /// ascending order of addresses.
    pub fn each(&self, mut each: impl FnMut(u64, u8, &[u8])) {
        let mut n = 0;
        // All are names: the table was gone through when it was found.
        let _ = self.names.each(|kind, name| {
            if let Some(address) = self.addresses.get(n, self.names.arch) {
                each(address, kind, name);
            }
            n += 1;
        });
    }

    /// How many symbols there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.names.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.names.count == 0
    }

    /// The names that lead to the log, of the kernel in the guest.
    #[must_use]
    pub fn guest_names(&self) -> Names {
        self.names_from(Source::GuestKallsyms)
    }

    /// The names that lead to the log, of the kernel in the file at `path`.
    #[must_use]
    pub fn image_names(&self, path: PathBuf) -> Names {
        self.names_from(Source::ImageKallsyms(path))
    }

    fn names_from(&self, source: Source) -> Names {
        let index = Index::new();
        let mut finds = Finds::default();
        self.each(|address, letter, name| finds.offer(&index, address, letter, name));
        let (arch, banner) = (Some(self.names.arch), self.banner.clone());
        Names { source, arch, banner, symbols: finds.settle(), types: KernelTypes::default() }
    }

    /// The functions, to name addresses in code.
    #[must_use]
    pub fn functions(&self) -> Functions {
        let mut builder = Builder::new(Some(self.names.arch));
        self.each(|address, kind, name| {
            if is_code(kind) {
                builder.push(address, 0, kind == b'T', name);
            }
        });
        builder.finish()
    }

    /// The kallsyms whose token table this is.
    fn at(
        memory: &dyn Memory,
        tokens: Tokens,
        budget: &mut Budget,
    ) -> Result<Option<Self>, ReadError> {
        for word in [Word::W64, Word::W32] {
            let arch = Arch { word, endian: tokens.endian };
            let found = Compressed::before(memory, &tokens, arch, budget)?;
            let Some((names, place)) = found else { continue };
            if names.word.is_some_and(|told| told != word) {
                continue;
            }
            for rule in rules(word) {
                for addresses in candidates(memory, &tokens, &names, &place, rule) {
                    let found = Self::checked(memory, &names, addresses, rule, &tokens, budget);
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(None)
    }

    /// The whole, if these addresses make sense.
    fn checked(
        memory: &dyn Memory,
        names: &Compressed,
        addresses: Addresses,
        rule: AddressRule,
        tokens: &Tokens,
        budget: &mut Budget,
    ) -> Option<Self> {
        let arch = names.arch;
        let base = Self::base_by(names, &addresses, rule)?;
        budget.take(names.count)?;
        let mut previous = 0;
        let mut within = 0;
        for n in 0..names.count {
            let address = addresses.get(n, arch)?;
            if address < previous {
                return None;
            }
            previous = address;
            within += usize::from((base..base + REACH).contains(&address));
        }
        // Before 4.6, absolute symbols (checksums of exported ones) came
        // first; they are no addresses.
        if within < names.count / 4 {
            return None;
        }
        let banner = match names.banner {
            Some(n) => Some(banner_at(memory, rule.real(addresses.get(n, arch)?)?)?),
            None => None,
        };
        Some(Self { names: names.clone(), addresses, rule, base, banner, real: tokens.real })
    }

    /// The effective address of the kernel's beginning, if it can be one.
    fn base_by(names: &Compressed, addresses: &Addresses, rule: AddressRule) -> Option<u64> {
        let base = addresses.get(names.base?, names.arch)?;
        let aligned = match rule {
            // Linked to the beginning of the linear map; a kdump kernel runs
            // some multiple of 64 KiB higher.
            AddressRule::Linear64 => base >> 60 == 0xc && base & 0xffff == 0,
            // Likewise; `_stext` of a Book-E kernel may be some pages in.
            AddressRule::Linear32 { page_offset, .. } => {
                base & 0xfff == 0
                    && (u64::from(page_offset)..u64::from(page_offset) + REACH / 4).contains(&base)
            }
        };
        aligned.then_some(base)
    }
}

impl Resolve for Kallsyms {
    fn resolve(&self, addresses: &[u64]) -> Result<Vec<Option<Placed>>, SourceError> {
        let arch = self.names.arch;
        let mut nearest = Nearest::new(addresses);
        for n in 0..self.names.count {
            if let Some(address) = self.addresses.get(n, arch) {
                nearest.offer(address, 0, || n);
            }
        }
        // Only these are worth unpacking.
        let mut kept: Vec<usize> = nearest.kept().copied().collect();
        kept.sort_unstable();
        kept.dedup();
        let names = self.names.pick(&kept);
        nearest.settle(Some(arch), |n| {
            let at = names.binary_search_by_key(n, |(number, ..)| *number).ok();
            let name = at.and_then(|at| names.get(at)).filter(|(_, kind, _)| is_code(*kind));
            Ok(name.map(|(_, kind, name)| (*kind == b'T', name.clone())))
        })
    }
}

impl std::fmt::Debug for Kallsyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let form = match self.addresses {
            Addresses::Absolute(_) => "absolute",
            Addresses::Based(..) => "based",
            Addresses::Placed(..) => "placed",
            Addresses::Narrow(_) => "narrow",
        };
        let (arch, count) = (self.names.arch, self.names.count);
        write!(f, "Kallsyms({arch}, {count} symbols, {form}, at {:#x})", self.real)
    }
}

fn rules(word: Word) -> Vec<AddressRule> {
    match word {
        Word::W64 => vec![AddressRule::Linear64],
        Word::W32 => PAGE_OFFSETS
            .map(|page_offset| AddressRule::Linear32 { page_offset, memstart: 0 })
            .to_vec(),
    }
}

/// Where the parts of a table were found, by real address.
struct Place {
    /// `kallsyms_num_syms`, and whatever is before it.
    count: u64,
}

/// Every way the addresses of `names` may be stored.
fn candidates(
    memory: &dyn Memory,
    tokens: &Tokens,
    names: &Compressed,
    place: &Place,
    rule: AddressRule,
) -> Vec<Addresses> {
    let arch = names.arch;
    let word = arch.word.bytes() as u64;
    let narrow = names.count as u64 * 4;
    let wide = names.count as u64 * word;
    let fetch = |at: Option<u64>, length: u64| {
        let at = at?;
        if !is_ram(memory.ram(), at, length) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        memory.read(at, &mut bytes).ok().map(|()| bytes)
    };
    let number = |at: Option<u64>| Bytes::new(&fetch(at, word)?, arch).word(0);

    let mut found = Vec::new();
    // Behind the token index, which is as long as it is aligned: what follows
    // begins at once, be labels aligned to 8 (until 6.19) or to 4.
    let behind = fetch(Some(tokens.end), narrow);
    if let Some(offsets) = behind {
        let base = number((tokens.end + narrow).checked_next_multiple_of(word));
        if let Some(base) = base {
            found.push(Addresses::Based(base, offsets.clone()));
        }
        if arch.word == Word::W32 {
            found.push(Addresses::Narrow(offsets.clone()));
        }
        found.push(Addresses::Placed(rule.effective(tokens.end), offsets));
    }
    // Before the number of symbols, each padded to where the next begins.
    for align in [word, loose(arch.word)] {
        let before = |at: u64, length: u64| Some(at.checked_sub(length)? / align * align);
        let base_at = before(place.count, word);
        let start = base_at.and_then(|at| before(at, narrow));
        if let (Some(base), Some(offsets)) = (number(base_at), fetch(start, narrow)) {
            found.push(Addresses::Based(base, offsets));
        }
        if let Some(words) = fetch(before(place.count, wide), wide) {
            found.push(Addresses::Absolute(words));
        }
    }
    found
}

/// What labels are aligned to in old kernels: `.align 8` in a 64-bit one and
/// `.align 4` in a 32-bit one are powers of two on this architecture. 4.4 has
/// it so; 5.10 says `.balign`.
const fn loose(word: Word) -> u64 {
    match word {
        Word::W64 => 256,
        Word::W32 => 16,
    }
}

/// The banner at a real address, `None` where there is none.
fn banner_at(memory: &dyn Memory, real: u64) -> Option<Vec<u8>> {
    let end = ram_at(memory.ram(), real)?.end;
    let mut bytes = vec![0; usize::try_from(end - real).ok()?.min(banner::LONGEST)];
    memory.read(real, &mut bytes).ok()?;
    banner::starting(&bytes).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ERAS, Era, Table};
    use super::*;
    use crate::guest::Image;

    const ARCHES: [Arch; 3] = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];
    const BANNER: &[u8] = b"Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu\n\0";
    const BANNER_AT: usize = 0xc000;
    const TABLE_AT: usize = 0x1_2000;

    fn base(arch: Arch) -> u64 {
        match arch.word {
            Word::W32 => 0xc000_0000,
            Word::W64 => 0xc000_0000_0000_0000,
        }
    }

    /// RAM with a kernel at 0, and its table `shift` bytes off a round place.
    fn ram(arch: Arch, era: Era, shift: usize) -> Vec<u8> {
        let base = base(arch);
        let table = Table::sample(arch, base, base + BANNER_AT as u64);
        let at = TABLE_AT + shift;
        let table = table.encode(arch, era, base + at as u64);
        let mut ram = vec![0x60; 0x4_0000];
        ram.splice(BANNER_AT..BANNER_AT + BANNER.len(), BANNER.iter().copied());
        ram.splice(at..at + table.len(), table);
        ram
    }

    fn found(ram: Vec<u8>) -> Option<Kallsyms> {
        find(&Image::new(0, ram)).expect("readable")
    }

    #[test]
    fn every_symbol_of_every_era_is_decoded() {
        for arch in ARCHES {
            for era in ERAS {
                // Labels are aligned to 4 since 7.0, to a word before, and
                // very much in old kernels.
                let shifts = match era {
                    Era::V2_6 | Era::V4_6 => [0, 256],
                    Era::V4_20 | Era::V6_2 | Era::V6_4 => [0, 8],
                    Era::V7_0 => [0, 4],
                };
                for shift in shifts {
                    let kallsyms = found(ram(arch, era, shift));
                    let kallsyms = kallsyms.unwrap_or_else(|| panic!("{arch} {era:?} {shift}"));
                    let expected = Table::sample(arch, base(arch), base(arch) + BANNER_AT as u64);
                    let mut got = Vec::new();
                    kallsyms.each(|address, letter, name| {
                        got.push((address, letter, String::from_utf8_lossy(name).into_owned()));
                    });
                    assert!(got == expected.symbols, "{arch} {era:?} {shift}: {kallsyms:?}");
                    assert_eq!((kallsyms.arch(), kallsyms.base()), (arch, base(arch)));
                }
            }
        }
    }

    #[test]
    fn names_and_functions_are_taken_from_it() {
        let kallsyms = found(ram(Arch::PPC64LE, Era::V6_4, 0)).expect("found");
        let names = kallsyms.guest_names();
        assert_eq!(names.address("prb"), Some(0xc000_0000_0001_0000));
        assert_eq!(names.banner.as_deref(), BANNER.strip_suffix(b"\n\0"));
        assert_eq!(names.source, Source::GuestKallsyms);
        let functions = kallsyms.functions();
        assert_eq!(functions.resolve(0xc000_0000_0000_0013), Some(("some_function_0", 3)));
    }

    #[test]
    fn a_table_without_its_banner_in_place_is_not_believed() {
        for era in ERAS {
            let mut ram = ram(Arch::PPC64LE, era, 0);
            ram.splice(BANNER_AT..BANNER_AT + 5, *b"Linus");
            assert!(found(ram).is_none(), "{era:?}");
        }
    }

    #[test]
    fn of_a_kernel_and_the_image_it_came_from_the_kernel_is_found() {
        for era in ERAS {
            let kernel = ram(Arch::PPC64, era, 0);
            let real = found(kernel.clone()).expect("found").real();
            let twice = [kernel.clone(), vec![0; 0x4_0000], kernel].concat();
            assert_eq!(found(twice).expect("found").real(), real);
        }
    }

    #[test]
    fn a_table_across_two_reads_is_found() {
        let kernel = ram(Arch::PPC64, Era::V4_6, 0);
        let digits = memchr::memmem::find(&kernel, tokens::DIGITS).expect("there");
        for back in [1, 10, 19] {
            // The memory begins so that the digits lie across a boundary.
            let start = PIECE - digits - back;
            let image = Image::new(0, vec![0; 8]).with(0x100_0000 - start as u64, vec![0; start]);
            let image = image.with(0x100_0000, kernel.clone());
            // Found, and not believed: that kernel is not at its address.
            assert!(find(&image).expect("readable").is_none());
        }
        let moved = [vec![0; 16], kernel].concat();
        assert!(found(moved).is_none());
    }

    #[test]
    fn empty_memory_has_none() {
        assert!(found(Vec::new()).is_none());
        assert!(found(vec![0; 0x1000]).is_none());
        assert!(found(tokens::DIGITS.repeat(1000)).is_none());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]
        #[test]
        fn no_damage_makes_it_panic(
            arch in 0..3_usize,
            era in 0..6_usize,
            changes in proptest::collection::vec((TABLE_AT..0x2_8000, 0..=255_u8), 0..9),
            length in TABLE_AT..0x4_0000,
        ) {
            let arch = ARCHES.get(arch).copied().unwrap_or(Arch::PPC32);
            let mut ram = ram(arch, ERAS.get(era).copied().unwrap_or(Era::V7_0), 0);
            for (at, value) in changes {
                ram.splice(at..=at, [value]);
            }
            ram.truncate(length);
            if let Some(kallsyms) = found(ram) {
                let _ = kallsyms.guest_names();
                let _ = kallsyms.functions();
            }
        }
    }
}
