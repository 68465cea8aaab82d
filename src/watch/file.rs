//! A report on what a file holds: a dump of a guest, or raw memory, the log
//! buffer alone included.

use std::ffi::OsStr;
use std::fmt;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::answer::{self, Guest};
use super::press::Press;
use super::sources::Sources;
use crate::cli::{Options, Show};
use crate::guest::dump::{self, Kind};
use crate::report::{Report, Verdict};
use crate::terminal::Destination;

/// Report on the file that `name` names, maybe with `@ADDRESS` behind it,
/// to standard output or where the options say. Whether it held a log.
///
/// # Errors
/// Where the file cannot be read as guest memory, in one sentence.
pub fn read(name: &OsStr, options: &Options) -> Result<bool, Box<dyn fmt::Display>> {
    let (path, base) = place(name);
    let memory = dump::open(&path, base).map_err(|error| -> Box<dyn fmt::Display> {
        Box::new(format!(
            "{} cannot be read as guest memory: {error}; name a dump or raw memory with --logbuf-read",
            path.display()
        ))
    })?;
    crate::trace!("{}: {memory:?}", path.display());
    let unseen = options.show == Show::Unseen;
    let guest = Guest { memory: &memory, live: false, cpu: &|| None, log: true, unseen };
    let mut sources = Sources::of(options.vmlinux.clone(), None);
    let mut progress = |_, _| ControlFlow::Continue(());
    let answer = answer::consult(&guest, &mut sources, &mut progress);
    let mut report = answer.map_or_else(
        |error| Report::new(answer::failed(format!("{}: {error}", path.display()), "")),
        |answer| answer.report,
    );
    if let Verdict::Failed { remedy, .. } = &mut report.verdict {
        *remedy = match memory.kind() {
            Kind::Raw => "it should be guest memory from address 0 on, or say where it begins with @ADDRESS",
            Kind::Elf | Kind::Kdump | Kind::KdumpFlattened => {
                "it may be cut short, or of a guest whose kernel had not been entered; dump it again"
            }
        }
        .to_owned();
    }
    let written = Press::new(options).put(&report, &Destination::Stdout);
    Ok(written && report.log().is_some())
}

/// `FILE@ADDRESS` taken apart, unless a file is called just that.
fn place(name: &OsStr) -> (PathBuf, Option<u64>) {
    let whole = (PathBuf::from(name), None);
    if Path::new(name).exists() {
        return whole;
    }
    let bytes = name.as_bytes();
    let Some(at) = memchr::memrchr(b'@', bytes) else { return whole };
    let (file, address) = bytes.split_at(at);
    let address = std::str::from_utf8(address.get(1..).unwrap_or_default()).ok();
    match address.and_then(number) {
        Some(address) => (PathBuf::from(OsStr::from_bytes(file)), Some(address)),
        None => whole,
    }
}

/// An address in hexadecimal with `0x`, or in decimal.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_follow_the_files_name() {
        let read = |name: &str| place(OsStr::new(name));
        assert_eq!(read("ram@0x1000"), ("ram".into(), Some(0x1000)));
        assert_eq!(read("a@b@16"), ("a@b".into(), Some(16)));
        assert_eq!(read("ram"), ("ram".into(), None));
        assert_eq!(read("ram@home"), ("ram@home".into(), None));
        let folder = tempfile::tempdir().expect("a folder");
        let odd = folder.path().join("ram@16");
        std::fs::write(&odd, "x").expect("written");
        assert_eq!(place(odd.as_os_str()), (odd.clone(), None));
    }
}
