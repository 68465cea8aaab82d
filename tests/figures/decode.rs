//! Decoding alone: rings, records, symbols.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_logbuf::guest::{AddressRule, View};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::printk::craft::{Line, RingPlan, RingWriter};
use qemu_logbuf::printk::ringbuffer::Ring;
use qemu_logbuf::report::{self, Format, Report, Style, Verdict};

use super::{lab, median, millis, say, time};

/// Decode and print a ring; how much was printed.
fn print(writer: &RingWriter, image: &qemu_logbuf::guest::Image) -> usize {
    let view = View::new(image, writer.plan().arch, AddressRule::Linear64);
    let log = Ring::open(&view, writer.prb()).and_then(|ring| ring.read(&view)).expect("a log");
    report::render(&Report::new(Verdict::Log(log)), Format::Dmesg, Style::default()).len()
}

fn filled(count_bits: u32, records: u64) -> RingWriter {
    let mut writer = RingWriter::new(RingPlan { count_bits, ..RingPlan::SMALL });
    for number in 0..records {
        // Sixty bytes or so, as the kernel's own lines are.
        writer
            .print(&Line::new(format!("device {number:08}: registered as something of the kind")));
    }
    writer
}

pub fn ring() {
    // 2^19 descriptors, 16 MiB of text, which 250,000 such records fill.
    let writer = filled(19, 250_000);
    let image = writer.sheet.image();
    let spent = median((0..5).map(|_| time(|| _ = black_box(print(&writer, &image)))).collect());
    let rate = 16.0 * 1.048_576 / spent.as_secs_f64();
    say("a ring of 16 MiB decoded and printed", millis(spent));
    say("MB of ring a second (aim: 200)", format!("{rate:.0}"));
}

pub fn records() {
    for records in [10_u64, 100, 1_000, 10_000, 100_000] {
        let writer = filled(18, records);
        let image = writer.sheet.image();
        let spent =
            median((0..9).map(|_| time(|| _ = black_box(print(&writer, &image)))).collect());
        let each = spent.as_nanos() as f64 / records as f64;
        say(&format!("{records} records, ns each"), format!("{each:.0}"));
    }
}

pub fn symbols() {
    let Some(kernel) = lab::stock() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let big = folder.path().join("vmlinux");
    let dwarf = folder.path().join("dwarf");
    std::fs::File::create(&dwarf).and_then(|file| file.set_len(500 << 20)).expect("room");
    let objcopy = |program: &str| {
        Command::new(program)
            .arg(format!("--add-section=.debug_info={}", dwarf.display()))
            .args([&kernel, &big])
            .status()
            .is_ok_and(|status| status.success())
    };
    if !["powerpc64le-linux-gnu-objcopy", "objcopy"].iter().any(|program| objcopy(program)) {
        println!("  skipped: no objcopy for powerpc64le (binutils-powerpc64le-linux-gnu)");
        return;
    }
    let names = median((0..9).map(|_| time(|| names_of(&big))).collect::<Vec<Duration>>());
    say("names of a vmlinux with 500 MB of DWARF", millis(names));
    let status = std::fs::read_to_string("/proc/self/status").expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    say("peak resident of this process (aim: 16 MB)", peak.trim());
}

fn names_of(path: &Path) {
    black_box(Elf::open(path).and_then(|elf| elf.names()).expect("names"));
}
