//! Whether to colour, decided once, and with what.
//!
//! The colours are the defaults of util-linux's dmesg(1), so that a log
//! looks here as it looks on the machine itself. The user's
//! `terminal-colors.d` scheme for dmesg is not read.

use std::ffi::OsString;

use anstyle::{AnsiColor, Effects};

/// The user's word on colours: `--logbuf-color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorChoice {
    /// On a terminal that can, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Wherever the report goes.
    Always,
    /// Nowhere.
    Never,
}

impl ColorChoice {
    /// Each choice under the name that the command line knows it by.
    pub const NAMES: [(&str, Self); 3] =
        [("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
}

/// Whether a report is coloured.
///
/// `always` and `never` have the last word. `auto` asks that the report goes
/// to a terminal, that `NO_COLOR` is unset or empty (<https://no-color.org>),
/// and that `TERM` names a terminal that is not `dumb`.
pub fn wants_colour(
    choice: ColorChoice,
    is_terminal: bool,
    env: impl Fn(&str) -> Option<OsString>,
) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            is_terminal
                && env("NO_COLOR").is_none_or(|value| value.is_empty())
                && env("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
        }
    }
}

/// What to write before and after a coloured piece; nothing in a report
/// without colours.
#[derive(Clone, Debug, Default)]
pub(super) struct Paint {
    pub(super) on: Vec<u8>,
    pub(super) off: Vec<u8>,
}

impl From<anstyle::Style> for Paint {
    fn from(style: anstyle::Style) -> Self {
        Self { on: style.to_string().into_bytes(), off: format!("{style:#}").into_bytes() }
    }
}

/// The sequences of one report, rendered once and not per record.
#[derive(Clone, Debug, Default)]
pub(super) struct Palette {
    /// The time stamp.
    pub(super) stamp: Paint,
    /// The `subsystem: ` a message begins with.
    pub(super) subsystem: Paint,
    /// The message, by level 0 to 7.
    levels: [Paint; 8],
    /// A message of no alarming level that speaks of a segfault.
    pub(super) segfault: Paint,
    /// Our own lines: header, where lines, failures.
    pub(super) strong: Paint,
    /// The closing line.
    pub(super) quiet: Paint,
    /// A warning on top.
    pub(super) warning: Paint,
    /// Gaps and marks within the log, in a colour that dmesg has no use for.
    pub(super) mark: Paint,
    /// No colour at all.
    none: Paint,
}

impl Palette {
    /// dmesg's defaults (`colors[]` in sys-utils/dmesg.c of util-linux 2.38
    /// to 2.41).
    pub(super) fn dmesg() -> Self {
        let plain = anstyle::Style::new();
        let red = AnsiColor::Red.on_default();
        let alert = Paint::from(red.effects(Effects::INVERT));
        Self {
            stamp: AnsiColor::Green.on_default().into(),
            subsystem: AnsiColor::Yellow.on_default().into(),
            levels: [
                // dmesg leaves level 0 without colour. A panic is printed at
                // level 0: it should not be the quietest line of the log.
                alert.clone(),
                alert,
                red.effects(Effects::BOLD).into(),
                red.into(),
                plain.effects(Effects::BOLD).into(),
                Paint::default(),
                Paint::default(),
                Paint::default(),
            ],
            segfault: red.effects(Effects::DIMMED).into(),
            strong: plain.effects(Effects::BOLD).into(),
            quiet: plain.effects(Effects::DIMMED).into(),
            warning: AnsiColor::Yellow.on_default().effects(Effects::BOLD).into(),
            mark: AnsiColor::Magenta.on_default().into(),
            none: Paint::default(),
        }
    }

    /// The colour of a message of this level; none for levels that do not
    /// exist.
    pub(super) fn level(&self, level: u8) -> &Paint {
        self.levels.get(usize::from(level)).unwrap_or(&self.none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(vars: &[(&str, &str)]) -> bool {
        wants_colour(ColorChoice::Auto, true, |name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn auto_colours_a_terminal_that_can() {
        assert!(auto(&[("TERM", "xterm")]));
        assert!(auto(&[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!auto(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
        assert!(!auto(&[("TERM", "dumb")]));
        assert!(!auto(&[]));
        assert!(!wants_colour(ColorChoice::Auto, false, |_| Some("xterm".into())));
    }

    #[test]
    fn always_and_never_have_the_last_word() {
        assert!(wants_colour(ColorChoice::Always, false, |_| Some("1".into())));
        assert!(!wants_colour(ColorChoice::Never, true, |_| Some("xterm".into())));
    }
}
