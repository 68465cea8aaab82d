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

/// Words that belong together, and what they have in common.
struct Group(&'static str, &'static [Word]);

/// Every word, in the order of the help. What a word stands for where it is
/// not given is in brackets.
const GROUPS: &[Group] = &[
    Group(
        "QEMU, its kernel, and the key",
        &[
            word("logbuf-qemu", Some("PATH"), "the real QEMU [the next of its name in PATH]"),
            word(
                "logbuf-vmlinux",
                Some("FILE"),
                "the kernel's names: its ELF vmlinux or System.map [-kernel's, else the guest's own]",
            ),
            word(
                "logbuf-key",
                Some("KEY"),
                "the key that asks, as 'ctrl-] l' or 'ctrl-t'; off [Ctrl-a l; Ctrl-] l where QEMU has no keys]",
            ),
            word(
                "logbuf-same-pid",
                None,
                "let QEMU have the process id: no key, only SIGUSR1 [under libvirt]",
            ),
        ],
    ),
    Group(
        "What a report is",
        &[
            word(
                "logbuf-output",
                Some("FILE"),
                "append reports to FILE, in which {pid} and {n} are filled in [terminal or stderr]",
            ),
            one_of(
                "logbuf-format",
                "FORMAT",
                &["dmesg", "json", "raw"],
                "dmesg, json (a record a line), raw (the text alone) [dmesg]",
            ),
            one_of(
                "logbuf-show",
                "WHAT",
                &["new", "all", "unseen"],
                "records that are new since the key was pressed last, all, or unseen by any console [new]",
            ),
            one_of("logbuf-where", "WHEN", &["on", "off"], "where each CPU is, under the log [on]"),
            one_of(
                "logbuf-color",
                "WHEN",
                &["auto", "always", "never"],
                "auto, always, never [auto]",
            ),
        ],
    ),
    Group(
        "When nobody is watching",
        &[
            word(
                "logbuf-on",
                Some("EVENT,..."),
                "report on stall[:SECONDS], panic, reset, shutdown, exit [none; 30 seconds]",
            ),
            word(
                "logbuf-stop-on",
                Some("EVENT,..."),
                "report and end QEMU, with status 124 on stall[:SECONDS], 123 panic, 122 reset [none]",
            ),
            word(
                "logbuf-expect",
                Some("REGEX"),
                "end QEMU with status 0 once the log says REGEX; 121 if it never does",
            ),
            Word {
                default: Some("console"),
                ..one_of(
                    "logbuf-follow",
                    "WHAT",
                    &["console", "all", "off"],
                    "show records as they are printed: until the kernel has a console, or all [off; console]",
                )
            },
        ],
    ),
    Group(
        "Without starting QEMU",
        &[
            word(
                "logbuf-attach",
                Some("SOCKET|PID"),
                "report on a QEMU that runs already, by its QMP socket",
            ),
            word(
                "logbuf-read",
                Some("FILE[@ADDRESS]"),
                "report on a dump, or on raw memory from ADDRESS on [0]",
            ),
        ],
    ),
    Group(
        "About qemu-logbuf",
        &[
            word("logbuf-debug", Some("FILE"), "append to FILE what qemu-logbuf does"),
            word("logbuf-help", None, "show this help"),
            word("logbuf-version", None, "show the version"),
        ],
    ),
];

/// Every word.
pub(super) fn words() -> impl Iterator<Item = &'static Word> {
    GROUPS.iter().flat_map(|Group(_, words)| *words)
}

/// The environment twin of a word: `QEMU_LOGBUF_` and its name in capitals.
pub(super) fn variable(name: &str) -> String {
    format!("QEMU_LOGBUF_{}", name.replace('-', "_").to_ascii_uppercase())
}

/// The values that a word may have, by its name after `--logbuf-`; none where
/// they are not few.
#[must_use]
pub fn choices(name: &str) -> &'static [&'static str] {
    words().find(|word| word.name() == name).map_or(&[], |word| word.choices)
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
    for word in words() {
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

/// The columns that help fits, and where its second column begins.
const COLUMNS: usize = 80;
const SECOND: usize = 30;

/// The text of `--logbuf-help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "qemu-logbuf: a qemu-system-ppc64 that shows its kernel's log with one key

Usage: qemu-logbuf [--logbuf-OPTION...] [QEMU's own options, unchanged]
   or: a link or alias named qemu-system-ppc64, used as QEMU itself
   or: qemu-logbuf --logbuf-attach=SOCKET|PID or --logbuf-read=FILE

While the guest runs or hangs: pkill -USR1 qemu-logbuf, or press
  Ctrl-a l  the log; pressed again, what is new in it
  Ctrl-a a  all of the log
  Ctrl-a f  the log from now on; pressed again, no longer
  Ctrl-a w  where each CPU is, with its registers
",
    );
    for Group(title, words) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for word in *words {
            let head = match word.value {
                Some(value) if word.default.is_some() => format!("--{}[={value}]", word.long),
                Some(value) => format!("--{}={value}", word.long),
                None => format!("--{}", word.long),
            };
            text.push_str(&beside(&format!("  {head}"), word.help));
        }
    }
    text.push_str(
        "
[What holds where a word is not given.] What is said of QEMU has a twin in the
environment, QEMU_LOGBUF_QEMU and so on; the word wins. QEMU's own help: -h.
The manual: man qemu-logbuf
",
    );
    text
}

/// A word and its help in two columns, the second broken between words.
fn beside(head: &str, help: &str) -> String {
    let mut text = format!("{head:SECOND$}");
    let mut column = SECOND;
    for word in help.split(' ') {
        if column + 1 + word.chars().count() > COLUMNS {
            text.push_str(&format!("\n{:SECOND$}", ""));
            column = SECOND;
        }
        text.push_str(&format!(" {word}"));
        column += 1 + word.chars().count();
    }
    text + "\n"
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
        for word in words() {
            assert!(help.contains(&format!("--{}", word.long)), "{}", word.long);
        }
    }

    #[test]
    fn help_fits_a_terminal_and_has_no_line_that_ends_in_a_blank() {
        for line in help().lines() {
            assert!(line.chars().count() <= COLUMNS && line == line.trim_end(), "{line:?}");
        }
    }

    #[test]
    fn help_says_which_of_few_values_holds_by_itself() {
        for word in words().filter(|word| !word.choices.is_empty()) {
            let named = word.help.rsplit_once('[').map(|(_, rest)| rest.trim_end_matches(']'));
            let default = named.and_then(|named| named.split(';').next()).unwrap_or_default();
            assert!(word.choices.contains(&default), "{}", word.long);
        }
    }
}
