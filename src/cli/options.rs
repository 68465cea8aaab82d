//! From our words to typed options.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::events::{Events, Follow};
use super::key::KeyChoice;
use super::words::{Word, choices, command, variable, words};

/// When to use colours, and how reports are written.
pub use crate::report::{ColorChoice, Format};

/// Which records a report shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// All at first, then what is new since the report before.
    #[default]
    New,
    /// All that there are, each time.
    All,
    /// Those that no console has printed.
    Unseen,
}

/// What the user asked of us, all of it valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The real QEMU, where the user names it.
    pub qemu: Option<PathBuf>,
    /// The kernel's symbols, where the user names them.
    pub vmlinux: Option<PathBuf>,
    /// The key that asks.
    pub key: KeyChoice,
    /// Colours or not.
    pub color: ColorChoice,
    /// The file that reports go to, instead of terminal or stderr; may hold
    /// `{pid}` and `{n}`.
    pub output: Option<PathBuf>,
    /// What is reported without being asked about.
    pub on: Events,
    /// What QEMU is ended on, once it is reported.
    pub stop_on: Events,
    /// What the log is to say for QEMU to be ended as a success: a regular
    /// expression that has been tried.
    pub expect: Option<String>,
    /// The exit status is to be a verdict, by a word and not only by what the
    /// environment says for all QEMUs.
    pub wants_verdict: bool,
    /// Which records are shown as they are printed.
    pub follow: Option<Follow>,
    /// QEMU is to have the process id that it was called by.
    pub same_pid: bool,
    /// How reports are written.
    pub format: Format,
    /// Which records they show.
    pub show: Show,
    /// Whether they say where each CPU is.
    pub places: bool,
    /// The file that says what we do.
    pub debug: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            qemu: None,
            vmlinux: None,
            key: KeyChoice::default(),
            color: ColorChoice::default(),
            output: None,
            format: Format::default(),
            show: Show::default(),
            places: true,
            same_pid: false,
            on: Events::default(),
            stop_on: Events::default(),
            expect: None,
            wants_verdict: false,
            follow: None,
            debug: None,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Show our help.
    Help,
    /// Show our version.
    Version,
    /// Run QEMU.
    Run(Options),
    /// Report on a QEMU that runs already: its QMP socket or process id.
    Attach(OsString, Options),
    /// Report on what a file holds: its name, maybe with `@ADDRESS`.
    Read(OsString, Options),
}

impl Request {
    /// The options that come with it.
    #[must_use]
    pub const fn options(&self) -> Option<&Options> {
        match self {
            Self::Help | Self::Version => None,
            Self::Run(options) | Self::Attach(_, options) | Self::Read(_, options) => Some(options),
        }
    }
}

