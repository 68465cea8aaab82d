//! From a report to where it belongs, as the options have it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::cli::Options;
use crate::printk::Entry;
use crate::report::{self, ColorChoice, Format, LineEnd, Report, Style, Verdict};
use crate::sys::reason;
use crate::terminal::Destination;
use crate::trace;

/// A report of this many bytes is written by pages, not in one piece: what a
/// guest makes us hold has to have an end, and nobody reads that much of it
/// between two lines of a console.
const LONG: usize = 4 << 20;

/// Pages of a report on their way.
struct Pages<'a>(&'a Destination);

impl io::Write for Pages<'_> {
    fn write(&mut self, page: &[u8]) -> io::Result<usize> {
        self.0.write(page).map(|()| page.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes reports.
#[derive(Clone, Debug)]
pub struct Press {
    color: ColorChoice,
    format: Format,
    output: Option<PathBuf>,
}

impl Press {
    /// As the options have it.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self { color: options.color, format: options.format, output: options.output.clone() }
    }

    /// Write a whole report to the file that the options name, or else to
    /// `destination`; whether that could be done.
    pub fn put(&self, report: &Report, destination: &Destination) -> bool {
        let Some(path) = &self.output else {
            return self.write(report, destination).is_ok();
        };
        let path = filled_in(path, report.number);
        let Err(error) = self.write(report, &Destination::File(path.clone())) else { return true };
        let line = format!(
            "qemu-logbuf: cannot write {}: {}, so the report is shown here; name another file with --logbuf-output\r\n",
            path.display(),
            reason(&error)
        );
        let _ = Destination::Stderr.write(line.as_bytes());
        // What was asked for is worth more than the file it was to be in.
        self.write(report, destination).is_ok()
    }

    fn write(&self, report: &Report, destination: &Destination) -> io::Result<()> {
        let style = self.style(destination);
        let written = if report::expected_size(report, self.format, style) < LONG {
            destination.write(&self.render(report, destination))
        } else {
            report::write(report, self.format, style, &mut Pages(destination))
        };
        trace!("report to {destination:?}: {written:?}");
        written
    }

    /// Write entries of a log in one piece, as they stand in a report, where
    /// reports for `destination` go.
    pub(super) fn put_entries(&self, entries: &[Entry], destination: &Destination) {
        let place = self.place(destination);
        let report = Report::new(Verdict::EnteredSilent { format: None });
        let formatter = report::formatter(&report, self.format, self.style(&place));
        let mut out = Vec::new();
        for entry in entries {
            formatter.entry(&mut out, entry);
        }
        let _ = place.write(&out);
    }

    /// Write a line of our own, where reports for `destination` go; not among
    /// JSON lines.
    pub(super) fn say(&self, what: &str, destination: &Destination) {
        let place = match self.format {
            Format::Json if self.output.is_some() => destination.clone(),
            _ => self.place(destination),
        };
        let end = if place.is_raw() { "\r\n" } else { "\n" };
        let _ = place.write(format!("qemu-logbuf: {what}{end}").as_bytes());
    }

    fn place(&self, destination: &Destination) -> Destination {
        match &self.output {
            Some(path) => Destination::File(filled_in(path, 0)),
            None => destination.clone(),
        }
    }

    fn style(&self, destination: &Destination) -> Style {
        let terminal = destination.is_terminal();
        let environment = |name: &str| std::env::var_os(name);
        Style {
            colour: report::wants_colour(self.color, terminal, environment),
            unicode: !terminal || report::wants_unicode(environment),
            terminal,
            line_end: if destination.is_raw() { LineEnd::CrLf } else { LineEnd::Lf },
            width: destination.columns().map(usize::from),
            caller: false,
        }
    }

    fn render(&self, report: &Report, destination: &Destination) -> Vec<u8> {
        let style = self.style(destination);
        let bytes = report::render(report, self.format, style);
        if style.terminal && destination.is_shared() {
            // Whatever stands unfinished on the guest's line keeps its line.
            [style.line_end.bytes(), bytes.as_slice()].concat()
        } else {
            bytes
        }
    }
}

/// A file's name with `{pid}`, the process id that QEMU was started as from
/// outside, and `{n}`, the report's number (0 for what is no report), filled in.
fn filled_in(path: &Path, number: u64) -> PathBuf {
    let pid = std::process::id().to_string();
    let number = number.to_string();
    let mut name = path.as_os_str().as_bytes().to_vec();
    for (hole, value) in [("{pid}", &pid), ("{n}", &number)] {
        let mut filled = Vec::with_capacity(name.len());
        let mut rest = name.as_slice();
        while let Some(at) = memchr::memmem::find(rest, hole.as_bytes()) {
            let (before, behind) = rest.split_at(at);
            filled.extend_from_slice(before);
            filled.extend_from_slice(value.as_bytes());
            rest = behind.get(hole.len()..).unwrap_or_default();
        }
        filled.extend_from_slice(rest);
        name = filled;
    }
    PathBuf::from(OsString::from_vec(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_may_hold_process_and_number() {
        let pid = std::process::id();
        for (name, filled) in [
            ("log", "log".to_owned()),
            ("log-{pid}.{n}", format!("log-{pid}.7")),
            ("{n}{n}/{p}{", "77/{p}{".to_owned()),
        ] {
            assert_eq!(filled_in(Path::new(name), 7), PathBuf::from(filled));
        }
    }
}
