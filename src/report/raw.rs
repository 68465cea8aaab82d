//! The text of the records and nothing else: for grep, diff and `wc`.
//!
//! Each text is written byte for byte as the guest holds it and ended with a
//! newline; gaps, stamps, warnings and frames are left out. Only where a
//! terminal reads are the bytes made harmless first. A report that has no
//! log is the one line that says so, beginning with `qemu-logbuf: `: nothing
//! at all would look like an empty log.

use super::frame::words;
use super::{Formatter, Report, Style, Verdict, diagnosis, text};
use crate::printk::Entry;

/// The formatter.
pub(super) struct Raw<'a> {
    report: &'a Report,
    style: Style,
}

impl<'a> Raw<'a> {
    pub(super) fn new(report: &'a Report, style: Style) -> Self {
        Self { report, style }
    }
}

impl Formatter for Raw<'_> {
    fn head(&self, out: &mut Vec<u8>) {
        let verdict = &self.report.verdict;
        let line = match (diagnosis(verdict), verdict) {
            (_, Verdict::Log(_) | Verdict::Places) => return,
            (_, Verdict::Failed { what, remedy }) => format!("{what}; {remedy}"),
            (Some(diagnosis), Verdict::NotEntered { detail }) if !detail.is_empty() => {
                format!("{diagnosis}; {detail}")
            }
            (diagnosis, _) => diagnosis.unwrap_or_default().to_owned(),
        };
        let trigger = self.report.trigger.map(|trigger| format!("{trigger}: "));
        let line = format!("qemu-logbuf: {}{line}", trigger.unwrap_or_default());
        let line = words(&line, self.style.unicode);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(self.style.line_end.bytes());
    }

    fn entry(&self, out: &mut Vec<u8>, entry: &Entry) {
        let Entry::Record(record) = entry else { return };
        if self.style.terminal {
            for line in record.text.split(|&byte| byte == b'\n') {
                text::push(out, line, self.style.unicode);
                out.extend_from_slice(self.style.line_end.bytes());
            }
        } else {
            out.extend_from_slice(&record.text);
            out.extend_from_slice(self.style.line_end.bytes());
        }
    }

    fn tail(&self, out: &mut Vec<u8>) {
        // Under a log they would not be the log's text.
        if !matches!(self.report.verdict, Verdict::Places) {
            return;
        }
        for line in &self.report.cpus {
            let place = format!("CPU {} {}", line.cpu, line.text);
            for line in std::iter::once(&place).chain(&line.registers) {
                out.extend_from_slice(words(line, self.style.unicode).as_bytes());
                out.extend_from_slice(self.style.line_end.bytes());
            }
        }
    }
}
