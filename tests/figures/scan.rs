//! The scan of guest memory, against merely reading it by the same way.
//!
//! Bare QEMUs hold the memory: one with a kernel that hangs early, and ones
//! that never run, with RAM untouched or full of random bytes, the worst
//! there is. No machine needs 8 GiB for it: the large guest's RAM is one file
//! mapped eight times over, more than any cache holds.

use std::io::{BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use qemu_logbuf::guest::Memory;
use qemu_logbuf::guest::live::LiveMemory;
use qemu_logbuf::kernel::scan::{self, Verdict};

use super::floor::Bare;
use super::{Aim, hold, lab, median, millis, ratio, say, time};

const GIB: u64 = 1 << 30;

/// Each pair is measured in turn this often.
const ROUNDS: usize = 5;

pub fn scan() {
    let Some(kernel) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let kernel = kernel.to_str().expect("a plain path");
    let early = Bare::with(&["-m", "1G", "-kernel", kernel]);
    let memory = early.memory();
    // Until the kernel is there; the first pass also touches all memory.
    while !matches!(search(&memory), Verdict::Live(found) if found.confirmed) {}
    let (found, all) = measured(&memory);
    say("1 GiB, stock kernel hung early: its ring found", millis(found));
    say("found / that GiB read alone", format!("{:.3}", ratio(found, all)));
    drop((memory, early));

    let untouched = empty("1 GiB untouched, no kernel", &["-m", "1G"]);
    hold("the early ring found / 1 GiB scanned", ratio(found, untouched), Aim::Most(0.1));
    empty("8 GiB untouched, no kernel", &["-m", "8G"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("random");
    fill(&file).expect("room for 1 GiB in the temporary folder");
    for (what, nodes) in [("1 GiB random, no kernel", 1), ("8 GiB random, no kernel", 8)] {
        let mut words = vec!["-m".to_owned(), format!("{nodes}G")];
        for node in 0..nodes {
            let backend = "memory-backend-file,share=on,size=1G";
            words.extend([
                "-object".into(),
                format!("{backend},id=m{node},mem-path={}", file.display()),
            ]);
            words.extend(["-numa".into(), format!("node,memdev=m{node}")]);
        }
        empty(what, &words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A guest that never runs, in whose memory there is no kernel; the time of
/// scanning it.
fn empty(what: &str, words: &[&str]) -> Duration {
    let guest = Bare::with(&[words, &["-S"]].concat());
    let memory = guest.memory();
    read(&memory);
    let (scanned, all) = measured(&memory);
    assert!(!matches!(search(&memory), Verdict::Live(found) if found.confirmed));
    say(&format!("{what}: scanned"), millis(scanned));
    say(&format!("{what}: read alone"), millis(all));
    hold("scanned / read alone", ratio(scanned, all), Aim::Most(1.5));
    scanned
}

/// The times of a scan and of reading all memory.
fn measured(memory: &LiveMemory) -> (Duration, Duration) {
    let (mut scans, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        scans.push(time(|| _ = search(memory)));
        reads.push(time(|| read(memory)));
    }
    (median(scans), median(reads))
}

fn search(memory: &LiveMemory) -> Verdict {
    scan::scan(memory, &mut |_, _| ControlFlow::Continue(())).expect("RAM").verdict
}

/// Read all memory as the scan does, in pieces that the nearest cache holds.
fn read(memory: &LiveMemory) {
    let mut piece = vec![0; 256 << 10];
    for range in memory.ram() {
        for real in range.clone().step_by(piece.len()) {
            memory.read(real, &mut piece).expect("RAM");
        }
    }
}

fn fill(path: &Path) -> std::io::Result<()> {
    let mut random = std::fs::File::open("/dev/urandom")?;
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let mut piece = vec![0; 1 << 20];
    for _ in 0..GIB >> 20 {
        random.read_exact(&mut piece)?;
        file.write_all(&piece)?;
    }
    file.flush()
}