/// A word of ours that is wrong, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Read our words, and their twins in the environment.
///
/// # Errors
/// A sentence naming the word or variable that is unknown or has a bad
/// value, and the nearest right one.
pub fn request(
    ours: &[OsString],
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Request, UsageError> {
    let matches = command().try_get_matches_from(ours).map_err(|error| explain(&error))?;
    if matches.get_flag("help") {
        return Ok(Request::Help);
    }
    if matches.get_flag("version") {
        return Ok(Request::Version);
    }
    // The value of a word and the name to blame for it.
    let value = |name: &str| -> Option<(String, OsString)> {
        if let Some(value) = matches.get_one::<OsString>(name) {
            return Some((format!("--logbuf-{name}"), value.clone()));
        }
        let variable = variable(name);
        environment(&variable).filter(|value| !value.is_empty()).map(|value| (variable, value))
    };
    // An empty one takes back what the environment says.
    let path = |name: &str| {
        value(name).map(|(_, value)| PathBuf::from(value)).filter(|path| path != Path::new(""))
    };
    let mut options = Options {
        qemu: path("qemu"),
        vmlinux: path("vmlinux"),
        output: path("output"),
        debug: path("debug"),
        wants_verdict: ["expect", "stop-on"].iter().any(|word| matches.contains_id(word)),
        ..Options::default()
    };
    if let Some((blame, text)) = value("key") {
        options.key = KeyChoice::parse(&text.to_string_lossy())
            .map_err(|why| UsageError(format!("bad value for {blame}: {why}")))?;
    }
    if let Some((blame, text)) = value("color") {
        options.color = match choice("color", &blame, &text)? {
            "always" => ColorChoice::Always,
            "never" => ColorChoice::Never,
            _ => ColorChoice::Auto,
        };
    }
    let events = |name: &str, parse: fn(&str) -> Result<Events, String>| {
        value(name).map_or(Ok(Events::default()), |(blame, text)| {
            parse(&text.to_string_lossy())
                .map_err(|why| UsageError(format!("bad value for {blame}: {why}")))
        })
    };
    options.on = events("on", Events::parse)?;
    options.stop_on = events("stop-on", Events::parse_stops)?;
    if let Some((blame, text)) = value("expect") {
        let text = text.to_string_lossy().into_owned();
        if let Err(why) = regex_lite::Regex::new(&text) {
            return Err(UsageError(format!(
                "bad value '{text}' for {blame}: {why}; put \\ before a character that is meant as it is"
            )));
        }
        options.expect = Some(text).filter(|text| !text.is_empty());
    }
    if let Some((blame, text)) = value("follow") {
        options.follow = match choice("follow", &blame, &text)? {
            "all" => Some(Follow::All),
            "console" => Some(Follow::Console),
            _ => None,
        };
    }
    options.same_pid = matches.get_flag("same-pid");
    if !options.same_pid
        && let Some(text) = environment(&variable("same-pid"))
    {
        options.same_pid = switch(&variable("same-pid"), &text)?;
    }
    if let Some((blame, text)) = value("format") {
        let name = choice("format", &blame, &text)?;
        let known = Format::NAMES.iter().find(|(known, _)| *known == name);
        options.format = known.map(|(_, format)| *format).unwrap_or_default();
    }
    if let Some((blame, text)) = value("show") {
        options.show = match choice("show", &blame, &text)? {
            "unseen" => Show::Unseen,
            "all" => Show::All,
            _ => Show::New,
        };
    }
    if let Some((blame, text)) = value("where") {
        options.places = choice("where", &blame, &text)? != "off";
    }
    // Not from the environment: there they would keep QEMU from running.
    let mode = |name: &str| matches.get_one::<OsString>(name).cloned();
    for (mode, idle) in [
        ("attach", &["on", "stop-on", "expect"][..]),
        ("read", &["on", "stop-on", "expect", "follow"]),
    ] {
        if matches.contains_id(mode)
            && let Some(word) = idle.iter().find(|word| matches.contains_id(word))
        {
            return Err(UsageError(format!(
                "--logbuf-{word} is for a QEMU that is started; leave it out with --logbuf-{mode}"
            )));
        }
    }
    Ok(match (mode("attach"), mode("read")) {
        (Some(_), Some(_)) => {
            return Err(UsageError(
                "--logbuf-attach and --logbuf-read exclude each other; use one".to_owned(),
            ));
        }
        (Some(target), None) => Request::Attach(target, options),
        (None, Some(file)) => Request::Read(file, options),
        (None, None) => Request::Run(options),
    })
}

/// What a variable that stands for a flag says.
fn switch(blame: &str, text: &OsStr) -> Result<bool, UsageError> {
    match text.to_str() {
        Some("1" | "yes" | "on" | "true") => Ok(true),
        Some("" | "0" | "no" | "off" | "false") => Ok(false),
        _ => Err(UsageError(format!(
            "bad value '{}' for {blame}; did you mean 1? It may be 1 or 0",
            text.to_string_lossy()
        ))),
    }
}

/// One of the few values that a word may have.
fn choice(name: &str, blame: &str, text: &OsStr) -> Result<&'static str, UsageError> {
    let choices = choices(name);
    choices.iter().copied().find(|choice| text == *choice).ok_or_else(|| {
        let text = text.to_string_lossy();
        let right = choices.iter().min_by_key(|choice| distance(choice, &text));
        let meant = right.filter(|right| is_near(right, &text));
        let may = meant.map_or("it".to_owned(), |right| format!("did you mean {right}? It"));
        UsageError(format!("bad value '{text}' for {blame}; {may} may be {}", choices.join(", ")))
    })
}

