//! The compressed names, and the markers they are found by.
//!
//! `kallsyms_names` has, for each symbol, a length and so many tokens, which
//! together spell the type letter and the name. `kallsyms_markers` has where
//! every 256th begins, so that the kernel need not go through all. Its
//! numbers ascend from 0 in steps of a certain size, which few other things
//! in memory do; from the last of them follows where the names begin, before
//! which their number must be, and going through all names must meet every
//! marker.
//!
//! | kernels | number of symbols, markers | length | between markers and tokens |
//! |---|---|---|---|
//! | before 4.20 | words | 1 byte | nothing |
//! | 4.20 - | 32-bit (80ffbaa5b1bd "kallsyms: reduce size a little on 64-bit") | 1 byte | nothing |
//! | 6.1 - | 32-bit | 1 byte, or 2 from 0x80 on (73bbb94466fd "kallsyms: support \"big\" kernel symbols") | nothing |
//! | 6.2 - 6.3, 6.1.y | 32-bit | the same | the symbols' order by name, 3 bytes each (60443c88f3a8, 19bd8981dc2e "kallsyms: Reduce the memory occupied by kallsyms_seqs_of_names") |
//! | 6.4 - | 32-bit | the same | nothing |

use super::tokens::Tokens;
use super::{Budget, Place, loose};
use crate::arch::{Arch, Bytes, Word};
use crate::guest::{Memory, ReadError, ram_at};

/// How much before the token table is looked at, in bytes: first what does
/// for every stock kernel, then what does for an `allyesconfig`.
const BEFORE: [u64; 2] = [8 << 20, 32 << 20];

/// The fewest and the most bytes that 256 names take.
const STEP: std::ops::RangeInclusive<u64> = 512..=1 << 17;

/// How many runs of numbers are looked at more closely.
const MOST_RUNS: usize = 1000;

/// The longest name with its type letter, in bytes: `KSYM_NAME_LEN` is 128,
/// since 6.1 512, and scripts/kallsyms.c leaves out what reaches it.
const LONGEST: usize = 512;

/// How many bytes a byte of the table stands for on average, at most. Real
/// tables have less than 3; each token may be longer.
const RATIO: usize = 16;

/// The names of a kernel's symbols, compressed.
#[derive(Clone)]
pub(super) struct Compressed {
    pub(super) arch: Arch,
    /// How many there are.
    pub(super) count: usize,
    /// The number of the symbol that marks the kernel's beginning: `_text`,
    /// else `_stext`.
    pub(super) base: Option<usize>,
    /// The number of `linux_banner`, where it is listed.
    pub(super) banner: Option<usize>,
    /// The word size, where a name tells it. Since 7.0 nothing else in the
    /// tables does.
    pub(super) word: Option<Word>,
    bytes: Vec<u8>,
    tokens: Vec<u8>,
    bounds: Vec<(u16, u16)>,
}

impl Compressed {
    /// The names that belong to `tokens`.
    pub(super) fn before(
        memory: &dyn Memory,
        tokens: &Tokens,
        arch: Arch,
        budget: &mut Budget,
    ) -> Result<Option<(Self, Place)>, ReadError> {
        let Some(ram) = ram_at(memory.ram(), tokens.real) else { return Ok(None) };
        let mut seen = 0;
        for length in BEFORE {
            let start = tokens.real.saturating_sub(length).max(ram.start).next_multiple_of(8);
            let length = tokens.real.saturating_sub(start);
            if length <= seen {
                break;
            }
            seen = length;
            let mut bytes = vec![0; length as usize];
            memory.read(start, &mut bytes)?;
            let region = Region { bytes: Bytes::new(&bytes, arch) };
            if let Some((at, names)) = region.names(tokens, budget) {
                return Ok(Some((names, Place { count: start + at as u64 })));
            }
        }
        Ok(None)
    }

