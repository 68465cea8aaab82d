//! Nobody can tell it is there: each case is run on bare QEMU and through
//! qemu-logbuf, and must give the same output, end, terminal modes and files.
//!
//! `cargo test --test transparent [-- WORD…]` runs the cases whose names hold
//! one of the words, and writes the table to `target/transparent.md`.
//! The word `latency` measures how much later a key arrives.
//! `QEMU_UNDER_TEST=PATH` names another QEMU, and `QEMU_LOGBUF_CASES=README.md`
//! the file whose table gets a row of the result; the table of each case, in
//! `tests/transparent/CASES.md`, then gets a column of it, or a part of that.

mod bytes;
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod fake;
mod forms;
mod inherited;
mod jobs;
#[path = "../boot/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of real guests")]
mod lab;
mod normal;
mod process;
mod run;
mod stage;
mod stdio;
mod summary;
mod table;
mod targets;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use run::{Case, Outcome};
use stage::{Manner, Stage};

/// How many cases run at a time.
const WORKERS: usize = 4;

fn main() -> ExitCode {
    if let Some(part) = std::env::var_os("FAKE_QEMU") {
        return fake::play(&part.to_string_lossy());
    }
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let Some(qemu) = common::real_qemu() else {
        println!("skipped: no qemu-system-ppc64");
        return match std::env::var_os("CI") {
            Some(_) => ExitCode::FAILURE,
            None => ExitCode::SUCCESS,
        };
    };
    let stage = match Stage::set(&qemu) {
        Ok(stage) => stage,
        Err(error) => {
            println!("cannot prepare: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = |case: &Case| {
        words.is_empty() || words.iter().any(|word| case.name.contains(word.as_str()))
    };
    let all: Vec<Case> = groups().into_iter().flat_map(|(_, cases)| cases).collect();
    let names: BTreeSet<_> = all.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), all.len(), "two cases of one name");
    let all: Vec<Case> = all.into_iter().filter(wanted).collect();
    let mut cases = Vec::new();
    for case in &all {
        match stage.lacks(case) {
            None => cases.extend(case.on(stage.major())),
            Some(why) => println!("skipped: {}: {why}", case.name),
        }
    }

    // What takes longest begins first.
    cases.sort_by_key(|case| !case.name.starts_with("clients "));

    if words == ["latency"] {
        return bytes::latency(&stage);
    }
    let start = Instant::now();
    let rows = run_all(&stage, &cases);
    let table = table(&stage, &cases, &rows);
    let _ = std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/target/transparent.md"), &table);
    if let Some(path) = std::env::var_os("QEMU_LOGBUF_CASES") {
        let ran: Vec<_> = cases.iter().copied().zip(rows.iter().cloned()).collect();
        let counts = table::write(&stage.version, &groups(), &all, &ran);
        summary::write(Path::new(&path), &stage.version, &counts);
    }
    let mut failed = 0;
    for (case, outcomes) in cases.iter().zip(&rows) {
        for (manner, outcome) in run::WRAPPED.iter().zip(outcomes) {
            if let Outcome::Differs(_) = outcome {
                failed += 1;
                println!("differs: {} ({})", case.name, manner.name());
            }
        }
    }
    println!(
        "transparent: {} cases on {}, {failed} differences, {:.1} s",
        cases.len(),
        stage.version,
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All cases, under what they have in common.
fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("Before there is a machine: versions, help, lists, start-up errors", forms::cases()),
        ("On a terminal and on what is none: modes, keys, ways out", stdio::cases()),
        ("Under a shell's job control", jobs::cases()),
        ("What a process inherits, as a fake QEMU sees it", inherited::cases()),
        ("As a process: signals, ends, files, descriptors, monitors", process::cases()),
        ("Other targets", targets::cases()),
        ("Other clients of QEMU, while reports are made", clients::cases()),
        ("Bytes typed, complete and in order, as a fake QEMU stores them", bytes::cases()),
    ]
}

/// Run the cases, a few at a time; for each case its outcomes.
fn run_all(stage: &Stage, cases: &[Case]) -> Vec<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(vec![Vec::new(); cases.len()]);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return };
                    let begun = Instant::now();
                    let outcomes = run::compare(stage, case);
                    let verdict = if outcomes.iter().all(|o| !matches!(o, Outcome::Differs(_))) {
                        "ok"
                    } else {
                        "DIFFERS"
                    };
                    println!("{verdict:8}{:5.1} s  {}", begun.elapsed().as_secs_f64(), case.name);
                    for (manner, outcome) in run::WRAPPED.iter().zip(&outcomes) {
                        if let Outcome::Differs(how) = outcome {
                            println!("--- {} ({})\n{how}", case.name, manner.name());
                        }
                    }
                    rows.lock().expect("no worker panics with it")[at] = outcomes;
                }
            });
        }
    });
    rows.into_inner().expect("no worker panics with it")
}

/// Case by manner, as a table for people.
fn table(stage: &Stage, cases: &[Case], rows: &[Vec<Outcome>]) -> String {
    let mut table =
        format!("| {} | as its parent | with its pid |\n|---|---|---|\n", stage.version);
    for (case, outcomes) in cases.iter().zip(rows) {
        let cell = |manner: Manner| {
            let at = run::WRAPPED.iter().position(|other| *other == manner);
            match at.and_then(|at| outcomes.get(at)) {
                Some(Outcome::Same) => "same",
                Some(Outcome::SameAgain) => "same, the second time",
                Some(Outcome::Differs(_)) => "DIFFERS",
                None => "–",
            }
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} |",
            case.name,
            cell(Manner::Parent),
            cell(Manner::SamePid)
        );
    }
    table
}
