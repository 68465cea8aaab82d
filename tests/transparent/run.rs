//! One case: a script, what is typed and done while it runs, and everything
//! that can be seen of it.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::pty::Pty;
use crate::common::{PATIENCE, end_session, wait, wait_within};
use crate::normal::{normal, normal_file};
use crate::stage::{Manner, Stage};

/// What a user does at the terminal, or waits for.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Wait until this is written.
    Wait(&'static str),
    /// Wait until QEMU has come up: it catches the signals that end it.
    Ready,
    /// Wait until a program reads single keys.
    Raw,
    /// Wait until the terminal reads lines again.
    Cooked,
    /// Type.
    Type(&'static str),
    /// Type so many bytes, as fast as they are taken.
    Paste(usize),
    /// Note the terminal's modes.
    Modes,
    /// Send a signal to the process that the script has become.
    Kill(Signal),
    /// Send a signal to its process group.
    KillGroup(Signal),
    /// Wait until that process has stopped.
    Stopped,
    /// Give the terminal another size.
    Resize(u16, u16),
    /// Hang up.
    HangUp,
}

/// Where a script runs.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// With stdin from /dev/null, stdout and stderr to files.
    Files,
    /// In a terminal.
    Terminal(&'static [Step]),
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// Run by bash; `$Q` is QEMU's name, looked up in PATH.
    pub script: &'static str,
    pub place: Place,
    /// A fake QEMU (this very program) stands in for the real one, in the
    /// part named.
    pub fake: Option<&'static str>,
    /// Bare QEMU leaves the terminal as it had set it, as it is killed;
    /// qemu-logbuf puts it back.
    pub put_back: bool,
    /// What is drawn depends on the moment, and is not compared.
    pub drawn: bool,
    /// What the QEMU it runs emulates.
    pub target: &'static str,
    /// It needs the stock kernel that hangs.
    pub kernel: bool,
    /// The first and the last major version of QEMU's that has what it takes.
    pub versions: [u32; 2],
    /// Before this version, bare QEMU leaves a descriptor of the terminal
    /// non-blocking; qemu-logbuf puts that back.
    pub put_back_before: u32,
}

impl Case {
    /// In files.
    pub const fn files(name: &'static str, script: &'static str) -> Self {
        Self {
            name,
            script,
            place: Place::Files,
            fake: None,
            put_back: false,
            drawn: false,
            target: "ppc64",
            kernel: false,
            versions: [0, u32::MAX],
            put_back_before: 0,
        }
    }

    /// In a terminal.
    pub const fn terminal(
        name: &'static str,
        script: &'static str,
        steps: &'static [Step],
    ) -> Self {
        Self { place: Place::Terminal(steps), ..Self::files(name, script) }
    }

    /// With the fake in `part`.
    pub const fn with_fake(self, part: &'static str) -> Self {
        Self { fake: Some(part), ..self }
    }

    /// Bare, the terminal stays as QEMU had it.
    pub const fn put_back(self) -> Self {
        Self { put_back: true, ..self }
    }

    /// With the QEMU that emulates this.
    pub const fn for_target(self, target: &'static str) -> Self {
        Self { target, ..self }
    }

    /// With the stock kernel that hangs.
    pub const fn with_kernel(self) -> Self {
        Self { kernel: true, ..self }
    }

    /// From this major version of QEMU's on.
    pub const fn since(self, major: u32) -> Self {
        Self { versions: [major, self.versions[1]], ..self }
    }

    /// Up to the last major version before this one.
    pub const fn before(self, major: u32) -> Self {
        Self { versions: [self.versions[0], major - 1], ..self }
    }

    /// Before this major version, bare, the terminal stays non-blocking.
    pub const fn put_back_before(self, major: u32) -> Self {
        Self { put_back_before: major, ..self }
    }

    /// The case as it is for this major version, if it has what it takes.
    pub const fn on(self, major: u32) -> Option<Self> {
        if major < self.versions[0] || major > self.versions[1] {
            return None;
        }
        let put_back = self.put_back || major < self.put_back_before;
        Some(Self { put_back, ..self })
    }

    /// Drawn as time permits.
    pub const fn drawn(self) -> Self {
        Self { drawn: true, ..self }
    }
}

/// How long QEMU is left alone once its main loop runs: bare QEMU 7.2 that is
/// ended as it begins hangs in `monitor_cleanup`, one time in ten.
pub const SETTLING: Duration = Duration::from_millis(100);

/// The manners that are compared with bare QEMU.
pub const WRAPPED: &[Manner] = &[Manner::Parent, Manner::SamePid];

/// What came of a comparison.
#[derive(Clone, Debug)]
pub enum Outcome {
    Same,
    /// The first time something differed, the second nothing did.
    SameAgain,
    /// And how, for people.
    Differs(String),
}

/// Everything that is seen of a run, as named texts.
type Seen = Vec<(String, String)>;

/// Run a case bare and in its other manners; once more where something
/// differs, as a busy machine may have it.
pub fn compare(stage: &Stage, case: &Case) -> Vec<Outcome> {
    let first = compare_once(stage, case);
    if !first.iter().any(|outcome| matches!(outcome, Outcome::Differs(_))) {
        return first;
    }
    let second = compare_once(stage, case);
    let differs = |outcome: &Outcome| matches!(outcome, Outcome::Differs(_));
    first
        .into_iter()
        .zip(second)
        .map(|(first, second)| match (differs(&first), second) {
            (true, Outcome::Same) => Outcome::SameAgain,
            (_, second) => second,
        })
        .collect()
}

fn compare_once(stage: &Stage, case: &Case) -> Vec<Outcome> {
    let bare = match observe(stage, case, Manner::Bare, None) {
        Ok(bare) => bare,
        Err(error) => return vec![Outcome::Differs(format!("bare: {error}")); WRAPPED.len()],
    };
    // A case that does not come to its end bare shows nothing.
    if let Some(at) =
        bare.iter().position(|(name, text)| name == "stuck" || text.starts_with("none,"))
    {
        let text: String =
            bare[0].1.chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect();
        let outcome = Outcome::Differs(format!("bare: {:?} after {text:?}", bare[at]));
        return vec![outcome; WRAPPED.len()];
    }
    let compare = |manner: &Manner| match observe(stage, case, *manner, Some(&bare)) {
        Ok(seen) if seen == bare => Outcome::Same,
        Ok(seen) => Outcome::Differs(differences(&bare, &seen)),
        Err(error) => Outcome::Differs(error.to_string()),
    };
    WRAPPED.iter().map(compare).collect()
}

/// Run a case in one manner; `model` is what bare QEMU showed, which modes
/// are given a moment to become.
fn observe(stage: &Stage, case: &Case, manner: Manner, model: Option<&Seen>) -> io::Result<Seen> {
    let directory = stage.directory(case.name, manner)?;
    let dress = |command: &mut Command| {
        command.current_dir(&directory);
        command.env("PATH", stage.path(manner, case.fake.is_some()));
        command
            .env("Q", crate::stage::name(case.target))
            .env("TERM", "xterm")
            .env("BASH_ENV", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transparent/helpers.sh"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QEMU_") || name == "CI" {
                command.env_remove(name);
            }
        }
        if manner == Manner::SamePid {
            command.env("QEMU_LOGBUF_SAME_PID", "1");
        }
        if let Some(part) = case.fake {
            command.env("FAKE_QEMU", part);
        }
        if case.script.contains("$SELF") {
            crate::clients::dress(command, stage, manner);
        }
        if let Some(file) = std::env::var_os("TRANSPARENT_DEBUG") {
            command.env("QEMU_LOGBUF_DEBUG", file);
        }
    };
    let mut seen = match case.place {
        Place::Files => in_files(case, &directory, dress)?,
        Place::Terminal(steps) => in_terminal(case, steps, dress, model)?,
    };
    let mut entries: Vec<_> = std::fs::read_dir(&directory)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let text = match std::fs::read(entry.path()) {
            Ok(bytes) if entry.file_type()?.is_file() => normal_file(&bytes, &directory),
            _ => format!("{:?}", entry.file_type()?),
        };
        seen.push((format!("file {}", entry.file_name().to_string_lossy()), text));
    }
    Ok(seen)
}

