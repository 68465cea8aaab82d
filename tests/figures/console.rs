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
const ROUNDS: usize = 5;

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
    let (mut bare, mut wrapped) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let (shown_bare, time) = shown(Path::new("qemu-system-ppc64"), &words);
        bare.push(time);
        bytes = shown_bare;
        wrapped.push(shown(&lab::qemu_logbuf(), &words).1);
    }
    let (bare, wrapped) = (median(bare), median(wrapped));
    let rate = bytes as f64 / 1e6 / bare.as_secs_f64();
    say(&format!("{bytes} bytes on the console, bare, MB a second"), format!("{rate:.2}"));
    let ratio = ratio(wrapped, bare);
    hold("time wrapped / bare, less noise of 5 %", ratio, Aim::Most(1.05));
}
