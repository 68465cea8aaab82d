//! Rings of 16 MiB that hold nothing but lies, and as much of what leads to
//! them ([`super::forged`]): each is answered in under a second and in under
//! 64 MB, and harmlessly.
//!
//! A liar is read in a process of its own, whose peak of resident memory and
//! time of processor are then known. Its memory is a file, so that only what
//! the decoder takes is counted.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use qemu_logbuf::arch::Arch;
use qemu_logbuf::guest::{AddressRule, Memory, ReadError, View};
use qemu_logbuf::printk::bytes::ByteLog;
use qemu_logbuf::printk::craft::{
    ByteWriter, Line, RingPlan, RingWriter, Sheet, VariablePlan, VariableWriter,
};
use qemu_logbuf::printk::ringbuffer::Ring;
use qemu_logbuf::printk::variable::VariableLog;
use qemu_logbuf::printk::{Error, LogBuffer};
use qemu_logbuf::report::{self, Format, Report, Style, Verdict};

use super::forged;

/// What each may take at most.
const MEMORY_KIB: u64 = 64 << 10;
const TIME: Duration = Duration::from_secs(1);

const RING: RingPlan = RingPlan { count_bits: 19, ..RingPlan::SMALL };
const VARIABLE: VariablePlan = VariablePlan { size: 16 << 20, ..VariablePlan::SMALL };
const SIZE: usize = 16 << 20;

/// Where a log is, and how it is read; or what else is.
enum Place {
    Ring,
    Variable,
    Bytes,
    Kallsyms,
    Types,
    Elf,
    Core,
}

/// A liar: what it is, and its memory.
struct Liar {
    name: &'static str,
    place: Place,
    make: fn() -> Sheet,
}

const LIARS: &[Liar] = &[
    Liar { name: "ring-noise", place: Place::Ring, make: ring_of_noise },
    Liar { name: "ring-controls", place: Place::Ring, make: || ring_of(22, b'\x1b') },
    Liar { name: "ring-all-claimed", place: Place::Ring, make: ring_of_claims },
    Liar { name: "variable-noise", place: Place::Variable, make: variable_of_noise },
    Liar { name: "variable-empty", place: Place::Variable, make: || variable_of(b"") },
    Liar { name: "variable-controls", place: Place::Variable, make: || variable_of(&[0x9b; 900]) },
    Liar { name: "bytes-noise", place: Place::Bytes, make: || bytes_of(noise) },
    Liar { name: "bytes-lines", place: Place::Bytes, make: || bytes_of(|at| b"a\n"[at % 2]) },
    Liar { name: "bytes-controls", place: Place::Bytes, make: || bytes_of(|_| 0x1b) },
    Liar { name: "kallsyms-long", place: Place::Kallsyms, make: forged::long_names },
    Liar { name: "kallsyms-word", place: Place::Kallsyms, make: forged::repeated_word },
    Liar { name: "kallsyms-marks", place: Place::Kallsyms, make: forged::many_markers },
    Liar { name: "kallsyms-digits", place: Place::Kallsyms, make: forged::many_digits },
    Liar { name: "btf-unnamed", place: Place::Types, make: forged::unnamed_members },
    Liar { name: "btf-strings", place: Place::Types, make: forged::endless_strings },
    Liar { name: "btf-headers", place: Place::Types, make: forged::many_headers },
    Liar { name: "elf-notes", place: Place::Elf, make: forged::many_notes },
    Liar { name: "elf-sections", place: Place::Elf, make: forged::long_section_names },
    Liar { name: "elf-symbols", place: Place::Elf, make: forged::many_symbols },
    Liar { name: "core-pieces", place: Place::Core, make: forged::many_pieces },
];

/// A byte that follows from its place and from nothing else.
fn noise(at: usize) -> u8 {
    let mixed = (at as u64 ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29) as u8
}

fn spoil(sheet: &mut Sheet, range: Range<usize>) {
    for at in range {
        sheet.bytes[at] = noise(at);
    }
}

