//! Decoders of guest memory.
//!
//! The first eight bytes of an input choose what the kernel is compiled for,
//! where the memory begins and where in it to look; the rest is the memory.

use std::ops::ControlFlow;

use qemu_logbuf::arch::{Arch, Endian, Word};
use qemu_logbuf::guest::{AddressRule, Cpu, Image, View};
use qemu_logbuf::kernel::activity::{Extent, Place, Sample, judge};
use qemu_logbuf::kernel::btf::Btf;
use qemu_logbuf::kernel::console::printed;
use qemu_logbuf::kernel::stack::Walker;
use qemu_logbuf::kernel::{self, Identity, KernelTypes, identify, locate, open_found};
use qemu_logbuf::printk::bytes::ByteLog;
use qemu_logbuf::printk::craft::{ByteWriter, VariablePlan, VariableWriter};
use qemu_logbuf::printk::ringbuffer::{Ring, RingHints};
use qemu_logbuf::printk::variable::VariableLog;
use qemu_logbuf::printk::{self, LayoutSource, Log, LogBuffer, RingLayout, Types};
use qemu_logbuf::report::{self, CpuLine, Format, Report, Style, Verdict};

/// What the first byte chooses from.
pub const ARCHS: [Arch; 4] =
    [Arch::PPC64LE, Arch::PPC64, Arch::PPC32, Arch { word: Word::W32, endian: Endian::Little }];

/// Real addresses that memory may begin at; the second byte chooses.
pub const BASES: [u64; 4] = [0, 0x0040_0000, 0x0100_0000, 0x0200_0000];

/// An input taken apart.
struct Guest {
    arch: Arch,
    base: u64,
    /// Bytes 2 and 3.
    hint: u16,
    /// Bytes 4 to 7: where in the memory to look.
    offset: u64,
    image: Image,
    len: usize,
}

impl Guest {
    fn of(data: &[u8]) -> Option<Self> {
        let (&[arch, base, h0, h1, o0, o1, o2, o3], memory) = data.split_first_chunk::<8>()?;
        let base = BASES[usize::from(base) % BASES.len()];
        Some(Self {
            arch: ARCHS[usize::from(arch) % ARCHS.len()],
            base,
            hint: u16::from_le_bytes([h0, h1]),
            offset: u32::from_le_bytes([o0, o1, o2, o3]).into(),
            image: Image::new(base, memory.to_vec()),
            len: memory.len(),
        })
    }

    fn rule(&self) -> AddressRule {
        match self.arch.word {
            Word::W32 => AddressRule::PPC32,
            Word::W64 => AddressRule::Linear64,
        }
    }

    fn view(&self) -> View<'_> {
        View::new(&self.image, self.arch, self.rule())
    }

    fn at(&self) -> u64 {
        self.rule().effective(self.base.wrapping_add(self.offset))
    }
}

/// 5.10 and later.
pub fn ringbuffer(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let hints = RingHints { info_stride: (guest.hint != 0).then_some(guest.hint.into()) };
    let Ok(ring) = Ring::open_with(&guest.view(), guest.at(), hints) else { return };
    let _ = ring.vouch(&guest.view());
    if let Ok(log) = ring.salvage(&guest.view()) {
        shown(log, guest.len);
    }
    read(&LogBuffer::Ringbuffer(Box::new(ring)), &guest);
}

/// 3.5 to 5.9.
pub fn variable(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let plan = VariablePlan { arch: guest.arch, base: guest.base, ..VariablePlan::SMALL };
    let symbols = VariableWriter::new(plan).symbols();
    if let Ok(log) = VariableLog::open(&guest.view(), symbols) {
        read(&LogBuffer::Variable(log), &guest);
    }
    let size = guest.len.saturating_sub(guest.offset as usize);
    if let Ok(log) = VariableLog::chain(&guest.view(), guest.at(), size, guest.hint.into()) {
        read(&LogBuffer::Variable(log), &guest);
    }
}

/// Before 3.5.
pub fn bytes(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let symbols = ByteWriter::new(guest.arch, 4096, false).symbols();
    if let Ok(log) = ByteLog::open(&guest.view(), symbols) {
        read(&LogBuffer::Bytes(log), &guest);
    }
    let len = guest.len.saturating_sub(guest.offset as usize);
    if let Ok(log) = ByteLog::text(&guest.view(), guest.at(), len) {
        read(&LogBuffer::Bytes(log), &guest);
    }
}

/// A text ring without its descriptors.
pub fn salvage(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let size = 1 << (11 + guest.hint % 6);
    if let Ok(log) = printk::salvage::text_ring(&guest.view(), guest.at(), size) {
        shown(log, guest.len);
    }
}

/// Finding a log without names, and reading what was found.
pub fn scan(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let mut progress = |_, _| ControlFlow::Continue(());
    let outcome = kernel::scan::scan(&guest.image, &mut progress).expect("all of it is RAM");
    let kernel::scan::Verdict::Live(found) = outcome.verdict else { return };
    let view = View::new(&guest.image, found.arch, found.rule);
    match (open_found(&view, &found.kind, &KernelTypes::default()), &found.kind) {
        (Ok(Some(buffer)), _) => read_by(&buffer, &view, guest.len),
        (Ok(None), &kernel::scan::Kind::Blocks { data, size, .. }) => {
            if let Ok(log) = printk::salvage::text_ring(&view, data, size) {
                shown(log, guest.len);
            }
        }
        _ => {}
    }
}

