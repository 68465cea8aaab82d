//! A short fuzzing without a fuzzer, on any toolchain: what `fuzz/seeds` and
//! `fuzz/src/seeds.rs` hold is damaged at random for some seconds.
//!
//! `QEMU_LOGBUF_FUZZ_SECONDS` says how many, `QEMU_LOGBUF_FUZZ_SEED` repeats a
//! run. An input that breaks something is left in `target/hostile`; it belongs
//! into `fuzz/regressions/TARGET`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::fuzz;

/// How long for all targets together, unless the environment says so.
const SECONDS: u64 = 10;

/// Longer than any of these is a hang.
const LONGEST: Duration = Duration::from_secs(10);

/// Numbers that are at an edge of something.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// xorshift64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than `limit`, or 0.
    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit.max(1)
    }
}

/// Seeds, and what a fuzzer has found to be interesting.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let made = fuzz::seeds::all().into_iter().filter(|(name, _)| *name == target);
    let mut corpus: Vec<_> = made.map(|(_, bytes)| bytes).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    corpus.extend(files.map(|file| std::fs::read(file.path()).expect("it can be read")));
    corpus
}

/// Damage some of it.
fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        // Near the beginning as often as anywhere: structures are there.
        let at = if random.next() & 1 == 0 { at } else { at % 600 };
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                let from = random.below(other.len());
                let piece = &other[from..(from + 1 + random.below(64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            3 => {
                let size = 1 << random.below(4);
                let number = EDGES[random.below(EDGES.len())].wrapping_add(random.next() % 3);
                let number = match random.next() & 1 {
                    0 => number.to_le_bytes(),
                    _ => (number << (64 - 8 * size)).to_be_bytes(),
                };
                bytes.iter_mut().skip(at).zip(&number[..size]).for_each(|(to, from)| *to = *from);
            }
            4 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
        }
    }
}

/// Run one input; it is kept where it breaks something.
fn run(name: &str, target: fuzz::Target, bytes: &[u8]) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    if outcome.is_ok() && begun.elapsed() < LONGEST {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/hostile");
    let path = folder.join(format!("{name}-{:016x}", begun.elapsed().as_nanos()));
    std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, bytes)).expect("room");
    panic!("{name} is broken by {}, after {:?}", path.display(), begun.elapsed());
}

#[test]
fn what_is_damaged_at_random_does_no_harm() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64;
    let seed = number("QEMU_LOGBUF_FUZZ_SEED").unwrap_or(now) | 1;
    let all = Duration::from_secs(number("QEMU_LOGBUF_FUZZ_SECONDS").unwrap_or(SECONDS));
    println!("QEMU_LOGBUF_FUZZ_SEED={seed}");
    for (name, target) in fuzz::TARGETS {
        let mut random = Random(seed);
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "no seed for {name}");
        for bytes in &corpus {
            run(name, *target, bytes);
        }
        let mut runs = 0;
        let begun = Instant::now();
        while begun.elapsed() < all / fuzz::TARGETS.len() as u32 {
            let mut bytes = corpus[random.below(corpus.len())].clone();
            let other = &corpus[random.below(corpus.len())];
            damage(&mut bytes, other, &mut random);
            run(name, *target, &bytes);
            runs += 1;
        }
        println!("{name}: {} inputs, and {runs} damaged", corpus.len());
    }
}