/// A ring full of records of `len` bytes.
fn full_ring(len: usize, byte: u8) -> RingWriter {
    let mut writer = RingWriter::new(RING);
    let line = Line::new(vec![byte; len]);
    for _ in 0..1_u32 << RING.count_bits {
        writer.print(&line);
    }
    writer
}

fn ring_of(len: usize, byte: u8) -> Sheet {
    full_ring(len, byte).sheet
}

/// Nothing is true but the header.
fn ring_of_noise() -> Sheet {
    let writer = full_ring(22, b'x');
    let range = writer.descs_at()..writer.data_at() + SIZE;
    let mut sheet = writer.sheet;
    spoil(&mut sheet, range);
    sheet
}

/// Each record says that nearly all of the ring is its text.
fn ring_of_claims() -> Sheet {
    let writer = full_ring(22, b'\x1b');
    let (descs, infos, count) = (writer.descs_at(), writer.infos_at(), writer.count() as usize);
    let mut sheet = writer.sheet;
    for place in 0..count {
        let begin = sheet.word(descs + place * 24 + 8);
        sheet.put_word(descs + place * 24 + 16, begin.wrapping_add(SIZE as u64 - 8));
        sheet.put_number(infos + place * RING.info_stride + 16, 0xffff, 2);
    }
    sheet
}

fn variable_of(text: &[u8]) -> Sheet {
    let mut writer = VariableWriter::new(VARIABLE);
    let line = Line::new(text);
    for _ in 0..SIZE / (16 + text.len()) {
        writer.print(&line);
    }
    writer.sheet
}

fn variable_of_noise() -> Sheet {
    let writer = VariableWriter::new(VARIABLE);
    let (_, at) = writer.buffer();
    let mut sheet = variable_of(&[b'x'; 100]);
    // Its first record is true: what follows it is not.
    spoil(&mut sheet, at + 116..at + SIZE);
    sheet
}

fn bytes_of(byte: impl Fn(usize) -> u8) -> Sheet {
    let writer = ByteWriter::new(Arch::PPC64, SIZE, false);
    let (buffer, symbols) = (writer.buffer(), writer.symbols());
    let mut sheet = writer.sheet;
    let begin = sheet.address(0);
    let offset = |address: u64| (address - begin) as usize;
    for at in 0..SIZE {
        sheet.bytes[offset(buffer) + at] = byte(at);
    }
    sheet.put_number(offset(symbols.log_end), SIZE as u64, 4);
    sheet.put_number(offset(symbols.logged_chars.expect("known")), SIZE as u64, 4);
    sheet
}

/// Guest memory that is a file.
struct Stored {
    file: File,
    ram: Range<u64>,
}

impl Memory for Stored {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let ram = &self.ram;
        let at = real.checked_sub(ram.start).filter(|_| real + buf.len() as u64 <= ram.end);
        let at = at.ok_or(ReadError::NotRam { address: real, len: buf.len() as u64 })?;
        Ok(self.file.read_exact_at(buf, at)?)
    }

    fn ram(&self) -> &[Range<u64>] {
        std::slice::from_ref(&self.ram)
    }
}

/// Counts what is shown, and what of it would move a cursor.
#[derive(Default)]
struct Shown {
    bytes: usize,
    harmful: usize,
    last: u8,
}