/// The parser's complaint, in one sentence.
fn explain(error: &clap::Error) -> UsageError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let name = context(ContextKind::InvalidArg).unwrap_or_default();
    // clap names an argument with its value's placeholder, as `--x=<FILE>`.
    let plain = name.split(['=', ' ']).next().unwrap_or_default().to_owned();
    let known = words().find(|word| plain == format!("--logbuf-{}", word.name()));
    UsageError(match (error.kind(), known) {
        (ErrorKind::UnknownArgument, _) => match nearest(&plain) {
            Some(right) => format!("there is no {plain}; did you mean {right}?"),
            None => format!("there is no {plain}; --logbuf-help lists what there is"),
        },
        (_, Some(word)) if word.value.is_some() => {
            format!("{plain} needs a value: {plain}={}", word.value.unwrap_or_default())
        }
        (_, Some(_)) => format!("{plain} takes no value; write {plain} alone"),
        _ => format!("cannot read {plain}; --logbuf-help lists what there is"),
    })
}

/// The word of ours that is near to a wrong one: one that it begins, or that a
/// slip or two make of it.
fn nearest(wrong: &str) -> Option<String> {
    let tail = wrong.strip_prefix("--logbuf-")?;
    let begun = words().map(Word::name).find(|name| !tail.is_empty() && name.starts_with(tail));
    let near = || {
        let name = words().map(Word::name).min_by_key(|name| distance(name, tail))?;
        is_near(name, tail).then_some(name)
    };
    Some(format!("--logbuf-{}", begun.or_else(near)?))
}

/// Whether two slips, but less than half of the word, tell the right from the
/// wrong.
fn is_near(right: &str, wrong: &str) -> bool {
    let slips = distance(right, wrong);
    slips <= 2 && 2 * slips < right.len()
}

