//! The answer, against the bare transfer of its bytes and the manual recipe.

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::floor::{self, Bare, soon};
use super::hung::{Answerer, ROUNDS};
use super::{Aim, hold, lab, median, millis, ratio, say, time};

/// How often answerers take turns.
const TURNS: usize = 3;

pub fn answer() {
    if lab::stock_hung_in("register_early_udbg_console").is_none() {
        return;
    }
    let stock = |words: &'static [&str]| move || Answerer::stock(words).expect("as before");
    let [log, bare_log] = medians([&stock(&["--logbuf-where=off"]), &|| floor::start("log")]);
    let [report, bare_report] = medians([&stock(&[]), &|| floor::start("registers")]);

    let kernel = lab::stock_hung_in("register_early_udbg_console").expect("there already");
    let bare = Bare::start(&kernel);
    let memory = bare.memory();
    let names = floor::names(&kernel);
    let transfer = floor::transfer(&memory, &names);
    let by_process = transfer.time(&memory);
    memory.forbid_process();
    let by_save = transfer.time(&memory);
    let made = || drop(black_box(floor::report(&memory, &names).expect("a report")));
    let made_by_save = median((0..ROUNDS).map(|_| time(made)).collect());
    let recipe = median((0..9).map(|_| time(|| bare.recipe(&kernel))).collect());

    let bytes = transfer.bytes();
    say("the log alone, signal to last byte", millis(log));
    say(&format!("its {bytes} bytes by process_vm_readv, signal to last byte"), millis(bare_log));
    hold("log alone / bare transfer", ratio(log, bare_log), Aim::Most(2.0));
    say("with where each CPU is, signal to last byte", millis(report));
    say("its bytes and registers, signal to last byte", millis(bare_report));
    hold("with CPUs / bare transfer", ratio(report, bare_report), Aim::Most(2.0));
    say("the reads alone, nobody to be woken", millis(by_process));
    say("the reads by pmemsave, nobody to be woken", millis(by_save));
    hold("decoded by pmemsave / those reads", ratio(made_by_save, by_save), Aim::Most(2.0));
    say("the recipe: nm, dump-guest-memory, hexdump", millis(recipe));
    hold("recipe / with CPUs", ratio(recipe, report), Aim::Least(200.0));
    hold("recipe / log alone", ratio(recipe, log), Aim::Least(200.0));
}

/// The median time from the signal to the last byte of each answerer's report.
/// Each is asked alone, since its guest takes one of the host's processors,
/// and in turn, since that may be busier at one time than at another.
fn medians<const N: usize>(answerers: [&dyn Fn() -> Answerer; N]) -> [Duration; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..TURNS {
        for (start, times) in answerers.iter().zip(&mut times) {
            let mut answerer = start();
            times.extend((0..ROUNDS).map(|_| time(|| drop(answerer.ask()))));
        }
    }
    times.map(median)
}

impl Bare {
    /// What one types otherwise, as fast as a script types it.
    fn recipe(&self, kernel: &Path) {
        let out = Command::new("nm").arg(kernel).output().expect("nm runs");
        let text = String::from_utf8_lossy(&out.stdout);
        let line = text.lines().find(|line| line.ends_with(" __log_buf")).expect("__log_buf");
        let address = u64::from_str_radix(&line[..16], 16).expect("an address");
        let file: PathBuf = self.folder.path().join("tmp");
        let command = format!(
            "dump-guest-memory {} {:#x} 262144",
            file.display(),
            address & 0x0fff_ffff_ffff_ffff
        );
        let answer = self.monitor.lock().hmp(&command, soon()).expect("a dump");
        assert!(answer.trim().is_empty(), "{answer}");
        let dump = File::create(self.folder.path().join("dump")).expect("a file");
        let status = Command::new("hexdump").arg("-C").arg(&file).stdout(dump).status();
        assert!(status.expect("hexdump runs").success());
    }
}