impl Write for Shown {
    fn write(&mut self, page: &[u8]) -> io::Result<usize> {
        self.bytes += page.len();
        for &byte in page {
            let control = byte < b' ' && !b"\n\t".contains(&byte) || byte == 0x7f;
            // U+0080 to U+009F.
            let second = self.last == 0xc2 && (0x80..0xa0).contains(&byte);
            self.harmful += usize::from(control || second);
            self.last = byte;
        }
        Ok(page.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The base of a liar's memory and a way to its log.
fn open(place: &Place, view: &View<'_>) -> Result<LogBuffer, Error> {
    Ok(match place {
        Place::Ring => {
            let prb = RingWriter::new(RingPlan::SMALL).prb();
            LogBuffer::Ringbuffer(Box::new(Ring::open(view, prb)?))
        }
        Place::Variable => {
            LogBuffer::Variable(VariableLog::open(view, VariableWriter::new(VARIABLE).symbols())?)
        }
        _ => {
            let symbols = ByteWriter::new(Arch::PPC64, 4096, false).symbols();
            LogBuffer::Bytes(ByteLog::open(view, symbols)?)
        }
    })
}

/// Read a log and show it; how many entries it has.
fn read(place: &Place, view: &View<'_>, shown: &mut Shown) -> usize {
    let (entries, answer) = match open(place, view).and_then(|buffer| buffer.read(view)) {
        Ok(log) => (log.entries.len(), Report::new(Verdict::Log(log))),
        Err(error) => {
            (0, Report::new(Verdict::Failed { what: error.to_string(), remedy: String::new() }))
        }
    };
    report::write(&answer, Format::Dmesg, Style::default(), shown).expect("counted");
    entries
}

const LIE: &str = "QEMU_LOGBUF_TEST_LIE";

/// One liar is read, as the environment has it.
#[test]
#[ignore = "the test below runs it, in a process of its own"]
fn one_lie() {
    let lie = std::env::var(LIE).expect("a name and a file");
    let (name, path) = lie.split_once(' ').expect("both");
    let liar = LIARS.iter().find(|liar| liar.name == name).expect("a liar");
    let file = File::open(path).expect("its memory");
    let (base, arch) = match liar.place {
        Place::Ring => (RING.base, RING.arch),
        Place::Variable => (VARIABLE.base, VARIABLE.arch),
        Place::Bytes => (0x0040_0000, Arch::PPC64),
        _ => (0, Arch::PPC64LE),
    };
    let len = file.metadata().expect("a length").len();
    let memory = Stored { file, ram: base..base + len };
    let view = View::new(&memory, arch, AddressRule::Linear64);
    // What this process did before is not the liar's.
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak is forgotten");
    let begun = spent();
    let mut shown = Shown::default();
    let entries = match liar.place {
        Place::Kallsyms => forged::kallsyms(view.memory(), &mut shown),
        Place::Types => forged::scan(view.memory()),
        Place::Elf => forged::elf(Path::new(path)),
        Place::Core => forged::core(Path::new(path)),
        _ => read(&liar.place, &view, &mut shown),
    };
    let status = std::fs::read_to_string("/proc/self/status").expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    let time = spent().saturating_sub(begun);
    println!(
        "{name}: {entries} entries, {} bytes shown, {} MB, {} ms",
        shown.bytes,
        kib >> 10,
        time.as_millis()
    );
    assert_eq!(shown.harmful, 0, "control characters");
    assert!(kib <= MEMORY_KIB, "{kib} KiB");
    assert!(time <= TIME, "{time:?}");
}

/// Processor time: others may be busy.
fn spent() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    [usage.user_time(), usage.system_time()]
        .map(|time| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64))
        .iter()
        .sum()
}

/// A file of what a liar is; an ELF file goes on for 5 GiB of holes.
fn stored(liar: &Liar, folder: &Path) -> PathBuf {
    let path = folder.join("memory");
    std::fs::write(&path, (liar.make)().bytes).expect("room");
    if matches!(liar.place, Place::Elf) {
        let file = File::options().write(true).open(&path).expect("written");
        file.set_len(5 << 30).expect("holes");
    }
    path
}

#[test]
fn lies_are_answered_in_bounded_time_and_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut failed = Vec::new();
    for liar in LIARS {
        let path = stored(liar, folder.path());
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "lies::one_lie", "--ignored", "--nocapture"])
            .env(LIE, format!("{} {}", liar.name, path.display()))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&child.stdout);
        println!("{}", said.lines().find(|line| line.starts_with(liar.name)).unwrap_or(&said));
        if !child.status.success() {
            failed.push(format!("{}: {}", liar.name, String::from_utf8_lossy(&child.stderr)));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
