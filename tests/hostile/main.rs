//! Bytes that mean harm: the entries that `fuzz/` fuzzes, run on seeds, on
//! damage done to them, and on whatever was ever found; and lies by the MiB.

mod forged;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "fuzzers use the rest")]
mod fuzz;
mod lies;
mod mutate;

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
