//! From a report to where it belongs, as the options have it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::cli::Options;
use crate::report::{self, ColorChoice, Format, LineEnd, Report, Style};
use crate::terminal::Destination;
use crate::trace;

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

    /// Write a whole report to `destination`, or to the file that the options
    /// name instead; whether that could be done.
    pub fn put(&self, report: &Report, destination: &Destination) -> bool {
        let destination = match &self.output {
            Some(path) => Destination::File(filled_in(path, report.number)),
            None => destination.clone(),
        };
        let bytes = self.render(report, &destination);
        let written = destination.write(&bytes);
        trace!("{} bytes to {destination:?}: {written:?}", bytes.len());
        if let (Err(error), Destination::File(path)) = (&written, &destination) {
            let line = format!(
                "qemu-logbuf: cannot write {}: {error}; name another file with --logbuf-output\r\n",
                path.display()
            );
            let _ = Destination::Stderr.write(line.as_bytes());
        }
        written.is_ok()
    }

    fn render(&self, report: &Report, destination: &Destination) -> Vec<u8> {
        let terminal = destination.is_terminal();
        let environment = |name: &str| std::env::var_os(name);
        let style = Style {
            colour: report::wants_colour(self.color, terminal, environment),
            unicode: !terminal || report::wants_unicode(environment),
            terminal,
            line_end: if destination.is_raw() { LineEnd::CrLf } else { LineEnd::Lf },
            width: destination.columns().map(usize::from),
            caller: false,
        };
        let bytes = report::render(report, self.format, style);
        if terminal && destination.is_shared() {
            // Whatever stands unfinished on the guest's line keeps its line.
            [style.line_end.bytes(), bytes.as_slice()].concat()
        } else {
            bytes
        }
    }
}

/// A file's name with `{pid}`, the process id that QEMU was started as from
/// outside, and `{n}`, the report's number, filled in.
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
