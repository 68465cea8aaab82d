//! What QEMU's own command line says that matters to us.
//!
//! QEMU reads it the same way from 5.2 to 11.1 (`lookup_opt`, softmmu/vl.c):
//! a word that begins with `-` is an option, `--x` is `-x`, names are exact,
//! and an option with an argument takes the next word whatever it is. The
//! line itself is never changed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::monitor::StdioUse;

/// The options without an argument, of every version from 5.2 to 11.1. All
/// others take one.
const WITHOUT_ARGUMENT: &[&str] = &[
    "S",
    "alt-grab",
    "async-teardown",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "old-param",
    "only-migratable",
    "perfmap",
    "portrait",
    "preconfig",
    "s",
    "sdl",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

/// The parts of QEMU's command line that we go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The kernel QEMU loads: `-kernel`, or `kernel=` of the machine.
    pub kernel: Option<PathBuf>,
    /// QEMU detaches itself from the terminal and from us.
    pub daemonize: bool,
    /// QEMU's escape key, as the byte a terminal sends; `None` where `-echr`
    /// names something no key sends.
    pub escape: Option<u8>,
    /// Who reads stdin.
    pub stdio: StdioUse,
    /// stdin is read in a way that does not show in its terminal modes first
    /// (curses, or a file name that leads to descriptor 0).
    pub reads_stdin_unseen: bool,
    /// `-run-with exit-with-parent=on`: QEMU ends when its parent does.
    pub exit_with_parent: bool,
    /// libvirt's mark: `-name guest=…` together with a chardev `charmonitor`.
    pub libvirt: bool,
}

impl CommandLine {
    /// Read QEMU's words (without `argv[0]`).
    #[must_use]
    pub fn read(words: &[OsString]) -> Self {
        let mut line = Self {
            kernel: None,
            daemonize: false,
            escape: Some(1),
            stdio: StdioUse::None,
            reads_stdin_unseen: false,
            exit_with_parent: false,
            libvirt: false,
        };
        let mut serial = Vec::new();
        let mut monitor = Vec::new();
        let (mut nographic, mut defaults, mut other_monitor) = (false, true, false);
        let (mut guest_name, mut charmonitor) = (false, false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(name) = option_name(word) else { continue };
            if WITHOUT_ARGUMENT.contains(&name) {
                match name {
                    "daemonize" => line.daemonize = true,
                    "nographic" => nographic = true,
                    "nodefaults" => defaults = false,
                    "curses" => line.reads_stdin_unseen = true,
                    _ => {}
                }
                continue;
            }
            let Some(argument) = words.next() else { break };
            let bytes = argument.as_bytes();
            let text = argument.to_string_lossy();
            line.reads_stdin_unseen |= leads_to_stdin(&text);
            match name {
                "kernel" => line.kernel = Some(PathBuf::from(argument)),
                "machine" | "M" => {
                    if let Some(kernel) = property(bytes, b"kernel") {
                        line.kernel = Some(PathBuf::from(OsStr::from_bytes(&kernel)));
                    }
                }
                "echr" => line.escape = escape(&text),
                "serial" => serial.push(text.into_owned()),
                "monitor" => monitor.push(text.into_owned()),
                "qmp" | "qmp-pretty" => {
                    other_monitor = true;
                    if text == "stdio" {
                        line.stdio = StdioUse::Plain;
                    }
                }
                "mon" => other_monitor = true,
                "chardev" if text.starts_with("stdio") => {
                    line.stdio = match property(bytes, b"mux").as_deref() {
                        Some(b"on" | b"yes" | b"true" | b"y") => StdioUse::Mux,
                        _ => StdioUse::Plain,
                    };
                }
                "chardev" => {
                    charmonitor |= property(bytes, b"id").as_deref() == Some(b"charmonitor")
                }
                "display" => line.reads_stdin_unseen |= text.starts_with("curses"),
                "name" => guest_name |= property(bytes, b"guest").is_some(),
                "run-with" => {
                    line.exit_with_parent |=
                        property(bytes, b"exit-with-parent").as_deref() == Some(b"on");
                }
                _ => {}
            }
        }
        // qemu_create_default_devices(): with -nographic, a serial port and a
        // monitor that are both left to QEMU share stdio.
        if nographic {
            let default_serial = defaults && serial.is_empty();
            let default_monitor = defaults && monitor.is_empty() && !other_monitor;
            match (default_serial, default_monitor) {
                (true, true) => serial.push("mon:stdio".to_owned()),
                (true, false) => serial.push("stdio".to_owned()),
                (false, true) => monitor.push("stdio".to_owned()),
                (false, false) => {}
            }
        }
        for device in serial.iter().chain(&monitor) {
            match device.as_str() {
                "mon:stdio" => line.stdio = StdioUse::Mux,
                "stdio" if line.stdio == StdioUse::None => line.stdio = StdioUse::Plain,
                _ => {}
            }
        }
        line.libvirt = guest_name && charmonitor;
        line
    }
}

