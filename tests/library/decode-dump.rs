//! The library without the launcher: shows the log in a dump of a guest.
//!
//! ```text
//! decode-dump DUMP [VMLINUX]
//! ```
//!
//! DUMP is of QEMU's `dump-guest-memory` or raw memory from real address 0 on;
//! VMLINUX an ELF file with symbols, a `System.map` or a packed kernel. Without
//! it the kernel's own kallsyms in the dump are asked, and after them the
//! structures of the log themselves.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use qemu_logbuf::arch::Arch;
use qemu_logbuf::guest::{Memory, View, dump};
use qemu_logbuf::kernel::{
    Candidate, Identity, KernelTypes, Names, identify, kallsyms, locate, open_found, scan,
};
use qemu_logbuf::printk::{Entry, Log};
use qemu_logbuf::report::text::clean;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, vmlinux) = match arguments.as_slice() {
        [file] => (file, None),
        [file, vmlinux] => (file, Some(vmlinux)),
        _ => {
            eprintln!("usage: decode-dump DUMP [VMLINUX]");
            return ExitCode::from(2);
        }
    };
    match decode(Path::new(file), vmlinux.map(Path::new)) {
        Ok(log) => {
            show(&log);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("decode-dump: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The log in a dump, by the best names that there are.
fn decode(file: &Path, vmlinux: Option<&Path>) -> Result<Log, Box<dyn Error>> {
    let memory = dump::open(file, None)?;
    if let Some(vmlinux) = vmlinux {
        let names = Candidate::open(vmlinux)?.names;
        // A System.map does not say what the kernel was compiled for.
        return by_names(&memory, names.arch.unwrap_or(Arch::PPC64LE), &names);
    }
    if let Some(found) = kallsyms::find(&memory)?
        && let Ok(log) = by_names(&memory, found.arch(), &found.guest_names())
    {
        return Ok(log);
    }
    by_scan(&memory)
}

/// Names lead to the log only in the guest that they are of.
fn by_names(memory: &dyn Memory, arch: Arch, names: &Names) -> Result<Log, Box<dyn Error>> {
    match identify(memory, arch, names)? {
        Identity::Here { rule, displacement } => {
            let view = View::new(memory, arch, rule);
            Ok(locate(&view, names, displacement)?.read(&view)?)
        }
        Identity::Other(banner) => {
            Err(format!("another kernel's dump: {}", String::from_utf8_lossy(&banner)).into())
        }
        Identity::Loaded { .. } => Err("the kernel was not entered yet".into()),
        Identity::Absent => Err("no kernel is in this dump".into()),
    }
}

/// No names are needed where the log's structures can be recognised.
fn by_scan(memory: &dyn Memory) -> Result<Log, Box<dyn Error>> {
    let outcome = scan::scan(memory, &mut |_, _| ControlFlow::Continue(()))?;
    let scan::Verdict::Live(found) = outcome.verdict else {
        return Err("no log is in this dump".into());
    };
    let view = View::new(memory, found.arch, found.rule);
    let buffer = open_found(&view, &found.kind, &KernelTypes::default())?;
    Ok(buffer.ok_or("only scraps of a log are in this dump")?.read(&view)?)
}

fn show(log: &Log) {
    for entry in &log.entries {
        match entry {
            Entry::Record(record) => {
                let stamp = record.ts_nsec.unwrap_or(0);
                let (seconds, rest) = (stamp / 1_000_000_000, stamp % 1_000_000_000 / 1000);
                // Guests write what they like: never to a terminal as it is.
                let text = clean(&record.text, true);
                let text = String::from_utf8_lossy(&text);
                println!("[{seconds:>5}.{rest:06}] {text}");
            }
            Entry::Lost { count, why, .. } => println!("({count} records: {why:?})"),
        }
    }
}