    /// Every name: its type letter and the rest. `None` where one is no name.
    pub(super) fn each(&self, mut each: impl FnMut(u8, &[u8])) -> Option<()> {
        let mut name = Vec::with_capacity(LONGEST);
        let (mut at, mut left) = (0, self.bytes.len().saturating_mul(RATIO));
        for _ in 0..self.count {
            let (tokens, next) = one(&self.bytes, at)?;
            self.unpack(tokens, &mut name)?;
            left = left.checked_sub(name.len())?;
            let (kind, rest) = name.split_first().map_or((b'?', &[][..]), |(k, rest)| (*k, rest));
            each(kind, rest);
            at = next;
        }
        Some(())
    }

    /// The names with these numbers, which ascend, and the numbers.
    pub(super) fn pick(&self, numbers: &[usize]) -> Vec<(usize, u8, Vec<u8>)> {
        let mut picked = Vec::with_capacity(numbers.len());
        let mut name = Vec::with_capacity(LONGEST);
        let (mut at, mut n) = (0, 0);
        for wanted in numbers {
            while let Some((tokens, next)) = one(&self.bytes, at).filter(|_| n <= *wanted) {
                if n == *wanted
                    && self.unpack(tokens, &mut name).is_some()
                    && let Some((kind, rest)) = name.split_first()
                {
                    picked.push((n, *kind, rest.to_vec()));
                }
                at = next;
                n += 1;
            }
        }
        picked
    }

    /// Spell a name out; `None` where it is longer than any.
    fn unpack(&self, tokens: &[u8], name: &mut Vec<u8>) -> Option<()> {
        name.clear();
        for token in tokens {
            let bounds = self.bounds.get(usize::from(*token));
            let (start, end) = bounds.copied().unwrap_or_default();
            let part = self.tokens.get(start.into()..end.into()).unwrap_or_default();
            if part.len() > LONGEST - name.len() {
                return None;
            }
            name.extend(part);
        }
        Some(())
    }

    /// Note the symbols by which a table is checked; `None` where it is none.
    fn find_marks(&mut self) -> Option<()> {
        let (mut text, mut stext, mut banner, mut word, mut n) = (None, None, None, None, 0);
        self.each(|_, name| {
            match name {
                b"_text" => text = Some(n),
                b"_stext" => stext = Some(n),
                b"linux_banner" => banner = Some(n),
                // The first C code of either: setup_64.c, setup_32.c.
                b"early_setup" | b".early_setup" => word = Some(Word::W64),
                b"machine_init" => word = Some(Word::W32),
                _ => {}
            }
            n += 1;
        })?;
        self.base = text.or(stext);
        self.banner = banner;
        self.word = word;
        Some(())
    }
}

/// The tokens of the name at `at`, and where the next name is.
#[inline]
fn one(names: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let low = *names.get(at)?;
    let (length, start) = match low {
        0 => return None,
        1..0x80 => (usize::from(low), at + 1),
        _ => (usize::from(low & 0x7f) | usize::from(*names.get(at + 1)?) << 7, at + 2),
    };
    let end = start + length;
    Some((names.get(start..end)?, end))
}

/// The memory before a token table, at an address that 8 divides.
struct Region<'a> {
    bytes: Bytes<'a>,
}

/// Markers, or what looks like them.
struct Run {
    start: usize,
    width: usize,
    count: usize,
}

