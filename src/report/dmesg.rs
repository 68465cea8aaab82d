//! A log as dmesg(1) shows it, between a header and a closing line.
//!
//! Time stamps, colours, the indentation of continuation lines and escapes
//! are those of util-linux's dmesg, so that a record looks here as it will
//! when the guest can run dmesg itself. Where we differ, there is a reason:
//! a colour never runs over the end of a line (a pager shows lines, not
//! files), an empty record keeps its stamp, and level 0 is coloured.
//!
//! What we add to the log (marks, gaps) is in a colour that dmesg has no use
//! for, and a gap's line has no stamp: a guest can print the same words, but
//! not in that colour, and where its log has stamps, not at the start of a
//! line.

use std::sync::LazyLock;

use memchr::{memchr, memchr_iter, memmem};

use super::colour::{Paint, Palette};
use super::frame::{Facts, words};
use super::{Formatter, Report, Scope, Style, Verdict, counted, diagnosis, push_number, text};
use crate::printk::{Caller, Entry, Format, LayoutSource, Loss, Record, State};

/// The formatter.
pub(super) struct Dmesg<'a> {
    report: &'a Report,
    style: Style,
    palette: Palette,
    /// Marking each record of a log that is salvaged as a whole says nothing.
    mark_salvaged: bool,
}

impl<'a> Dmesg<'a> {
    pub(super) fn new(report: &'a Report, style: Style) -> Self {
        Self {
            report,
            style,
            palette: if style.colour { Palette::dmesg() } else { Palette::default() },
            mark_salvaged: report.format() != Some(Format::Salvage),
        }
    }
}

impl Formatter for Dmesg<'_> {
    fn head(&self, out: &mut Vec<u8>) {
        if let Verdict::Failed { what, remedy } = &self.report.verdict {
            self.push_warnings(out);
            let line = format!("qemu-logbuf: {}{what}; {remedy}", self.trigger());
            self.push_line(out, &self.palette.strong, &line);
            return;
        }
        self.push_header(out);
        self.push_warnings(out);
    }

    fn entry(&self, out: &mut Vec<u8>, entry: &Entry) {
        match entry {
            Entry::Record(record) => self.push_record(out, record),
            Entry::Lost { count, why, .. } => {
                self.push_line(out, &self.palette.mark, &format!("[… {} …]", loss(*count, *why)));
            }
        }
    }

    fn tail(&self, out: &mut Vec<u8>) {
        let report = self.report;
        for cpu in &report.cpus {
            let line = format!("CPU {} {}", cpu.cpu, cpu.text);
            let facts = line.split(" ← ").map(str::to_owned).collect();
            let facts = Facts { facts, glue: " ← ", hang: "      ← ", close: "" };
            self.push_facts(out, &self.palette.strong, &facts);
            for registers in &cpu.registers {
                self.push_line(out, &Paint::default(), &format!("      {registers}"));
            }
        }
        for note in &report.notes {
            self.push_line(out, &Paint::default(), note);
        }
        self.push_closing(out);
    }
}

