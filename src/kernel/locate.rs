//! From a kernel's names to its log buffer.
//!
//! Which format it is follows from which names exist, not from a version:
//! vendors backport.

use super::names::Names;
use super::scan;
use super::types::KernelTypes;
use crate::arch::Bytes;
use crate::guest::View;
use crate::printk::bytes::{ByteLog, ByteSymbols};
use crate::printk::ringbuffer::{Ring, RingHints};
use crate::printk::variable::{VariableLog, VariableSymbols};
use crate::printk::{Error, Log, LogBuffer, RingLayout, salvage};

/// Why names did not lead to a log buffer.
#[derive(Debug)]
pub enum LocateError {
    /// None of the formats' names is among them.
    NoName,
    /// What they lead to is no log buffer.
    Printk(Error),
}

impl std::fmt::Display for LocateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoName => {
                f.write_str("no symbol of the log (prb, log_next_idx, log_end) is among them")
            }
            Self::Printk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LocateError {}

impl<E: Into<Error>> From<E> for LocateError {
    fn from(error: E) -> Self {
        Self::Printk(error.into())
    }
}

/// The log buffer that `names` lead to, in a kernel that runs `displacement`
/// bytes above where it was linked to.
///
/// # Errors
/// [`LocateError`].
pub fn locate(view: &View<'_>, names: &Names, displacement: u64) -> Result<LogBuffer, LocateError> {
    let address = |name| Some(names.address(name)?.wrapping_add(displacement));
    // 5.10 (896fbe20b4e2 "printk: use the lockless ringbuffer"): `prb` points
    // to the ring in use, the static one until setup_log_buf() and, with
    // log_buf_len= or many CPUs, a dynamic one from then on.
    if let Some(prb) = address("prb") {
        let ring = view.word(prb)?;
        let layout = || names.types.layout(view, address("__start_BTF"));
        let ring = ring_at(view, ring, ring_hints(names, view), layout)?;
        return Ok(LogBuffer::Ringbuffer(Box::new(ring)));
    }
    // 3.5 (7ff9554bb578 "printk: convert byte-buffer to variable-length record
    // buffer"): byte offsets of the first record and of the next.
    if let (Some(first_idx), Some(next_idx)) = (address("log_first_idx"), address("log_next_idx")) {
        let wanted = |name| address(name).ok_or(LocateError::NoName);
        let symbols = VariableSymbols {
            log_buf: wanted("log_buf")?,
            log_buf_len: wanted("log_buf_len")?,
            first_seq: wanted("log_first_seq")?,
            first_idx,
            next_seq: wanted("log_next_seq")?,
            next_idx,
            cont: address("cont"),
        };
        return Ok(LogBuffer::Variable(VariableLog::open(view, symbols)?));
    }
    // Before: a ring of bytes, and how many were ever written to it.
    if let Some(log_end) = address("log_end") {
        let wanted = |name| address(name).ok_or(LocateError::NoName);
        let symbols = ByteSymbols {
            log_buf: wanted("log_buf")?,
            log_buf_len: wanted("log_buf_len")?,
            log_end,
            logged_chars: address("logged_chars"),
        };
        return Ok(LogBuffer::Bytes(ByteLog::open(view, symbols)?));
    }
    Err(LocateError::NoName)
}

/// The text alone of a ring that [`locate`] could not make sense of: of 5.10
/// or later, laid out as nobody told. `None` where there is no such text.
pub fn salvage_named(view: &View<'_>, names: &Names, displacement: u64) -> Option<Log> {
    let address = |name| Some(names.address(name)?.wrapping_add(displacement));
    address("prb")?;
    let data = view.word(address("log_buf")?).ok()?;
    let len = view.bytes(address("log_buf_len")?, 4).ok()?;
    let len = Bytes::new(&len, view.arch()).u32(0)?;
    let log = salvage::text_ring(view, data, len.into()).ok()?;
    (!log.entries.is_empty()).then_some(log)
}

/// The ring at `prb` by a layout that is known, or, where none is borne out
/// by what it holds, by the one that the kernel's types tell.
fn ring_at(
    view: &View<'_>,
    prb: u64,
    hints: RingHints,
    layout: impl FnOnce() -> Option<RingLayout>,
) -> Result<Ring, Error> {
    let known = Ring::open_with(view, prb, hints);
    if let Ok(ring) = &known
        && ring.is_borne_out(view)?
    {
        return known;
    }
    let told = layout().and_then(|layout| Ring::open_told(view, prb, &layout).ok());
    match told {
        Some(ring) if ring.is_borne_out(view)? => Ok(ring),
        _ => known,
    }
}