/// The name of an option, without its dashes; `None` for a disk image.
fn option_name(word: &OsStr) -> Option<&str> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    Some(std::str::from_utf8(name).unwrap_or_default())
}

/// The fields of QEMU's `a=b,c=d` notation, where `,,` stands for a comma.
pub(crate) fn fields(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = vec![Vec::new()];
    let mut rest = bytes.iter().peekable();
    while let Some(&byte) = rest.next() {
        if byte == b',' && rest.next_if_eq(&&b',').is_none() {
            fields.push(Vec::new());
        } else if let Some(field) = fields.last_mut() {
            field.push(byte);
        }
    }
    fields
}

/// The last value of a property in that notation.
pub(crate) fn property(bytes: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let value = |field: &Vec<u8>| Some(field.strip_prefix(name)?.strip_prefix(b"=")?.to_vec());
    fields(bytes).iter().rev().find_map(value)
}

/// Whether a file name in an argument leads to descriptor 0.
fn leads_to_stdin(text: &str) -> bool {
    ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| {
        text.match_indices(name).any(|(at, _)| {
            text[at + name.len()..].chars().next().is_none_or(|next| !next.is_ascii_digit())
        })
    })
}

/// `-echr`'s argument as `strtol(3)` with base 0 reads it.
fn escape(text: &str) -> Option<u8> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.strip_prefix("0x") {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, hex),
        _ if lower.starts_with('0') => (8, lower.as_str()),
        _ => (10, lower.as_str()),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    // No digits at all: QEMU says so and goes on with 0.
    let value = match &digits[..end] {
        "" => 0,
        digits => i64::from_str_radix(digits, radix).ok()?,
    };
    u8::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> CommandLine {
        CommandLine::read(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_kernel_wins_and_an_argument_is_never_an_option() {
        assert_eq!(read("-kernel a --kernel b").kernel, Some("b".into()));
        assert_eq!(read("-append -kernel vmlinux").kernel, None);
        assert_eq!(read("-M pseries,kernel=a,,b").kernel, Some("a,b".into()));
        assert!(!read("-S -kernel x -append -daemonize").daemonize);
        assert!(read("-nodefaults -daemonize").daemonize);
    }

    #[test]
    fn stdio_is_multiplexed_where_qemu_makes_it_so() {
        use StdioUse::{Mux, None, Plain};
        for (line, stdio) in [
            ("-nographic", Mux),
            ("-serial mon:stdio", Mux),
            ("-chardev stdio,id=x,mux=on -mon chardev=x", Mux),
            ("-nographic -monitor none", Plain),
            ("-nographic -qmp unix:x", Plain),
            ("-nographic -serial none", Plain),
            ("-nographic -nodefaults", None),
            ("-serial stdio", Plain),
            ("-monitor stdio", Plain),
            ("-qmp stdio", Plain),
            ("-chardev stdio,id=x", Plain),
            ("-display none", None),
            ("", None),
        ] {
            assert_eq!(read(line).stdio, stdio, "{line}");
        }
    }

    #[test]
    fn the_escape_key_is_read_as_strtol_does() {
        for (text, escape) in [
            ("0x1d", Some(0x1d)),
            ("29", Some(29)),
            ("035", Some(29)),
            (" +2x", Some(2)),
            ("junk", Some(0)),
            ("0x", Some(0)),
            ("300", None),
            ("-1", None),
            ("", Some(0)),
        ] {
            assert_eq!(super::escape(text), escape, "{text:?}");
        }
        assert_eq!(read("-nographic").escape, Some(1));
        assert_eq!(read("-echr 2 -nographic").escape, Some(2));
    }

    #[test]
    fn the_rest_is_noticed() {
        assert!(
            read("-chardev file,id=x,path=/dev/null,input-path=/proc/self/fd/0").reads_stdin_unseen
        );
        // That is the real terminal, read by QEMU itself.
        assert!(!read("-serial /dev/tty").reads_stdin_unseen);
        assert!(!read("-initrd /proc/self/fd/03").reads_stdin_unseen);
        assert!(read("-display curses").reads_stdin_unseen);
        assert!(read("-run-with chroot=/,exit-with-parent=on").exit_with_parent);
        assert!(read("-name guest=x,debug-threads=on -chardev socket,id=charmonitor,fd=3").libvirt);
        assert!(!read("-name x -chardev socket,id=charmonitor,fd=3").libvirt);
    }
}