/// Our own lines.
impl Dmesg<'_> {
    /// `──── qemu-logbuf: 12 records · Linux 6.1.0 · …  ────`, the more
    /// telling facts first, so that what a narrow terminal shows first is
    /// what matters.
    fn push_header(&self, out: &mut Vec<u8>) {
        let report = self.report;
        let subject = format!("{}{}", self.trigger(), self.subject());
        let mut facts = vec![match report.number {
            0 | 1 => format!("──── qemu-logbuf: {subject}"),
            number => format!("──── qemu-logbuf #{number}: {subject}"),
        }];
        if let Verdict::NotEntered { detail } = &report.verdict {
            facts.extend(Some(detail.clone()).filter(|detail| !detail.is_empty()));
        }
        facts.extend(report.release().map(|release| {
            // Escaped before it becomes a string: that keeps bad bytes.
            let release = text::clean(release, self.style.unicode);
            format!("Linux {}", String::from_utf8_lossy(&release))
        }));
        let format = report.format().map(|format| format.to_string());
        let arch = report.arch.map(|arch| arch.to_string());
        let kind: Vec<_> = [format, arch].into_iter().flatten().collect();
        facts.extend(Some(kind.join(", ")).filter(|kind| !kind.is_empty()));
        facts.extend(report.source.as_ref().map(ToString::to_string));
        facts.extend(match report.layout {
            LayoutSource::Known => None,
            LayoutSource::FileBtf => Some("laid out by the BTF of that file".to_owned()),
            LayoutSource::GuestBtf => Some("laid out by the BTF in guest memory".to_owned()),
        });
        self.push_facts(out, &self.palette.strong, &framed(facts));
    }

    /// The event that asked, before what the report is about.
    fn trigger(&self) -> String {
        self.report.trigger.map(|trigger| format!("{trigger}: ")).unwrap_or_default()
    }

    /// What the report is about.
    fn subject(&self) -> String {
        let verdict = &self.report.verdict;
        match (diagnosis(verdict), verdict) {
            (Some(diagnosis), _) => diagnosis.to_owned(),
            (None, Verdict::Log(log)) => {
                let count = log.records().count() as u64;
                let records = match (self.report.scope, count) {
                    (Scope::All, _) => counted(count, "record"),
                    (Scope::New(since), 0) if log.entries.is_empty() => {
                        format!("nothing new since #{since}")
                    }
                    (Scope::New(since), _) => {
                        format!("{} new since #{since}", counted(count, "record"))
                    }
                    (Scope::Unseen, 0) if log.entries.is_empty() => {
                        "the consoles have printed all records".to_owned()
                    }
                    (Scope::Unseen, _) => {
                        format!("{} that no console has printed", counted(count, "record"))
                    }
                };
                match log.lost() {
                    0 => records,
                    lost => format!("{records}, {lost} lost"),
                }
            }
            (None, _) => String::new(),
        }
    }

    fn push_warnings(&self, out: &mut Vec<u8>) {
        for warning in &self.report.warnings {
            let line = format!("qemu-logbuf: warning: {warning}");
            self.push_line(out, &self.palette.warning, &line);
        }
    }

    /// The end of the report; none where the report was a single line.
    fn push_closing(&self, out: &mut Vec<u8>) {
        let report = self.report;
        if matches!(report.verdict, Verdict::Failed { .. }) {
            return;
        }
        let bare = report.log().is_none()
            && report.cpus.is_empty()
            && report.notes.is_empty()
            && report.warnings.is_empty();
        if bare {
            return;
        }
        let mut facts = vec!["──── qemu-logbuf: end of report".to_owned()];
        // The top of a long log has left the screen by now.
        if !report.warnings.is_empty() {
            facts.push(format!("{} on top", counted(report.warnings.len() as u64, "warning")));
        }
        self.push_facts(out, &self.palette.quiet, &framed(facts));
    }

    /// One line of our own words, whatever is in them.
    fn push_line(&self, out: &mut Vec<u8>, paint: &Paint, line: &str) {
        push_painted(out, paint, words(line, self.style.unicode).as_bytes());
        self.end_line(out);
    }

    fn push_facts(&self, out: &mut Vec<u8>, paint: &Paint, facts: &Facts<'_>) {
        for line in facts.fold(self.style.width, self.style.unicode) {
            push_painted(out, paint, line.as_bytes());
            self.end_line(out);
        }
    }

    fn end_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.style.line_end.bytes());
    }
}

