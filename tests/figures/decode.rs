//! Decoding alone: rings, records, symbols.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use object::{Object, ObjectSection, ReadCache};
use qemu_logbuf::guest::{AddressRule, View};
use qemu_logbuf::kernel::elf::Elf;
use qemu_logbuf::printk::craft::{Line, RingPlan, RingWriter};
use qemu_logbuf::printk::ringbuffer::Ring;
use qemu_logbuf::report::{self, Format, Report, Style, Verdict};

use super::{Aim, hold, lab, median, millis, ratio, say, time};

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
    hold("MB of ring a second", rate, Aim::Least(200.0));
}

pub fn records() {
    let mut costs = Vec::new();
    for records in [10_u64, 100, 1_000, 10_000, 100_000] {
        // As large a ring as a kernel has for so many.
        let writer = filled((records + 1).next_power_of_two().ilog2().max(6), records);
        let image = writer.sheet.image();
        let spent =
            median((0..9).map(|_| time(|| _ = black_box(print(&writer, &image)))).collect());
        let each = spent.as_nanos() as f64 / records as f64;
        say(&format!("{records} records, ns each"), format!("{each:.0}"));
        costs.push(each);
    }
    // What a report costs before its first record is in the first.
    let fixed = costs.first().map_or(0.0, |first| (first - costs[1]).max(0.0) * 10.0);
    say("of which once a report, ns", format!("{fixed:.0}"));
    let (least, most) = costs[1..]
        .iter()
        .fold((f64::MAX, 0.0_f64), |(least, most), cost| (least.min(*cost), most.max(*cost)));
    hold("dearest / cheapest, of 100 to 100,000", most / least, Aim::Most(2.0));
}

pub fn symbols() {
    let Some(kernel) = lab::stock() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let big = folder.path().join("vmlinux");
    let dwarf = folder.path().join("dwarf");
    File::create(&dwarf).and_then(|file| file.set_len(500 << 20)).expect("room");
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
    let peak: f64 = peak.split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a size");
    hold("peak resident of this process, MB", peak * 1024.0 / 1e6, Aim::Most(16.0));
    // Last, as it may take memory of its own.
    let tables = Tables::of(&big);
    let read = median((0..9).map(|_| time(|| tables.read())).collect());
    say(&format!("reading its .symtab and .strtab, {} bytes", tables.bytes()), millis(read));
    hold("names / that", ratio(names, read), Aim::Most(2.0));
}

fn names_of(path: &Path) {
    black_box(Elf::open(path).and_then(|elf| elf.names()).expect("names"));
}

/// Where a file has its symbols and their names.
struct Tables {
    file: File,
    ranges: Vec<(u64, u64)>,
}

impl Tables {
    fn of(path: &Path) -> Self {
        let file = File::open(path).expect("it is there");
        let cache = ReadCache::new(&file);
        let elf = object::File::parse(&cache).expect("an ELF file");
        let range = |name| elf.section_by_name(name)?.file_range();
        let ranges = [".symtab", ".strtab"].map(|name| range(name).expect("a table")).to_vec();
        Self { file, ranges }
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(_, len)| len).sum()
    }

    /// Read them once, a piece at a time.
    fn read(&self) {
        let mut piece = [0; 1 << 16];
        for &(start, len) in &self.ranges {
            let mut done = 0;
            while done < len {
                let now = (len - done).min(piece.len() as u64);
                let piece = &mut piece[..now as usize];
                self.file.read_exact_at(piece, start + done).expect("all of it");
                black_box(piece);
                done += now;
            }
        }
    }
}
