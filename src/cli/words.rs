//! The definition of our words: names, values and one line of help each.
//!
//! The parser, `--logbuf-help` and the test that holds the man page to them
//! all read this one list.

use clap::{Arg, ArgAction, Command};

/// One word of ours.
pub(super) struct Word {
    /// The word without its dashes and value.
    long: &'static str,
    /// What stands for its value in the help; `None` for a flag.
    pub value: Option<&'static str>,
    /// The value it has where none is given; `None` where one must be.
    pub default: Option<&'static str>,
    /// The values it may have, where they are few.
    pub choices: &'static [&'static str],
    /// One line of help.
    pub help: &'static str,
}

impl Word {
    /// The name after `--logbuf-`.
    pub fn name(&self) -> &'static str {
        self.long.strip_prefix("logbuf-").unwrap_or(self.long)
    }
}

const fn word(long: &'static str, value: Option<&'static str>, help: &'static str) -> Word {
    Word { long, value, default: None, choices: &[], help }
}

/// A word with few values.
const fn one_of(
    long: &'static str,
    value: &'static str,
    choices: &'static [&'static str],
    help: &'static str,
) -> Word {
    Word { choices, ..word(long, Some(value), help) }
}

/// Every word, in the order of the help.
pub(super) const WORDS: &[Word] = &[
    word("logbuf-qemu", Some("PATH"), "the real QEMU [the next one of the same name in PATH]"),
    word(
        "logbuf-vmlinux",
        Some("FILE"),
        "the kernel's symbols: an ELF vmlinux or a System.map [-kernel's]",
    ),
    word(
        "logbuf-key",
        Some("KEY"),
        "the key that asks: 'ctrl-] l', 'ctrl-t', off [Ctrl-a l, or Ctrl-] l where QEMU has no keys]",
    ),
    Word {
        long: "logbuf-color",
        value: Some("WHEN"),
        default: None,
        choices: &["auto", "always", "never"],
        help: "colours: auto, always, never [auto]",
    },
    word(
        "logbuf-output",
        Some("FILE"),
        "append reports to FILE instead of showing them; {pid} and {n} in it are filled in",
    ),
    one_of(
        "logbuf-format",
        "FORMAT",
        &["dmesg", "json", "raw"],
        "reports as dmesg shows them, as JSON lines, or the bare text [dmesg]",
    ),
    one_of(
        "logbuf-show",
        "WHAT",
        &["new", "all", "unseen"],
        "records new since the report before, all, or those that no console printed [new]",
    ),
    word(
        "logbuf-on",
        Some("EVENT,..."),
        "report by itself on stall[:SECONDS], panic, reset, shutdown, exit",
    ),
    word(
        "logbuf-stop-on",
        Some("EVENT,..."),
        "report and end QEMU: exit status 124 for stall[:SECONDS], 123 panic, 122 reset",
    ),
    word(
        "logbuf-expect",
        Some("REGEX"),
        "end QEMU with status 0 once the log says REGEX; 121 where it never does",
    ),
    Word {
        long: "logbuf-follow",
        value: Some("WHAT"),
        default: Some("console"),
        choices: &["console", "all", "off"],
        help: "show records as they are printed: console (until the kernel has one), all [console]",
    },
    one_of("logbuf-where", "WHEN", &["on", "off"], "where each CPU is, under the log [on]"),
    word(
        "logbuf-same-pid",
        None,
        "let QEMU have the process id (for libvirt and the like): no key, only SIGUSR1",
    ),
    word(
        "logbuf-attach",
        Some("SOCKET|PID"),
        "report on a QEMU that runs already, by its QMP socket, and end",
    ),
    word(
        "logbuf-read",
        Some("FILE[@ADDRESS]"),
        "report on a file of guest memory (a dump, or raw from ADDRESS on), and end",
    ),
    word("logbuf-debug", Some("FILE"), "append what qemu-logbuf does to FILE"),
    word("logbuf-help", None, "show this help"),
    word("logbuf-version", None, "show the version of qemu-logbuf"),
];

/// The environment twin of a word: `QEMU_LOGBUF_` and its name in capitals.
pub(super) fn variable(name: &str) -> String {
    format!("QEMU_LOGBUF_{}", name.replace('-', "_").to_ascii_uppercase())
}

/// The values that a word may have, by its name after `--logbuf-`; none where
/// they are not few.
#[must_use]
pub fn choices(name: &str) -> &'static [&'static str] {
    WORDS.iter().find(|word| word.name() == name).map_or(&[], |word| word.choices)
}

/// Our words, for the parser.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new("qemu-logbuf")
        .version(env!("CARGO_PKG_VERSION"))
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true);
    for word in WORDS {
        let arg = Arg::new(word.name()).long(word.long).help(word.help);
        let arg = match word.value {
            None => arg.action(ArgAction::SetTrue),
            Some(value) => arg
                .value_name(value)
                .require_equals(true)
                .value_parser(clap::value_parser!(std::ffi::OsString)),
        };
        let arg = match word.default {
            None => arg,
            Some(default) => arg.num_args(0..=1).default_missing_value(default),
        };
        command = command.arg(arg);
    }
    command
}

/// The text of `--logbuf-help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "qemu-logbuf: a drop-in qemu-system-ppc64 that shows the kernel's log with one key

Usage: qemu-logbuf [--logbuf-OPTION...] [QEMU's own options, unchanged]
   or: qemu-logbuf --logbuf-attach=SOCKET|PID or --logbuf-read=FILE
   or: a symlink or alias named qemu-system-ppc64, used as QEMU itself

While the guest runs or hangs: press Ctrl-a l, or run pkill -USR1 qemu-logbuf
  Ctrl-a l  the log, and pressed again what is new in it
  Ctrl-a a  all of the log
  Ctrl-a w  where each CPU is, with its registers

",
    );
    let head = |word: &Word| match word.value {
        Some(value) if word.default.is_some() => format!("--{}[={value}]", word.long),
        Some(value) => format!("--{}={value}", word.long),
        None => format!("--{}", word.long),
    };
    let width = WORDS.iter().map(|word| head(word).len()).max().unwrap_or(0);
    for word in WORDS {
        text.push_str(&format!("  {:width$}  {}\n", head(word), word.help));
    }
    text.push_str(
        "
Each but attach and read has a twin in the environment, QEMU_LOGBUF_QEMU and
so on; the option wins. QEMU's own help: -h. The manual: man qemu-logbuf
",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_names_every_word() {
        let help = help();
        for word in WORDS {
            assert!(help.contains(&format!("--{}", word.long)), "{}", word.long);
        }
    }
}
