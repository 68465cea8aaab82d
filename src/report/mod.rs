//! From records to text: what a user sees, or a program reads.
//!
//! A [`Report`] is plain data, put together by whoever asked the guest;
//! [`render`] turns it into bytes in one of three [`Format`]s. A format is a
//! [`Formatter`] in a file of its own, and a new one is a new file.
//!
//! This room knows records and nothing of QEMU, of symbols, or of how a log
//! was found. It writes to no terminal: it is told what the terminal can do
//! ([`Style`]), and hands back bytes. It leaves no record out; who wants
//! fewer of them puts fewer into the report.
//!
//! Every byte of a log is the guest's choice, so none reaches a terminal
//! before [`text`] has seen it.

#![forbid(unsafe_code)]

mod frame;

pub mod colour;
pub mod dmesg;
pub mod json;
pub mod raw;
pub mod text;

use std::io;

use crate::arch::Arch;
use crate::kernel::Source;
use crate::printk::{self, Entry, LayoutSource, Log};

pub use colour::{ColorChoice, wants_colour};
pub use text::wants_unicode;

/// What was found out about the guest kernel's log.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the matter is: one of the diagnoses, never two.
    pub verdict: Verdict,
    /// The kernel in the guest: its release, or its banner
    /// (`Linux version 6.1.0 …`), as its memory has it.
    pub kernel: Option<Vec<u8>>,
    /// What that kernel was compiled for.
    pub arch: Option<Arch>,
    /// Where its names were taken from.
    pub source: Option<Source>,
    /// Who says how the log is laid out.
    pub layout: LayoutSource,
    /// The event that asked for it, such as `panic`, where nobody did.
    pub trigger: Option<&'static str>,
    /// Which part of the log this is.
    pub scope: Scope,
    /// How many reports this session has made, this one included.
    pub number: u64,
    /// What the user must know before trusting the log; shown on top, each
    /// as `<what>; <what to do>`.
    pub warnings: Vec<String>,
    /// What else there is to say; shown under the log.
    pub notes: Vec<String>,
    /// Where each CPU is, under the log.
    pub cpus: Vec<CpuLine>,
}

impl Report {
    /// A report that has nothing but its verdict.
    #[must_use]
    pub const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            kernel: None,
            arch: None,
            source: None,
            layout: LayoutSource::Known,
            trigger: None,
            scope: Scope::All,
            number: 1,
            warnings: Vec::new(),
            notes: Vec::new(),
            cpus: Vec::new(),
        }
    }

    /// The log, if there is one.
    #[must_use]
    pub const fn log(&self) -> Option<&Log> {
        match &self.verdict {
            Verdict::Log(log) => Some(log),
            _ => None,
        }
    }

    /// The format of the log, where it is known.
    #[must_use]
    pub const fn format(&self) -> Option<printk::Format> {
        match &self.verdict {
            Verdict::Log(log) => Some(log.format),
            Verdict::EnteredSilent { format } => *format,
            Verdict::NotEntered { .. } | Verdict::Places | Verdict::Failed { .. } => None,
        }
    }

    /// The release, if the kernel is known by it or by its banner.
    fn release(&self) -> Option<&[u8]> {
        let kernel = self.kernel.as_deref()?;
        let release = kernel.strip_prefix(b"Linux version ").unwrap_or(kernel);
        release.split(|&byte| byte == b' ').next()
    }

    fn entries(&self) -> &[Entry] {
        self.log().map_or(&[], |log| &log.entries)
    }
}

/// Which part of a log a report shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All that there is.
    #[default]
    All,
    /// What no console has printed.
    Unseen,
    /// What is new since the report of this number.
    New(u64),
}

/// The diagnoses of a kernel that is silent, and the lack of one.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The kernel has not been entered.
    NotEntered {
        /// How that is known, such as `CPU 0 is in SLOF`; may be empty.
        detail: String,
    },
    /// The kernel was entered, and has not printed anything.
    EnteredSilent {
        /// The format of the empty log.
        format: Option<printk::Format>,
    },
    /// Here is the log.
    Log(Log),
    /// The log was not asked for, only where the CPUs are.
    Places,
    /// It could not be found out: `qemu-logbuf: <what>; <remedy>`.
    Failed {
        /// What happened.
        what: String,
        /// What to do about it.
        remedy: String,
    },
}

/// Where a CPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuLine {
    /// The CPU's number.
    pub cpu: u32,
    /// What it does, such as `stuck in f+0x8 ← g+0x16c`; shown after `CPU 0`.
    pub text: String,
    /// Its registers, a few to a line, where they were asked for.
    pub registers: Vec<String>,
}

/// How a report is written: `--logbuf-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As dmesg(1) shows a log, between a header and a closing line.
    #[default]
    Dmesg,
    /// JSON Lines, for programs; the schema is in [`json`].
    Json,
    /// The text of the records and nothing else.
    Raw,
}

