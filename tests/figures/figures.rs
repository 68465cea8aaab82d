//! The figures of the README: `cargo bench --bench figures [-- WORD]`.
//!
//! Comparisons are ratios taken in one run, each pair measured in turn, since
//! absolute times don't hold from machine to machine. Where there is an aim it
//! stands beside the figure, and whether it is met. Needs the stock kernel and
//! the talker that `tests/run-all` fetches and builds, `nm`, `hexdump` and a
//! quiet machine; what else is missing is said.

mod carry;
mod console;
mod decode;
mod floor;
mod hung;
#[path = "../boot/initramfs.rs"]
mod initramfs;
mod keystroke;
#[path = "../boot/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of real guests")]
mod lab;
mod lx;
mod recipe;
mod scan;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The machine that skips slow firmware.
const MACHINE: &[&str] =
    &["-M", "pseries,x-vof=on", "-m", "512", "-display", "none", "-nodefaults"];

/// How many aims were missed.
static MISSED: AtomicUsize = AtomicUsize::new(0);

fn main() {
    if std::env::var_os(keystroke::FAKE).is_some() {
        return keystroke::fake();
    }
    if let Some(way) = std::env::var_os(floor::WAY) {
        return floor::serve(&way);
    }
    if !lab::example("hang-kernel").is_file() {
        // Which makes the kernel that hangs; `cargo bench` does not build it.
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--release", "--example", "hang-kernel"]);
        assert!(build.status().is_ok_and(|status| status.success()), "it cannot be built");
    }
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let figures: &[(&str, fn())] = &[
        // First, for its peak of memory.
        ("symbols", decode::symbols),
        ("answer", recipe::answer),
        ("lx-dmesg", lx::answer),
        ("ring", decode::ring),
        ("records", decode::records),
        ("scan", scan::scan),
        ("start", carry::start),
        ("boot", carry::boot),
        ("console", console::rate),
        ("idle", carry::idle),
        ("follow", carry::follow),
        ("keystroke", keystroke::keystroke),
        ("binary", carry::binary),
    ];
    for (name, measure) in figures.iter().filter(|(name, _)| name.contains(&word)) {
        println!("{name}:");
        measure();
    }
    println!("aims missed: {}", MISSED.load(Ordering::Relaxed));
}

/// What a figure should be.
#[derive(Clone, Copy)]
enum Aim {
    Most(f64),
    Least(f64),
}

/// One line of the result, held against its aim.
fn hold(what: &str, value: f64, aim: Aim) {
    let (met, words) = match aim {
        Aim::Most(limit) => (value <= limit, format!("at most {limit}")),
        Aim::Least(limit) => (value >= limit, format!("at least {limit}")),
    };
    if !met {
        MISSED.fetch_add(1, Ordering::Relaxed);
    }
    let verdict = if met { "met" } else { "MISSED" };
    // Whole numbers are counts.
    let value = if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") };
    println!("  {what:<58} {value:<12} {words}: {verdict}");
}

/// One line of the result.
fn say(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<58} {value}");
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

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
