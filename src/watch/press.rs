//! From a report to where it belongs, as the options have it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Pid;

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
    /// The process id for `{pid}`: what QEMU was started as from outside.
    pid: u32,
    /// It was said that records cannot be written there.
    complained: Arc<AtomicBool>,
}

impl Press {
    /// As the options have it.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            color: options.color,
            format: options.format,
            output: options.output.clone(),
            pid: std::process::id(),
            complained: Arc::default(),
        }
    }

    /// The same beside a QEMU that was started as `qemu`.
    #[must_use]
    pub fn beside(self, qemu: Pid) -> Self {
        Self { pid: qemu.as_raw().unsigned_abs(), ..self }
    }

    /// Write a whole report to the file that the options name, or else to
    /// `destination`; whether that could be done.
    pub fn put(&self, report: &Report, destination: &Destination) -> bool {
        let write = |place: &Destination| self.write(report, place);
        self.put_by(report.number, destination, &write, Some("the report is"))
    }

    /// Whether reports for `destination` go to a pipe.
    pub(super) fn is_pipe(&self, destination: &Destination) -> bool {
        self.output.is_none() && destination.is_pipe()
    }

    /// Write as much of a report to a pipe as that takes without waiting; the
    /// rest of it, which may be nothing or all.
    pub(super) fn put_at_once(&self, report: &Report, destination: &Destination) -> Vec<u8> {
        let mut bytes = self.render(report, destination);
        let written = destination.write_at_once(&bytes);
        trace!("{written} of {} bytes to {destination:?} at once", bytes.len());
        bytes.drain(..written);
        bytes
    }

    /// Write to the file that the options name for the report of that number,
    /// or else to `destination`. What was asked for is worth more than the
    /// file it was to be in: where that cannot be written it is shown at
    /// `destination`, and it is said that `what is`, if anything is to be said.
    fn put_by(
        &self,
        number: u64,
        destination: &Destination,
        write: &dyn Fn(&Destination) -> io::Result<()>,
        what_is: Option<&str>,
    ) -> bool {
        let show = || self.shown(write(destination), destination);
        let Some(path) = &self.output else { return show() };
        let path = self.filled_in(path, number);
        let Err(error) = write(&Destination::File(path.clone())) else { return true };
        if let Some(what_is) = what_is {
            let why = reason(&error);
            let line = format!(
                "cannot write {}: {why}, so {what_is} shown here; name another file with --logbuf-output",
                path.display()
            );
            self.say(&line, destination);
            self.complained.store(true, Ordering::Relaxed);
        }
        show()
    }

    /// Whether something was written; where it was to standard output and
    /// could not be, that is said, but for a reader that has seen enough.
    fn shown(&self, written: io::Result<()>, destination: &Destination) -> bool {
        if let Err(error) = &written
            && *destination == Destination::Stdout
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let why = reason(error);
            self.say(&format!("cannot write to standard output: {why}; write to another place, as with --logbuf-output"), destination);
        }
        written.is_ok()
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
        let write = |place: &Destination| {
            let report = Report::new(Verdict::EnteredSilent { format: None });
            let formatter = report::formatter(&report, self.format, self.style(place));
            let mut out = Vec::new();
            for entry in entries {
                formatter.entry(&mut out, entry);
            }
            place.write(&out)
        };
        let what_is = (!self.complained.load(Ordering::Relaxed)).then_some("records are");
        self.put_by(0, destination, &write, what_is);
    }

    /// Write a line of our own, which is no report, to who asks at
    /// `destination`.
    pub(super) fn say(&self, what: &str, destination: &Destination) {
        let destination = match destination {
            Destination::Stdout => &Destination::Stderr,
            other => other,
        };
        let end = if destination.is_raw() { "\r\n" } else { "\n" };
        let _ = destination.write(format!("qemu-logbuf: {what}{end}").as_bytes());
    }

    /// A file's name with `{pid}` and `{n}`, the report's number (0 for what is
    /// no report), filled in.
    fn filled_in(&self, path: &Path, number: u64) -> PathBuf {
        let (pid, number) = (self.pid.to_string(), number.to_string());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printk::Loss;

    #[test]
    fn a_files_name_may_hold_process_and_number() {
        let press = Press::new(&Options::default());
        let own = std::process::id();
        assert_eq!(press.filled_in(Path::new("{pid}"), 7), PathBuf::from(own.to_string()));
        let press = press.beside(Pid::from_raw(123));
        for (name, filled) in
            [("log", "log"), ("log-{pid}.{n}", "log-123.7"), ("{n}{n}/{p}{", "77/{p}{")]
        {
            assert_eq!(press.filled_in(Path::new(name), 7), PathBuf::from(filled));
        }
    }

    #[test]
    fn what_cannot_be_written_where_it_should_is_written_elsewhere_and_said_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Some(folder.path().join("none/log"));
        let press = Press::new(&Options { output, ..Options::default() });
        let path = folder.path().join("elsewhere");
        let elsewhere = Destination::File(path.clone());
        for number in 0..2 {
            let lost = Entry::Lost { seq: number, count: 1, why: Loss::Overwritten };
            press.put_entries(&[lost], &elsewhere);
        }
        let text = std::fs::read_to_string(path).expect("it was written");
        assert_eq!(text.matches("cannot write ").count(), 1, "{text}");
        assert!(text.contains("so records are shown here; name another"), "{text}");
    }
}