impl Format {
    /// Each format under the name that the command line knows it by.
    pub const NAMES: [(&str, Self); 3] =
        [("dmesg", Self::Dmesg), ("json", Self::Json), ("raw", Self::Raw)];
}

/// How lines end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n`: a file, a pipe, a terminal that adds the carriage return itself.
    #[default]
    Lf,
    /// `\r\n`: a terminal in raw mode.
    CrLf,
}

impl LineEnd {
    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
        }
    }
}

/// What the place a report goes to can show.
///
/// The default is right for a file: UTF-8, no colours, no folding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Colours; see [`wants_colour`].
    pub colour: bool,
    /// Characters beyond ASCII; see [`wants_unicode`].
    pub unicode: bool,
    /// Whether a terminal interprets the bytes. Only [`Format::Raw`] asks:
    /// the others are harmless anywhere.
    pub terminal: bool,
    /// How lines end.
    pub line_end: LineEnd,
    /// Columns of the terminal, to fold our own lines to. Those of the log
    /// are left to the terminal, which can unfold them again.
    pub width: Option<usize>,
    /// Show who printed each record, as `[    T1]` or `[    C0]`.
    pub caller: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            colour: false,
            unicode: true,
            terminal: false,
            line_end: LineEnd::Lf,
            width: None,
            caller: false,
        }
    }
}

/// A way to write a report: what comes before the entries, each entry, and
/// what comes after. Entries can be handed over as they appear.
pub trait Formatter {
    /// What opens the report.
    fn head(&self, out: &mut Vec<u8>);
    /// One entry of the log.
    fn entry(&self, out: &mut Vec<u8>, entry: &Entry);
    /// What closes the report.
    fn tail(&self, out: &mut Vec<u8>);
}

/// The formatter of a report.
#[must_use]
pub fn formatter<'a>(report: &'a Report, format: Format, style: Style) -> Box<dyn Formatter + 'a> {
    match format {
        Format::Dmesg => Box::new(dmesg::Dmesg::new(report, style)),
        Format::Json => Box::new(json::Json::new(report, style)),
        Format::Raw => Box::new(raw::Raw::new(report, style)),
    }
}

/// The whole report in one piece, for a terminal that others write to as
/// well.
#[must_use]
pub fn render(report: &Report, format: Format, style: Style) -> Vec<u8> {
    let formatter = formatter(report, format, style);
    let mut out = Vec::with_capacity(expected_size(report, format, style));
    formatter.head(&mut out);
    for entry in report.entries() {
        formatter.entry(&mut out, entry);
    }
    formatter.tail(&mut out);
    out
}

/// The same bytes as [`render`], handed on by pages: a log full of control
/// characters is four times as long escaped, and need not be held whole.
///
/// # Errors
///
/// What `sink` says; nothing more is written then.
pub fn write(
    report: &Report,
    format: Format,
    style: Style,
    sink: &mut dyn io::Write,
) -> io::Result<()> {
    const PAGE: usize = 64 << 10;
    let formatter = formatter(report, format, style);
    let mut page = Vec::with_capacity(PAGE + (PAGE >> 2));
    formatter.head(&mut page);
    for entry in report.entries() {
        formatter.entry(&mut page, entry);
        if page.len() >= PAGE {
            sink.write_all(&page)?;
            page.clear();
        }
    }
    formatter.tail(&mut page);
    sink.write_all(&page)
}

/// About how long the report will be, a little more for a harmless log: it
/// is then written without moving what has been written.
#[must_use]
pub fn expected_size(report: &Report, format: Format, style: Style) -> usize {
    let per_entry = match format {
        Format::Dmesg if style.colour => 64,
        Format::Dmesg => 28,
        Format::Json => 200,
        Format::Raw => 2,
    };
    let of_entry = |entry: &Entry| match entry {
        Entry::Record(record) => per_entry + record.text.len(),
        Entry::Lost { .. } => 2 * per_entry,
    };
    4096 + report.entries().iter().map(of_entry).sum::<usize>()
}

/// Appends a number in decimal, filled up on the left to `width`. Twice as
/// fast as `write!`, at half a million records.
fn push_number(out: &mut Vec<u8>, mut number: u64, width: usize, fill: u8) {
    let mut digits = [fill; 20];
    let mut at = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    let start = at.min(digits.len().saturating_sub(width));
    out.extend_from_slice(&digits[start..]);
}

/// `1 record`, `2 records`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// What a verdict without a log says, in half a sentence.
fn diagnosis(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::NotEntered { .. } => Some("the kernel has not been entered"),
        Verdict::EnteredSilent { .. } => Some("the kernel was entered, but has not printed"),
        Verdict::Places => Some("where the CPUs are"),
        Verdict::Log(_) | Verdict::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests;