/// The lines of the log.
impl Dmesg<'_> {
    fn push_record(&self, out: &mut Vec<u8>, record: &Record) {
        out.reserve(record.text.len() + 128);
        let indent = self.push_prefix(out, record);
        // What could not be appended to a line is a record of its own, and
        // shown on a line of its own: others may have come between.
        if record.continues {
            self.push_mark(out, "… ");
        }
        self.push_message(out, record, indent);
        if let Some(mark) = self.state_mark(record.state) {
            // After a stamp alone there is a blank already.
            let mark = if record.text.is_empty() { mark.trim_start() } else { mark };
            self.push_mark(out, mark);
        }
        self.end_line(out);
    }

    const fn state_mark(&self, state: State) -> Option<&'static str> {
        match state {
            State::Open => Some(" …"),
            State::InProgress => Some(" (in progress)"),
            State::Salvaged if self.mark_salvaged => Some(" (salvaged)"),
            State::Complete | State::Salvaged => None,
        }
    }

    /// Appends the stamp and the caller; returns the columns they take.
    fn push_prefix(&self, out: &mut Vec<u8>, record: &Record) -> usize {
        let mut columns = 0;
        if let Some(nsec) = record.ts_nsec {
            out.extend_from_slice(&self.palette.stamp.on);
            columns += push_stamp(out, nsec);
            out.extend_from_slice(&self.palette.stamp.off);
        }
        if let Some(caller) = record.caller.filter(|_| self.style.caller) {
            let start = out.len();
            let caller = match caller {
                Caller::Task(id) => format!("T{id}"),
                Caller::Cpu(id) => format!("C{id}"),
            };
            out.extend_from_slice(format!("[{caller:>6}] ").as_bytes());
            columns += out.len() - start;
        }
        columns
    }

    /// The message: its subsystem, the rest of its line, and further lines
    /// indented by what stands before the first.
    fn push_message(&self, out: &mut Vec<u8>, record: &Record, indent: usize) {
        let message = &*record.text;
        let paint = self.message_paint(record.level, message);
        let (line, further) = match memchr(b'\n', message) {
            Some(end) => (&message[..end], Some(&message[end + 1..])),
            None => (message, None),
        };
        let subsystem = if self.style.colour { subsystem_length(line) } else { 0 };
        let (subsystem, line) = line.split_at(subsystem);
        self.push_text(out, &self.palette.subsystem, subsystem);
        self.push_text(out, paint, line);
        for line in further.iter().flat_map(|lines| lines.split(|&byte| byte == b'\n')) {
            self.end_line(out);
            if !line.is_empty() {
                out.resize(out.len() + indent, b' ');
                self.push_text(out, paint, line);
            }
        }
    }

    fn message_paint(&self, level: u8, message: &[u8]) -> &Paint {
        static SEGFAULT: LazyLock<memmem::Finder<'_>> =
            LazyLock::new(|| memmem::Finder::new("segfault at"));
        let paint = self.palette.level(level);
        if self.style.colour && paint.on.is_empty() && SEGFAULT.find(message).is_some() {
            return &self.palette.segfault;
        }
        paint
    }

    /// The guest's words.
    fn push_text(&self, out: &mut Vec<u8>, paint: &Paint, words: &[u8]) {
        if words.is_empty() {
            return;
        }
        out.extend_from_slice(&paint.on);
        text::push(out, words, self.style.unicode);
        out.extend_from_slice(&paint.off);
    }

    fn push_mark(&self, out: &mut Vec<u8>, mark: &str) {
        push_painted(out, &self.palette.mark, words(mark, self.style.unicode).as_bytes());
    }
}

/// The facts of a header or closing line.
fn framed(facts: Vec<String>) -> Facts<'static> {
    Facts { facts, glue: " · ", hang: "     ", close: " ────" }
}

fn push_painted(out: &mut Vec<u8>, paint: &Paint, harmless: &[u8]) {
    out.extend_from_slice(&paint.on);
    out.extend_from_slice(harmless);
    out.extend_from_slice(&paint.off);
}

/// Appends `[    0.000000] `; returns its length.
fn push_stamp(out: &mut Vec<u8>, nsec: u64) -> usize {
    let start = out.len();
    let (seconds, mut micros) = (nsec / 1_000_000_000, nsec / 1000 % 1_000_000);
    // One copy for the first day, not five: half of a record's cost is here.
    let mut stamp = *b"[    0.000000] ";
    for digit in stamp[7..13].iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    if seconds < 100_000 {
        let mut left = seconds;
        for digit in stamp[1..6].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        out.extend_from_slice(&stamp);
    } else {
        out.push(b'[');
        push_number(out, seconds, 5, b' ');
        out.extend_from_slice(&stamp[6..]);
    }
    out.len() - start
}

/// The length of the `subsystem: ` that a line begins with, its blank
/// included: up to the first colon that a blank follows, if anything follows
/// that. So does dmesg, which takes `Kernel panic - not syncing:` for one.
fn subsystem_length(line: &[u8]) -> usize {
    memchr_iter(b':', line)
        .map(|colon| colon + 2)
        .find(|&end| end < line.len() && matches!(line[end - 1], b' ' | b'\t'))
        .unwrap_or(0)
}

/// Why records are missing, in words.
fn loss(count: u64, why: Loss) -> String {
    let records = counted(count, "record");
    match why {
        Loss::Overwritten => format!("{records} overwritten"),
        Loss::TooMany => format!("{records} not shown: more than a log of this size has"),
        Loss::NoText => format!("{records} lost: the kernel had no room for the text"),
        Loss::Corrupt => format!("{records} damaged"),
        Loss::Reserved => format!("{records} in progress, without text yet"),
    }
}
