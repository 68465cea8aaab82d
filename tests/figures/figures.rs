//! The figures of the README: `cargo bench --bench figures [-- WORD]`.
//!
//! Comparisons are ratios taken in one run, each pair measured in turn, since
//! absolute times don't hold from machine to machine. Needs the stock kernel
//! that `tests/run-all` fetches, `nm`, `hexdump` and a quiet machine.

mod carry;
mod decode;
mod keystroke;
#[path = "../boot/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of real guests")]
mod lab;
mod recipe;
mod scan;

use std::time::{Duration, Instant};

/// The machine that skips slow firmware.
const MACHINE: &[&str] =
    &["-M", "pseries,x-vof=on", "-m", "512", "-display", "none", "-nodefaults"];

fn main() {
    if std::env::var_os(keystroke::FAKE).is_some() {
        return keystroke::fake();
    }
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let figures: &[(&str, fn())] = &[
        // First, for its peak of memory.
        ("symbols", decode::symbols),
        ("answer", recipe::answer),
        ("ring", decode::ring),
        ("records", decode::records),
        ("scan", scan::scan),
        ("start", carry::start),
        ("boot", carry::boot),
        ("idle", carry::idle),
        ("follow", carry::follow),
        ("keystroke", keystroke::keystroke),
        ("binary", carry::binary),
    ];
    for (name, measure) in figures.iter().filter(|(name, _)| name.contains(&word)) {
        println!("{name}:");
        measure();
    }
}

/// The middle of some times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long something takes.
fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// One line of the result.
fn say(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<58} {value}");
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

fn ratio(a: Duration, b: Duration) -> String {
    format!("{:.2}", a.as_secs_f64() / b.as_secs_f64())
}
