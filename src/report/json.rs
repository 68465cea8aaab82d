//! JSON Lines, for programs. This is the schema; its version is 1.
//!
//! A line is an object. Its `type` says what it describes; `v` is the
//! version of the schema, and `report` the number of the report within the
//! session, so that the lines of several reports in a file can be told
//! apart. Keys are added without a new version, so a reader ignores keys and
//! types it does not know; a key that changes its meaning or goes away makes
//! a new version. A key listed here is always present, `null` where there is
//! nothing to say, unless it says otherwise.
//!
//! `"type":"record"`, a record of the log, oldest first:
//!
//! | key | value |
//! |---|---|
//! | `seq` | sequence number, 0 is the first since boot; before 3.5 where its first character is, as the kernel counts them |
//! | `time` | seconds since boot, with nine decimals; `null` where the format keeps none |
//! | `level` | 0 (emergency) to 7 (debug) |
//! | `facility` | syslog facility, 0 is the kernel |
//! | `caller` | `T1` is the task 1, `C0` the CPU 0 |
//! | `subsystem`, `device` | what the record speaks of, as `pci` and `+pci:0000:00:00.0` |
//! | `text` | the message, without a closing newline |
//! | `bytes` | only where the message is not UTF-8: all of it in hexadecimal; `text` then has U+FFFD for what is not |
//! | `continues` | whether it continues the line before it |
//! | `state` | `complete`; `open`: may yet be extended; `in-progress`: being written, text may be partial; `salvaged`: found without its descriptor |
//!
//! `"type":"lost"`, records missing at this place:
//!
//! | key | value |
//! |---|---|
//! | `seq` | sequence number of the first one missing |
//! | `lost` | how many |
//! | `why` | `overwritten`; `no-text`: the kernel had no room for it; `corrupt`; `reserved`: no text was stored yet; `too-many`: older than as many as are held of a log of that size |
//!
//! `"type":"report"`, the last line of every report:
//!
//! | key | value |
//! |---|---|
//! | `trigger` | the event that asked for it: `stall`, `panic`, `reset`, `shutdown`, `exit`; `null` where somebody did |
//! | `verdict` | `log`; `not-entered`: the kernel has not been entered; `silent`: it was entered and has not printed; `places`: the log was not asked for; `failed` |
//! | `detail` | for `not-entered`, how that is known; for `failed`, what happened |
//! | `remedy` | for `failed`, what to do |
//! | `kernel` | its release |
//! | `banner` | its banner, if that is known |
//! | `arch` | `ppc64le`, `ppc64` or `ppc` |
//! | `format` | `ringbuffer`, `variable-records`, `bytes` or `salvage` |
//! | `source` | where its names are from: `elf`, `system-map`, `image-kallsyms`, `guest-kallsyms` or `scan` |
//! | `path` | the file, where the source is one |
//! | `layout` | who says how the log is laid out: `known`: we do; `file-btf`, `guest-btf`: the kernel's types |
//! | `scope` | which part of the log it is: `all`; `unseen`: what no console has printed; `new`: what is new since an earlier report |
//! | `since` | for `new`, the number of that report |
//! | `records`, `lost` | how many there were above |
//! | `cpus` | an array of `{"cpu":0,"where":"stuck in f+0x8 ← g+0x16c"}`; where they were asked for, `registers` is an array of lines of names and hexadecimal values |
//! | `warnings`, `notes` | arrays of sentences |
//!
//! Every line is printable ASCII: other characters are `\uXXXX`, so that a
//! line is harmless in a terminal, whatever its locale, and no reader has to
//! guess an encoding. That is why the escaping is done here: `serde_json`
//! passes DEL, C1 controls and bidirectional marks.

use memchr::memchr3;

use super::text::{hex_digit, is_plain};
use super::{Formatter, Report, Scope, Style, Verdict, push_number};
use crate::kernel::Source;
use crate::printk::{Caller, Entry, Format, LayoutSource, Loss, Record, State};

/// A member's key with all that stands around it: one copy instead of three.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// The formatter.
pub(super) struct Json<'a> {
    report: &'a Report,
    style: Style,
}

impl<'a> Json<'a> {
    pub(super) fn new(report: &'a Report, style: Style) -> Self {
        Self { report, style }
    }

