//! A guest that prints as fast as it can, bare and wrapped.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::hung::Running;
use super::initramfs::initramfs;
use super::{Aim, MACHINE, hold, lab, median, ratio, say};

/// How much the guest has to show: some megabytes.
const LINES: usize = 20_000;

/// How often each prints.
const ROUNDS: usize = 6;

/// How many bytes the guest shows between its two marks, and for how long.
fn shown(program: &Path, words: &[&str]) -> (usize, Duration) {
    let mut command = Command::new(program);
    command.args(MACHINE).args(["-serial", "stdio"]).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().expect("it starts"));
    let mut stdout = running.0.stdout.take().expect("a pipe");
    let mut text: Vec<u8> = Vec::new();
    let mut begun = None;
    let mut chunk = [0; 1 << 16];
    loop {
        let count = stdout.read(&mut chunk).expect("a pipe");
        assert!(count > 0, "it ended");
        let unsearched = text.len().saturating_sub(16);
        text.extend_from_slice(&chunk[..count]);
        let find = |mark: &[u8]| memchr::memmem::find(&text[unsearched..], mark);
        if begun.is_none() && find(b"kmsg begins").is_some() {
            begun = Some((text.len(), Instant::now()));
        }
        if find(b"kmsg ends").is_some() {
            let (at, begun) = begun.expect("the first mark");
            return (text.len() - at, begun.elapsed());
        }
    }
}

pub fn rate() {
    let Some(kernel) = lab::stock() else { return };
    let Some(talker) = lab::file("init", "talker", false) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let initrd = folder.path().join("initrd");
    initramfs(&talker, &initrd);
    let append =
        format!("console=hvc0 loglevel=0 printk.devkmsg=on log_buf_len=8M panic=-1 -- {LINES}");
    let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
    let words = ["-kernel", &kernel, "-initrd", &initrd, "-append", &append];
    let programs = [Path::new("qemu-system-ppc64").to_owned(), lab::qemu_logbuf()];
    // Bare twice, to see what is noise.
    let runs = [&programs[0], &programs[1], &programs[0]];
    let mut times = [const { Vec::new() }; 3];
    let mut bytes = 0;
    for round in 0..ROUNDS {
        for nth in (0..runs.len()).map(|nth| (nth + round) % runs.len()) {
            let (shown, time) = shown(runs[nth], &words);
            times[nth].push(time);
            bytes = shown;
        }
    }
    let [bare, wrapped, again] = times.map(median);
    let rate = bytes as f64 / 1e6 / bare.as_secs_f64();
    say(&format!("{bytes} bytes on the console, bare, MB a second"), format!("{rate:.2}"));
    say("time bare once more / bare, which is noise", format!("{:.3}", ratio(again, bare)));
    let bare = (bare + again) / 2;
    hold("time wrapped / bare, less noise of 5 %", ratio(wrapped, bare), Aim::Most(1.05));
}