fn in_files(case: &Case, directory: &Path, dress: impl FnOnce(&mut Command)) -> io::Result<Seen> {
    let out = directory.with_extension("out");
    let err = directory.with_extension("err");
    let mut command = Command::new("setsid");
    command.args(["bash", "-c", case.script]);
    dress(&mut command);
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let mut child = command.spawn()?;
    let limit = if case.name.starts_with("clients ") { PATIENCE * 6 } else { PATIENCE };
    let status = wait_within(limit, &mut child, || std::thread::sleep(Duration::from_millis(2)));
    let end = end(status, &mut child);
    let left = left(Pid::from_raw(child.id() as i32));
    Ok(vec![
        ("stdout".to_owned(), normal(&std::fs::read(out)?, directory)),
        ("stderr".to_owned(), normal(&std::fs::read(err)?, directory)),
        ("end".to_owned(), end),
        ("left".to_owned(), left),
    ])
}

fn in_terminal(
    case: &Case,
    steps: &[Step],
    dress: impl FnOnce(&mut Command),
    model: Option<&Seen>,
) -> io::Result<Seen> {
    let pty = Pty::open()?;
    let mut directory = None;
    let mut child = pty.spawn(case.script, |command| {
        dress(command);
        directory = command.get_current_dir().map(Path::to_owned);
    })?;
    let pid = Pid::from_raw(child.id() as i32);
    let directory = directory.unwrap_or_default();
    let mut seen = Vec::new();
    let mut hung_up = None;
    let at_first = pty.describe();
    let mut pty = Some(pty);
    for step in steps {
        let Some(terminal) = &mut pty else { break };
        let done = match *step {
            // QEMU's modes reach the terminal a moment after its words do.
            Step::Wait(text @ "(qemu) ") => {
                terminal.wait_for(text) && terminal.until(|pty| pty.is_raw())
            }
            Step::Wait(text) => terminal.wait_for(text),
            Step::Ready => {
                terminal.until(|_| is_ready(pid)) && {
                    terminal.take(SETTLING);
                    std::thread::sleep(SETTLING);
                    true
                }
            }
            Step::Raw => terminal.until(|pty| pty.is_raw()),
            Step::Cooked => terminal.until(|pty| !pty.is_raw()),
            Step::Type(text) => terminal.type_in(text.as_bytes()),
            Step::Paste(len) => terminal.type_in(&crate::bytes::paste(len)),
            Step::Modes => {
                let name = format!("modes {}", seen.len());
                let mut modes = modes(case, terminal, &name, &at_first, model);
                if case.name.starts_with("job ") {
                    // The shell takes the flag away as soon as a read of its
                    // own fails for it: before or after this look.
                    modes = modes.replace(" O_NONBLOCK", "");
                }
                seen.push((name, modes));
                true
            }
            Step::Kill(signal) => kill(pid, signal).is_ok(),
            Step::KillGroup(signal) => nix::sys::signal::killpg(pid, signal).is_ok(),
            Step::Stopped => terminal.until(|_| state(pid) == Some('T')),
            Step::Resize(columns, rows) => {
                terminal.resize(columns, rows);
                true
            }
            Step::HangUp => {
                hung_up = pty.take().map(Pty::hang_up);
                true
            }
        };
        if !done {
            seen.push(("stuck".to_owned(), format!("at {step:?}")));
            end_session(child.id() as i32);
            break;
        }
    }
    let status = wait(&mut child, || match &mut pty {
        Some(pty) => pty.take(Duration::from_millis(5)),
        None => std::thread::sleep(Duration::from_millis(5)),
    });
    if let Some(pty) = &mut pty {
        pty.take(Duration::ZERO);
        let name = "modes at the end";
        seen.push((name.to_owned(), modes(case, pty, name, &at_first, model)));
    }
    seen.push(("end".to_owned(), end(status, &mut child)));
    seen.push(("left".to_owned(), left(pid)));
    let text = match (&pty, &hung_up) {
        (Some(pty), _) => pty.text(),
        (None, Some(text)) => text,
        (None, None) => &[],
    };
    let text = if case.drawn { String::new() } else { normal(text, &directory) };
    seen.insert(0, ("terminal".to_owned(), text));
    Ok(seen)
}