    fn object<'o>(&self, out: &'o mut Vec<u8>, kind: &str) -> Object<'o> {
        out.extend_from_slice(b"{\"v\":1");
        let mut object = Object { out };
        object.string(key!("type"), kind.as_bytes());
        object.number(key!("report"), self.report.number);
        object
    }

    fn end(&self, out: &mut Vec<u8>) {
        out.push(b'}');
        out.extend_from_slice(self.style.line_end.bytes());
    }

    fn record(&self, out: &mut Vec<u8>, record: &Record) {
        out.reserve(record.text.len() + 256);
        let mut object = self.object(out, "record");
        object.number(key!("seq"), record.seq);
        object.time(key!("time"), record.ts_nsec);
        object.number(key!("level"), record.level.into());
        object.number(key!("facility"), record.facility.into());
        object.caller(key!("caller"), record.caller);
        let device = record.device.as_deref();
        object.text_or_null(key!("subsystem"), device.map(|device| &*device.subsystem));
        object.text_or_null(key!("device"), device.map(|device| &*device.device));
        object.string(key!("text"), &record.text);
        if !is_plain(&record.text) && std::str::from_utf8(&record.text).is_err() {
            object.hex(key!("bytes"), &record.text);
        }
        object.literal(key!("continues"), if record.continues { "true" } else { "false" });
        object.string(key!("state"), state(record.state));
        self.end(out);
    }

    fn lost(&self, out: &mut Vec<u8>, seq: u64, count: u64, why: Loss) {
        let mut object = self.object(out, "lost");
        object.number(key!("seq"), seq);
        object.number(key!("lost"), count);
        object.string(key!("why"), loss(why));
        self.end(out);
    }

    fn verdict(&self, object: &mut Object<'_>) {
        let (verdict, detail, remedy) = match &self.report.verdict {
            Verdict::Log(_) => ("log", "", ""),
            Verdict::Places => ("places", "", ""),
            Verdict::NotEntered { detail } => ("not-entered", &**detail, ""),
            Verdict::EnteredSilent { .. } => ("silent", "", ""),
            Verdict::Failed { what, remedy } => ("failed", &**what, &**remedy),
        };
        let or_null = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned().into_bytes());
        object.string(key!("verdict"), verdict.as_bytes());
        object.text_or_null(key!("detail"), or_null(detail).as_deref());
        object.text_or_null(key!("remedy"), or_null(remedy).as_deref());
    }

    fn identity(&self, object: &mut Object<'_>) {
        let report = self.report;
        object.text_or_null(key!("kernel"), report.release());
        let banner = report.kernel.as_deref().filter(|kernel| kernel.contains(&b' '));
        object.text_or_null(key!("banner"), banner);
        object.text_or_null(
            key!("arch"),
            report.arch.map(|arch| arch.to_string()).as_deref().map(str::as_bytes),
        );
        object.text_or_null(key!("format"), report.format().map(format));
        let (source, path) = match &report.source {
            None => (None, None),
            Some(Source::Elf(path)) => (Some("elf"), Some(path)),
            Some(Source::SystemMap(path)) => (Some("system-map"), Some(path)),
            Some(Source::ImageKallsyms(path)) => (Some("image-kallsyms"), Some(path)),
            Some(Source::GuestKallsyms) => (Some("guest-kallsyms"), None),
            Some(Source::Scan) => (Some("scan"), None),
        };
        object.text_or_null(key!("source"), source.map(str::as_bytes));
        object.text_or_null(key!("path"), path.map(|path| path.as_os_str().as_encoded_bytes()));
        object.string(
            key!("layout"),
            match report.layout {
                LayoutSource::Known => b"known",
                LayoutSource::FileBtf => b"file-btf",
                LayoutSource::GuestBtf => b"guest-btf",
            },
        );
    }
}

impl Formatter for Json<'_> {
    fn head(&self, _out: &mut Vec<u8>) {}

    fn entry(&self, out: &mut Vec<u8>, entry: &Entry) {
        match entry {
            Entry::Record(record) => self.record(out, record),
            Entry::Lost { seq, count, why } => self.lost(out, *seq, *count, *why),
        }
    }

    fn tail(&self, out: &mut Vec<u8>) {
        let report = self.report;
        let mut object = self.object(out, "report");
        object.text_or_null(key!("trigger"), report.trigger.map(str::as_bytes));
        self.verdict(&mut object);
        self.identity(&mut object);
        let (scope, since) = match report.scope {
            Scope::All => ("all", None),
            Scope::Unseen => ("unseen", None),
            Scope::New(since) => ("new", Some(since)),
        };
        object.string(key!("scope"), scope.as_bytes());
        match since {
            Some(since) => object.number(key!("since"), since),
            None => object.literal(key!("since"), "null"),
        }
        object.number(key!("records"), report.log().map_or(0, |log| log.records().count() as u64));
        object.number(key!("lost"), report.log().map_or(0, |log| log.lost()));
        let sentence = |out: &mut Vec<u8>, text: &String| push_string(out, text.as_bytes());
        object.array(key!("cpus"), &report.cpus, |out, line| {
            out.extend_from_slice(b"{\"cpu\":");
            push_number(out, line.cpu.into(), 1, b'0');
            let mut cpu = Object { out };
            cpu.string(key!("where"), line.text.as_bytes());
            if !line.registers.is_empty() {
                cpu.array(key!("registers"), &line.registers, sentence);
            }
            out.push(b'}');
        });
        object.array(key!("warnings"), &report.warnings, sentence);
        object.array(key!("notes"), &report.notes, sentence);
        self.end(out);
    }
}