/// The log buffer that a scan found, without any names but maybe with
/// `types`; `None` where only the text of one was found.
///
/// # Errors
/// As [`locate`].
pub fn open_found(
    view: &View<'_>,
    found: &scan::Kind,
    types: &KernelTypes,
) -> Result<Option<LogBuffer>, Error> {
    Ok(Some(match *found {
        scan::Kind::Blocks { .. } => return Ok(None),
        scan::Kind::Ringbuffer { prb, info_size, .. } => {
            let hints = RingHints { info_stride: info_size };
            let layout = || types.layout(view, None);
            LogBuffer::Ringbuffer(Box::new(ring_at(view, prb, hints, layout)?))
        }
        scan::Kind::Variable { buffer, len, first_idx, .. } => {
            let size = usize::try_from(len).unwrap_or(usize::MAX);
            let first = usize::try_from(first_idx).unwrap_or(usize::MAX);
            LogBuffer::Variable(VariableLog::chain(view, buffer, size, first)?)
        }
        scan::Kind::Bytes { start, end, .. } => {
            let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
            LogBuffer::Bytes(ByteLog::text(view, start, len)?)
        }
    }))
}

/// What the symbols' sizes say of the ring: `_printk_rb_static_descs` holds
/// as many descriptors, of three words each, as `_printk_rb_static_infos`
/// holds infos.
fn ring_hints(names: &Names, view: &View<'_>) -> RingHints {
    let size = |name: &str| names.symbols.get(name).map(|symbol| symbol.size);
    let stride = || {
        let desc = 3 * view.arch().word.bytes() as u64;
        let count = size("_printk_rb_static_descs")? / desc;
        usize::try_from(size("_printk_rb_static_infos")?.checked_div(count)?).ok()
    };
    RingHints { info_stride: stride().filter(|stride| *stride > 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::guest::Memory;
    use crate::kernel::names::Symbol;
    use crate::kernel::{KernelTypes, Source};
    use crate::printk::craft::{self, Line, RingPlan, RingWriter};
    use crate::printk::{Format, LayoutSource, Log};

    /// A guest whose `prb` leads to a ring of 40 records, with `more` behind
    /// it in memory; its names.
    fn guest(plan: RingPlan, more: &[u8]) -> (RingWriter, crate::guest::Image, Names) {
        let mut writer = RingWriter::new(plan);
        for nth in 0..40 {
            let mut line = Line::new(format!("line {nth}"));
            line.level = nth % 8;
            writer.print(&line);
        }
        let ring = writer.prb();
        writer.sheet.put_word(0, ring);
        let image = writer.sheet.image().with(0x0300_0000, more.to_vec());
        let symbol = |address| Symbol { address, size: 0 };
        let symbols = [("prb".to_owned(), symbol(writer.sheet.address(0)))].into();
        let types = KernelTypes::default();
        let arch = Some(plan.arch);
        (writer, image, Names { source: Source::Scan, arch, banner: None, symbols, types })
    }

    fn located(writer: &RingWriter, memory: &dyn Memory, names: &Names) -> (Log, LayoutSource) {
        let view = View::new(memory, writer.sheet.arch, writer.sheet.rule());
        let buffer = locate(&view, names, 0).expect("located");
        (buffer.read(&view).expect("read"), buffer.layout())
    }

    fn assert_whole(log: &Log) {
        assert_eq!(log.format, Format::Ringbuffer);
        let texts: Vec<(String, u8)> = log
            .records()
            .map(|record| (String::from_utf8_lossy(&record.text).into_owned(), record.level))
            .collect();
        let expected: Vec<_> = (0..40_u8).map(|nth| (format!("line {nth}"), nth % 8)).collect();
        assert_eq!(texts, expected);
    }

    const ARCHS: [Arch; 3] = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];

    fn future(arch: Arch) -> RingPlan {
        RingPlan { arch, future: true, info_stride: 120, ..RingPlan::SMALL }
    }

    #[test]
    fn a_layout_of_no_kernel_yet_is_told_by_btf_in_guest_memory() {
        for arch in ARCHS {
            let plan = future(arch);
            // Another BTF before it, of a module.
            let module = craft::btf(plan)[..24].to_vec();
            let more = [vec![7; 40], module, vec![0; 99], craft::btf(plan)].concat();
            let (writer, image, mut names) = guest(plan, &more);
            let (log, source) = located(&writer, &image, &names);
            assert_whole(&log);
            assert_eq!(source, LayoutSource::GuestBtf, "found by its first bytes");
            let start = writer.sheet.rule().effective(0x0300_0000 + 40 + 24 + 99);
            names.symbols.insert("__start_BTF".into(), Symbol { address: start, size: 0 });
            names.types = KernelTypes::default();
            assert_whole(&located(&writer, &image, &names).0);
        }
    }

    #[test]
    fn a_layout_of_no_kernel_yet_is_told_by_btf_in_its_file() {
        for arch in ARCHS {
            let (writer, image, mut names) = guest(future(arch), b"");
            let bytes = craft::btf(future(arch));
            let len = bytes.len() as u64;
            let file = crate::kernel::Input::Bytes(std::sync::Arc::new(bytes));
            names.types = KernelTypes::in_file(&file, 0..len);
            let (log, source) = located(&writer, &image, &names);
            assert_whole(&log);
            assert_eq!(source, LayoutSource::FileBtf);
        }
    }

    #[test]
    fn a_layout_of_no_kernel_yet_is_found_without_names_too() {
        for arch in ARCHS {
            for six_words in [false, true] {
                let plan = RingPlan { six_words, ..future(arch) };
                // An older kernel's strings lie beside it, and are no log.
                let text = b"<6>one of them\n<6>another\n<6>and a third\n\0".repeat(9);
                let more = [vec![7; 40], craft::btf(plan), text].concat();
                let (writer, image, _) = guest(plan, &more);
                let found = scan::scan(&image, &mut |_, _| std::ops::ControlFlow::Continue(()));
                let scan::Verdict::Live(found) = found.expect("memory").verdict else {
                    panic!("{arch}: nothing found");
                };
                assert_eq!((found.arch, found.effective), (arch, writer.prb()), "{six_words}");
                assert!(found.confirmed);
                let view = View::new(&image, found.arch, found.rule);
                let opened = open_found(&view, &found.kind, &KernelTypes::default());
                let buffer = opened.expect("a ring").expect("with descriptors");
                assert_eq!(buffer.layout(), LayoutSource::GuestBtf);
                assert_whole(&buffer.read(&view).expect("read"));
            }
        }
    }

    #[test]
    fn a_known_layout_asks_nobody() {
        for arch in ARCHS {
            for info_stride in [88, 112] {
                let plan = RingPlan { arch, info_stride, ..RingPlan::SMALL };
                // What it would be told is wrong.
                let (writer, image, names) = guest(plan, &craft::btf(future(arch)));
                let (log, source) = located(&writer, &image, &names);
                assert_whole(&log);
                assert_eq!(source, LayoutSource::Known);
            }
        }
    }

    #[test]
    fn without_btf_an_unknown_layout_never_passes_for_a_log() {
        for arch in ARCHS {
            let (writer, image, names) = guest(future(arch), b"");
            let view = View::new(&image, arch, writer.sheet.rule());
            let read = locate(&view, &names, 0).map(|buffer| buffer.read(&view).expect("read"));
            assert!(!matches!(read, Ok(Log { format: Format::Ringbuffer, entries })
                if !entries.is_empty()));
        }
    }

    #[test]
    fn without_btf_the_text_of_an_unknown_layout_is_salvaged() {
        for arch in ARCHS {
            let (mut writer, _, mut names) = guest(RingPlan { count_bits: 7, ..future(arch) }, b"");
            let data = writer.sheet.address(writer.data_at());
            for (offset, name) in [(0x10, "log_buf"), (0x20, "log_buf_len")] {
                let symbol = Symbol { address: writer.sheet.address(offset), size: 0 };
                names.symbols.insert(name.to_owned(), symbol);
            }
            writer.sheet.put_word(0x10, data);
            writer.sheet.put_number(0x20, writer.size(), 4);
            let image = writer.sheet.image();
            let view = View::new(&image, arch, writer.sheet.rule());
            let texts = |log: &Log| -> Vec<_> {
                assert_eq!(log.format, Format::Salvage);
                log.records().map(|record| record.text.clone()).collect()
            };
            let wanted: Vec<_> = (0..40).map(|nth| format!("line {nth}").into_bytes()).collect();
            let named = salvage_named(&view, &names, 0).expect("text");
            assert_eq!(texts(&named), wanted);
            // Without names too, wherever it lies.
            let found = scan::scan(&image, &mut |_, _| std::ops::ControlFlow::Continue(()));
            let scan::Verdict::Live(found) = found.expect("memory").verdict else {
                panic!("{arch}: nothing found");
            };
            let scan::Kind::Blocks { data: place, size, .. } = found.kind else {
                panic!("{arch}: {found:?}");
            };
            assert_eq!((place, size, found.arch), (data, writer.size(), arch));
            assert_eq!(texts(&salvage::text_ring(&view, place, size).expect("read")), wanted);
        }
    }
}