/// The terminal's modes, once they are those of bare QEMU or a while has
/// passed; where bare QEMU leaves them changed, as they were `at_first` will
/// do as well.
fn modes(case: &Case, pty: &mut Pty, name: &str, at_first: &str, model: Option<&Seen>) -> String {
    let wanted = model.and_then(|seen| seen.iter().find(|(other, _)| other == name));
    let Some((_, wanted)) = wanted else { return pty.describe() };
    let will_do = |modes: &str| modes == wanted || case.put_back && modes == at_first;
    let start = std::time::Instant::now();
    pty.until(|pty| will_do(&pty.describe()) || start.elapsed() > Duration::from_secs(2));
    let modes = pty.describe();
    if will_do(&modes) { wanted.clone() } else { modes }
}

/// The processes that a session leaves behind, once they have had a moment.
fn left(leader: Pid) -> String {
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    let mut left = crate::common::session(leader.as_raw());
    while !left.is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
        left = crate::common::session(leader.as_raw());
    }
    end_session(leader.as_raw());
    format!("{} processes", left.len())
}

/// The state letter of a process.
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether there is a QEMU in the session of `leader`, and not qemu-logbuf,
/// that catches SIGTERM and waits in its main loop.
fn is_ready(leader: Pid) -> bool {
    crate::common::session(leader.as_raw()).into_iter().any(|pid| {
        let process = std::path::PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        let exe = std::fs::read_link(process.join("exe")).unwrap_or_default();
        let name = exe.file_name().unwrap_or_default().to_string_lossy();
        let waits = std::fs::read_to_string(process.join("wchan")).unwrap_or_default();
        name.starts_with("qemu-system")
            && caught >> (Signal::SIGTERM as u32 - 1) & 1 == 1
            && (waits.contains("poll") || waits == "0")
    })
}

