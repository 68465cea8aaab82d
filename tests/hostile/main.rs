//! Bytes that mean harm: the entries that `fuzz/` fuzzes, run on seeds, on
//! damage done to them, and on whatever was ever found.

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "fuzzers use the rest")]
mod fuzz;

use std::path::Path;

#[test]
fn what_fuzzing_found_stays_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for (name, target) in fuzz::TARGETS {
        let Ok(files) = std::fs::read_dir(folder.join(name)) else { continue };
        for file in files.flatten() {
            println!("{}", file.path().display());
            target(&std::fs::read(file.path()).expect("it can be read"));
        }
    }
}

#[test]
fn seeds_and_damaged_seeds_do_no_harm() {
    let seeds = fuzz::seeds::all();
    for (name, _) in fuzz::TARGETS {
        assert!(seeds.iter().any(|(target, _)| target == name), "no seed for {name}");
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for (name, seed) in &seeds {
        fuzz::run(name, seed);
        for _ in 0..20 {
            let mut bytes = seed.clone();
            for _ in 0..=next() % 8 {
                let at = next() as usize % bytes.len();
                // Near the beginning as often as anywhere: that is where
                // structures are.
                let at = if next() & 1 == 0 { at } else { at % 600 };
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = next() as u8;
                }
            }
            if next() & 7 == 0 {
                bytes.truncate(next() as usize % bytes.len());
            }
            fuzz::run(name, &bytes);
        }
    }
}