/// The members of an object that has at least one already.
struct Object<'o> {
    out: &'o mut Vec<u8>,
}

impl Object<'_> {
    fn literal(&mut self, key: &str, value: &str) {
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(value.as_bytes());
    }

    fn number(&mut self, key: &str, value: u64) {
        self.out.extend_from_slice(key.as_bytes());
        push_number(self.out, value, 1, b'0');
    }

    fn string(&mut self, key: &str, value: &[u8]) {
        self.out.extend_from_slice(key.as_bytes());
        push_string(self.out, value);
    }

    fn text_or_null(&mut self, key: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.string(key, value),
            None => self.literal(key, "null"),
        }
    }

    /// Nanoseconds as seconds, digit by digit: a double would round them.
    fn time(&mut self, key: &str, nsec: Option<u64>) {
        let Some(nsec) = nsec else { return self.literal(key, "null") };
        self.number(key, nsec / 1_000_000_000);
        self.out.push(b'.');
        push_number(self.out, nsec % 1_000_000_000, 9, b'0');
    }

    fn caller(&mut self, key: &str, caller: Option<Caller>) {
        let (kind, id) = match caller {
            None => return self.literal(key, "null"),
            Some(Caller::Task(id)) => ("\"T", id),
            Some(Caller::Cpu(id)) => ("\"C", id),
        };
        self.literal(key, kind);
        push_number(self.out, id.into(), 1, b'0');
        self.out.push(b'"');
    }

    fn hex(&mut self, key: &str, bytes: &[u8]) {
        self.literal(key, "\"");
        self.out
            .extend(bytes.iter().flat_map(|&byte| [hex_digit(byte >> 4), hex_digit(byte & 15)]));
        self.out.push(b'"');
    }

    fn array<T>(&mut self, key: &str, items: &[T], push: impl Fn(&mut Vec<u8>, &T)) {
        self.literal(key, "[");
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            push(self.out, item);
        }
        self.out.push(b']');
    }
}

/// Appends a JSON string of printable ASCII; what is not UTF-8 becomes
/// U+FFFD.
fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    // Nearly every text needs nothing.
    if is_plain(text) && memchr3(b'"', b'\\', b'\t', text).is_none() {
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                ' '..='~' => out.push(c as u8),
                '\n' => out.extend_from_slice(b"\\n"),
                '\t' => out.extend_from_slice(b"\\t"),
                _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| push_unit(out, unit)),
            }
        }
        if !chunk.invalid().is_empty() {
            push_unit(out, 0xfffd);
        }
    }
    out.push(b'"');
}

fn push_unit(out: &mut Vec<u8>, unit: u16) {
    let [high, low] = unit.to_be_bytes();
    let [a, b, c, d] = [high >> 4, high & 15, low >> 4, low & 15].map(hex_digit);
    out.extend_from_slice(&[b'\\', b'u', a, b, c, d]);
}

const fn state(state: State) -> &'static [u8] {
    match state {
        State::Complete => b"complete",
        State::Open => b"open",
        State::InProgress => b"in-progress",
        State::Salvaged => b"salvaged",
    }
}

const fn loss(why: Loss) -> &'static [u8] {
    match why {
        Loss::Overwritten => b"overwritten",
        Loss::TooMany => b"too-many",
        Loss::NoText => b"no-text",
        Loss::Corrupt => b"corrupt",
        Loss::Reserved => b"reserved",
    }
}

const fn format(format: Format) -> &'static [u8] {
    match format {
        Format::Bytes => b"bytes",
        Format::VariableRecords => b"variable-records",
        Format::Ringbuffer => b"ringbuffer",
        Format::Salvage => b"salvage",
    }
}