fn end(status: Option<ExitStatus>, child: &mut Child) -> String {
    match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (_, signal) => format!("signal {signal:?}"),
        },
        None => {
            end_session(child.id() as i32);
            let _ = child.wait();
            "none, killed after a while".to_owned()
        }
    }
}

/// What differs, for people.
fn differences(bare: &Seen, ours: &Seen) -> String {
    let mut text = String::new();
    for (name, was) in bare {
        match ours.iter().find(|(other, _)| other == name) {
            Some((_, is)) if is == was => {}
            Some((_, is)) => text.push_str(&format!("{name}\n{}", lines(was, is))),
            None => text.push_str(&format!("{name}: missing\n")),
        }
    }
    for (name, is) in ours {
        if !bare.iter().any(|(other, _)| other == name) {
            text.push_str(&format!("{name}: only with qemu-logbuf: {is}\n"));
        }
    }
    text
}

/// The lines in which two texts differ, after what they have in common.
fn lines(was: &str, is: &str) -> String {
    let common = was.lines().zip(is.lines()).take_while(|(a, b)| a == b).count();
    let show = |mark: char, text: &str| -> String {
        let lines = text.lines().skip(common.saturating_sub(1)).take(12);
        lines.map(|line| format!("  {mark} {}\n", line.escape_debug())).collect()
    };
    show('-', was) + &show('+', is)
}