/// The kernel's own names in its memory, and what they lead to.
pub fn kallsyms(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let Ok(Some(found)) = kernel::kallsyms::find(&guest.image) else { return };
    found.each(|_, _, name| assert!(name.len() <= guest.len));
    let functions = found.functions();
    let _ = functions.resolve(guest.at());
    let names = found.guest_names();
    let arch = found.arch();
    let Ok(Identity::Here { rule, displacement }) = identify(&guest.image, arch, &names) else {
        return;
    };
    let view = View::new(&guest.image, arch, rule);
    let _ = printed(&view, &names, displacement, guest.offset);
    if let Ok(buffer) = locate(&view, &names, displacement) {
        read_by(&buffer, &view, guest.len);
    }
}

/// A kernel's types, and the layout they tell.
pub fn btf(data: &[u8]) {
    let Some((arch, bytes)) = data.split_first() else { return };
    let arch = ARCHS[usize::from(*arch) % ARCHS.len()];
    if let Some(length) = kernel::btf::length(bytes, arch) {
        // No more is read of a guest.
        assert!(length <= 24 << 20);
    }
    let Some(types) = Btf::parse(bytes, arch) else { return };
    let _ = RingLayout::from_types(&types, arch, LayoutSource::GuestBtf);
    // Also what a layout that fails early does not come to.
    for (name, path) in [
        ("prb_data_block", "data"),
        ("printk_ringbuffer", "desc_ring.count_bits"),
        ("printk_info", "dev_info.device"),
    ] {
        let _ = (types.size(name), types.field(name, path));
    }
}

/// Where a processor is, by a stack of lies.
pub fn stack(data: &[u8]) {
    let Some(guest) = Guest::of(data) else { return };
    let mut gpr = [guest.at(); 32];
    gpr[1] = guest.rule().effective(guest.base + u64::from(guest.hint));
    let msr = u64::from(guest.hint) << 48 | u64::from(guest.hint);
    let cpu = Cpu { index: 0, nip: guest.at(), lr: guest.at() ^ 0x10, ctr: 0, msr, gpr };
    let symbols = |address: u64| {
        // Names are the guest's choice too.
        (address & 0x40 == 0).then(|| ("f\u{1b}[2J\u{9b}".to_owned(), address & 0x3f))
    };
    let walker = Walker::new(guest.view(), &symbols);
    let sample = Sample::take(&walker, cpu, None);
    let end = guest.rule().effective(guest.base + guest.len as u64);
    let kernel = Some(guest.rule().effective(guest.base)..end.max(1));
    let extent = Extent { kernel, rule: guest.rule() };
    let Some(activity) = judge(std::slice::from_ref(&sample), &extent) else { return };
    let mut report = Report::new(Verdict::Places);
    let text = Place { sample: &sample, activity }.to_string();
    let registers = sample.cpu.to_string().lines().map(str::to_owned).collect();
    report.cpus.push(CpuLine { cpu: 0, text, registers });
    harmless(&report);
}

fn read(buffer: &LogBuffer, guest: &Guest) {
    read_by(buffer, &guest.view(), guest.len);
}

/// Read a log in every way there is.
fn read_by(buffer: &LogBuffer, view: &View<'_>, len: usize) {
    let _ = buffer.progress(view);
    let Ok(log) = buffer.read(view) else { return };
    let resume = log.resume();
    shown(log, len);
    for seq in resume.into_iter().flat_map(|resume| [resume, resume.saturating_sub(3)]) {
        if let Ok(log) = buffer.read_from(view, seq) {
            shown(log, len);
        }
    }
}

/// A log that came from `len` bytes of memory: it holds no more than those,
/// and nothing harmful is shown of it.
fn shown(log: Log, len: usize) {
    let text: usize = log.records().map(|record| record.text.len()).sum();
    assert!(text <= len, "{text} bytes of text out of {len} bytes");
    // The shortest of all records takes a header of 16 bytes, the shortest
    // line two.
    assert!(log.entries.len() <= len + 2, "{} entries out of {len} bytes", log.entries.len());
    harmless(&Report::new(Verdict::Log(log)));
}

/// Nothing that is shown of a report moves a cursor or reorders text.
fn harmless(report: &Report) {
    for format in [Format::Dmesg, Format::Json, Format::Raw] {
        for unicode in [true, false] {
            let style = Style { unicode, terminal: true, width: Some(40), ..Style::default() };
            let out = report::render(report, format, style);
            let text = std::str::from_utf8(&out).expect("UTF-8");
            let bad = text.chars().find(|&c| {
                let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}'
                    | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                c.is_control() && c != '\n' && c != '\t'
                    || reorders
                    || !unicode && format != Format::Json && !c.is_ascii()
            });
            assert_eq!(bad, None, "{format:?} {unicode}: {text:?}");
        }
    }
}