/// How many letters must be added, dropped or changed to make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ours: &[&str], environment: &[(&str, &str)]) -> Result<Request, String> {
        let ours: Vec<OsString> = ours.iter().map(OsString::from).collect();
        request(&ours, |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
        .map_err(|error| error.to_string())
    }

    fn run(ours: &[&str], environment: &[(&str, &str)]) -> Options {
        match read(ours, environment) {
            Ok(Request::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_option_wins_over_the_environment_and_the_last_option_over_the_first() {
        let options = run(
            &["--logbuf-vmlinux=a", "--logbuf-vmlinux=b"],
            &[
                ("QEMU_LOGBUF_VMLINUX", "c"),
                ("QEMU_LOGBUF_COLOR", "never"),
                ("QEMU_LOGBUF_QEMU", ""),
            ],
        );
        assert_eq!(options.vmlinux, Some(PathBuf::from("b")));
        assert_eq!(options.color, ColorChoice::Never);
        assert_eq!(options.qemu, None);
    }

    #[test]
    fn a_wrong_word_is_named_with_the_nearest_right_one() {
        assert_eq!(
            read(&["--logbuf-vmlinu=x"], &[]),
            Err("there is no --logbuf-vmlinu; did you mean --logbuf-vmlinux?".to_owned())
        );
        assert_eq!(
            read(&["--logbuf-colour=auto"], &[]),
            Err("there is no --logbuf-colour; did you mean --logbuf-color?".to_owned())
        );
        assert_eq!(
            read(&["--logbuf-zzz"], &[]),
            Err("there is no --logbuf-zzz; --logbuf-help lists what there is".to_owned())
        );
    }

    #[test]
    fn a_bad_value_is_named_with_the_right_ones() {
        assert_eq!(
            read(&["--logbuf-color=alway"], &[]),
            Err("bad value 'alway' for --logbuf-color; did you mean always? It may be auto, always, never".to_owned())
        );
        let bad_key = read(&[], &[("QEMU_LOGBUF_KEY", "q")]);
        assert!(bad_key.is_err_and(|error| error.contains("QEMU_LOGBUF_KEY")));
        assert_eq!(
            read(&["--logbuf-vmlinux"], &[]),
            Err("--logbuf-vmlinux needs a value: --logbuf-vmlinux=FILE".to_owned())
        );
        assert_eq!(
            read(&["--logbuf-color=pink"], &[]),
            Err("bad value 'pink' for --logbuf-color; it may be auto, always, never".to_owned())
        );
        assert_eq!(
            read(&["--logbuf-vers"], &[]),
            Err("there is no --logbuf-vers; did you mean --logbuf-version?".to_owned())
        );
        assert_eq!(
            read(&["--logbuf-help=x"], &[]),
            Err("--logbuf-help takes no value; write --logbuf-help alone".to_owned())
        );
    }

    #[test]
    fn events_texts_and_following_are_read_and_refused_by_name() {
        let options = run(
            &["--logbuf-on=stall:5,exit", "--logbuf-follow", "--logbuf-expect=^Run /init"],
            &[("QEMU_LOGBUF_STOP_ON", "panic,reset"), ("QEMU_LOGBUF_ON", "panic")],
        );
        assert_eq!(options.on.stall, Some(std::time::Duration::from_secs(5)));
        assert!(!options.on.panic && options.stop_on.panic && options.stop_on.reset);
        assert_eq!(options.follow, Some(Follow::Console));
        assert_eq!(options.expect.as_deref(), Some("^Run /init"));
        assert_eq!(run(&["--logbuf-follow=all"], &[]).follow, Some(Follow::All));
        assert_eq!(run(&["--logbuf-follow=off"], &[("QEMU_LOGBUF_FOLLOW", "all")]).follow, None);
        assert!(run(&["--logbuf-on="], &[("QEMU_LOGBUF_ON", "panic")]).on.is_empty());
        let refused = |word: &str| read(&[word], &[]).expect_err(word);
        assert!(refused("--logbuf-on=panik").contains("--logbuf-on: there is no event 'panik'"));
        assert!(refused("--logbuf-stop-on=exit").contains("by itself"));
        assert!(refused("--logbuf-expect=(").contains("--logbuf-expect"));
    }

    #[test]
    fn a_flag_has_a_twin_too() {
        assert!(run(&["--logbuf-same-pid"], &[("QEMU_LOGBUF_SAME_PID", "0")]).same_pid);
        assert!(run(&[], &[("QEMU_LOGBUF_SAME_PID", "1")]).same_pid);
        assert!(!run(&[], &[("QEMU_LOGBUF_SAME_PID", "")]).same_pid);
        assert!(read(&[], &[("QEMU_LOGBUF_SAME_PID", "maybe")]).is_err());
    }

    #[test]
    fn what_reports_hold_is_chosen() {
        let usual = run(&[], &[]);
        assert_eq!((usual.format, usual.show, usual.places), (Format::Dmesg, Show::New, true));
        let other =
            run(&["--logbuf-format=json", "--logbuf-where=off"], &[("QEMU_LOGBUF_SHOW", "unseen")]);
        assert_eq!((other.format, other.show, other.places), (Format::Json, Show::Unseen, false));
        assert_eq!(run(&["--logbuf-show=all"], &[]).show, Show::All);
        let refused = read(&["--logbuf-format=xml"], &[]).expect_err("no format");
        assert!(refused.contains("dmesg, json, raw"));
    }

    #[test]
    fn attaching_and_reading_are_asked_for_on_the_command_line_alone() {
        let asked = |ours: &[&str]| read(ours, &[("QEMU_LOGBUF_READ", "x")]);
        assert!(matches!(asked(&[]), Ok(Request::Run(_))));
        assert!(
            matches!(asked(&["--logbuf-attach=7"]), Ok(Request::Attach(target, _)) if target == "7")
        );
        assert!(
            matches!(asked(&["--logbuf-read=f@0x10"]), Ok(Request::Read(file, _)) if file == "f@0x10")
        );
        assert!(asked(&["--logbuf-read=f", "--logbuf-attach=7"]).is_err());
        // A verdict that nobody gives is no success.
        for word in ["--logbuf-expect=x", "--logbuf-stop-on=panic", "--logbuf-on=exit"] {
            assert!(asked(&["--logbuf-attach=7", word]).is_err_and(|e| e.contains("is started")));
            assert!(asked(&["--logbuf-read=f", word]).is_err());
        }
        assert!(asked(&["--logbuf-attach=7", "--logbuf-follow"]).is_ok());
        let twin = read(&["--logbuf-attach=7"], &[("QEMU_LOGBUF_EXPECT", "x")]);
        assert!(matches!(twin, Ok(Request::Attach(..))));
    }

    #[test]
    fn values_need_not_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let ours = [OsString::from_vec(b"--logbuf-vmlinux=\xff".to_vec())];
        let Ok(Request::Run(options)) = request(&ours, |_| None) else { panic!() };
        assert_eq!(options.vmlinux, Some(PathBuf::from(OsString::from_vec(vec![0xff]))));
    }
}