impl Region<'_> {
    /// The names, and the offset of their number.
    fn names(&self, tokens: &Tokens, budget: &mut Budget) -> Option<(usize, Compressed)> {
        for run in self.runs().take(MOST_RUNS) {
            // A number behind the markers may happen to continue them.
            for count in [run.count, run.count - 1] {
                let found = self.names_of(&Run { count, ..run }, tokens, budget);
                if found.is_some() || budget.is_spent() {
                    return found;
                }
            }
        }
        None
    }

    /// Runs of ascending numbers from 0, the last in memory first.
    fn runs(&self) -> impl Iterator<Item = Run> {
        let last = self.bytes.data().len() / 4;
        (0..last).rev().map(|n| n * 4).filter(|at| self.bytes.u32(*at) == Some(0)).flat_map(
            move |start| {
                let widths = match self.bytes.arch().word {
                    Word::W64 if start % 8 == 0 => &[4, 8][..],
                    _ => &[4],
                };
                widths.iter().filter_map(move |width| self.run(start, *width))
            },
        )
    }

    fn run(&self, start: usize, width: usize) -> Option<Run> {
        let mut previous = 0;
        let mut count = 1;
        if self.number(start, width)? != 0 {
            return None;
        }
        while let Some(next) = self.number(start + count * width, width) {
            if !next.checked_sub(previous).is_some_and(|step| STEP.contains(&step)) {
                break;
            }
            previous = next;
            count += 1;
        }
        (count > 1).then_some(Run { start, width, count })
    }

    fn number(&self, at: usize, width: usize) -> Option<u64> {
        match width {
            8 => self.bytes.u64(at),
            _ => self.bytes.u32(at).map(u64::from),
        }
    }

    /// The names that have these markers.
    fn names_of(
        &self,
        markers: &Run,
        tokens: &Tokens,
        budget: &mut Budget,
    ) -> Option<(usize, Compressed)> {
        let last = markers.count.checked_sub(1).filter(|last| *last > 0)?;
        let last = self.number(markers.start + last * markers.width, markers.width)?;
        let highest = markers.start.checked_sub(usize::try_from(last).ok()?)? / 4 * 4;
        let lowest = highest.saturating_sub(*STEP.end() as usize);
        for start in (lowest..=highest).rev().step_by(4) {
            budget.take(1)?;
            let Some((count_at, count)) = self.count_before(start, markers.count) else { continue };
            let Some(length) = self.walk(start, count, markers, budget) else { continue };
            let bytes = self.bytes.slice(start, length)?.to_vec();
            let (tokens, bounds) = tokens.flat();
            let arch = self.bytes.arch();
            let (base, banner, word) = (None, None, None);
            let mut names = Compressed { arch, count, base, banner, word, bytes, tokens, bounds };
            // Spelling out takes a few bytes for each name that is one.
            budget.take(length / 4)?;
            if names.find_marks().is_some() {
                return Some((count_at, names));
            }
        }
        None
    }

    /// The number of symbols before names that begin at `start`, and where it
    /// is: right before as 32 bits (in a 32-bit kernel, and since 7.0 aligns
    /// labels to 4), as 32 bits with 4 of alignment, or as a word, which old
    /// kernels align more than it needs.
    fn count_before(&self, start: usize, markers: usize) -> Option<(usize, usize)> {
        let fits = |(at, count): (usize, u64)| {
            let count = usize::try_from(count).ok()?;
            (count.div_ceil(256) == markers).then_some((at, count))
        };
        let near = start.checked_sub(4)?;
        let far = start.checked_sub(8);
        let wide = self.bytes.arch().word == Word::W64;
        let padded = far.filter(|_| wide && self.bytes.u32(near) == Some(0));
        let padded = padded.and_then(|at| Some((at, self.bytes.u32(at)?.into())));
        let word = far.filter(|at| wide && at % 8 == 0);
        let word = word.and_then(|at| Some((at, self.bytes.u64(at)?)));
        let narrow = self.bytes.u32(near).map(|count| (near, count.into()));
        let loose = || {
            let arch = self.bytes.arch();
            let at = start.checked_sub(loose(arch.word) as usize)?;
            let (_, padding) =
                self.bytes.slice(at, start - at)?.split_at_checked(arch.word.bytes())?;
            let count = self.bytes.word(at)?;
            padding.iter().all(|byte| *byte == 0).then_some((at, count))
        };
        [padded, word, narrow].into_iter().flatten().find_map(fits).or_else(|| fits(loose()?))
    }

    /// The length in bytes of `count` names from `start`, if they meet every
    /// marker and end before the markers.
    fn walk(
        &self,
        start: usize,
        count: usize,
        markers: &Run,
        budget: &mut Budget,
    ) -> Option<usize> {
        let names = self.bytes.data().get(start..markers.start)?;
        let mut at = 0;
        for n in 0..count {
            if n % 256 == 0 {
                budget.take(256)?;
                let marker = self.number(markers.start + n / 256 * markers.width, markers.width)?;
                if marker != at as u64 {
                    return None;
                }
            }
            at = one(names, at)?.1;
        }
        // Only alignment follows.
        let rest = names.get(at..)?;
        let most = loose(self.bytes.arch().word) as usize;
        (rest.len() < most && rest.iter().all(|byte| *byte == 0)).then_some(at)
    }
}
