//! A cell, run.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::cells::{Cell, Hang, Origin};
use super::guest::Guest;
use super::{files, lab, oracle};

/// What a guest or console takes at most.
const LIMIT: Duration = Duration::from_secs(60);

/// The same with slow firmware.
const SLOW_LIMIT: Duration = Duration::from_secs(240);

/// For how long a log may stay as it is before it counts as hung, where no
/// message tells.
const STILL: Duration = Duration::from_secs(2);

/// How a cell went.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The report's messages are the console's.
    Right {
        /// How many.
        messages: usize,
        /// The guest's release.
        release: String,
    },
    /// They are not, or there is no report.
    Failed(String),
    /// Not run, and why.
    Skipped(String),
    /// Not run: it takes long.
    Slow,
}

impl Outcome {
    /// The cell's entry in the table.
    pub fn entry(&self, cell: &Cell) -> String {
        let how = match cell.from {
            Origin::UImage => " uImage",
            Origin::ZImage => " zImage",
            Origin::BuildTree => " build tree",
            Origin::Disk => " disk",
            Origin::DiskZImage => " disk, zImage",
            Origin::Grub => " disk, GRUB",
            Origin::Firmware => " `-bios`",
            Origin::Loader => " loader",
            Origin::Untold | Origin::UnnamedUntold => " salvaged, no BTF",
            _ => "",
        };
        match self {
            Self::Right { messages, .. } => format!("✓ {messages}{how}"),
            Self::Failed(_) => format!("wrong{how}"),
            Self::Skipped(_) => format!("skipped{how}"),
            Self::Slow => format!("slow{how}"),
        }
    }

    /// The release, where one was seen.
    pub fn release(&self) -> Option<&str> {
        match self {
            Self::Right { release, .. } => Some(release),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right { messages, .. } => write!(f, "{messages} messages, all as the console"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
            Self::Slow => f.write_str("not run: slow firmware"),
        }
    }
}

/// What a cell is called.
pub fn name(cell: &Cell) -> String {
    format!("{} on {} from {:?}", cell.kernel.name, cell.machine.is, cell.from)
}

/// What is shared by a key, and made once.
struct Once<T>(Mutex<HashMap<String, Arc<OnceLock<T>>>>);

impl<T: Clone> Once<T> {
    fn get(&self, key: String, make: impl FnOnce() -> T) -> T {
        let slot = Arc::clone(self.0.lock().expect("a map").entry(key).or_default());
        slot.get_or_init(make).clone()
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// What cells share.
pub struct Bench {
    folder: tempfile::TempDir,
    slow: bool,
    consoles: Once<Result<Vec<String>, String>>,
    hung: Once<PathBuf>,
}

impl Bench {
    /// A bench with nothing on it.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            slow: std::env::var_os("QEMU_LOGBUF_SLOW").is_some_and(|value| value == "1"),
            consoles: Once::default(),
            hung: Once::default(),
        }
    }

    /// Run a cell.
    pub fn run(&self, cell: &Cell) -> Outcome {
        if cell.machine.slow && !self.slow {
            return Outcome::Slow;
        }
        let kernel = cell.kernel.name;
        let Some(stock) = lab::file(kernel, "vmlinux", kernel == "bookworm") else {
            return Outcome::Skipped(format!("no kernel {kernel}"));
        };
        if let Origin::Wrong(other) = cell.from
            && lab::file(other, "vmlinux", false).is_none()
        {
            return Outcome::Skipped(format!("no kernel {other}"));
        }
        if let Some((folder, file)) = cell.from.needs(cell.kernel) {
            let file = file.expect("a kernel that is wrapped");
            if lab::file(folder, file, false).is_none() {
                return Outcome::Skipped(format!("no {file}"));
            }
        }
        let Some(qemu) = qemu(cell) else {
            return Outcome::Skipped(format!("no {} for it", cell.machine.qemu));
        };
        match catch_unwind(AssertUnwindSafe(|| self.compare(cell, &stock, &qemu))) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => Outcome::Failed(why),
            Err(panic) => Outcome::Failed(match panic.downcast_ref::<String>() {
                Some(text) => text.clone(),
                None => "it panicked".to_owned(),
            }),
        }
    }

    fn compare(&self, cell: &Cell, stock: &Path, qemu: &Path) -> Result<Outcome, String> {
        let expected = self.console(cell, stock, qemu)?;
        let hung = self.hung(cell, stock);
        let folder = tempfile::tempdir().expect("a folder");
        let mut words = boot(cell, &hung, folder.path());
        let mut program = OsString::from("--logbuf-qemu=");
        program.push(qemu);
        words.push(program);
        words.extend(given(cell, stock, folder.path()));
        let guest = Guest::start(words);
        let limit = if cell.machine.slow { SLOW_LIMIT } else { LIMIT };
        let (report, found) = ask(&guest, cell, &expected, limit)?;
        let seen = report.lines().take(3).collect::<Vec<_>>().join(" / ");
        let compared = expected.compare(&found).map_err(|why| format!("{why}; {seen}"))?;
        let source = cell.from.source(cell.kernel);
        if !report.lines().take(6).any(|line| line.contains(&format!("· {source}"))) {
            return Err(format!("not from {source:?}: {seen}"));
        }
        let layout = cell.from.layout(cell.kernel);
        if layout.map_or(report.contains("laid out by"), |layout| !report.contains(layout)) {
            return Err(format!("not {layout:?}: {seen}"));
        }
        if report.contains("salvaged") != cell.from.is_untold() {
            return Err(format!("salvaged, or not: {seen}"));
        }
        let arch = files::arch(stock);
        if !report.contains(&format!(", {arch}")) {
            return Err(format!("not {arch}: {seen}"));
        }
        let warned = report.contains("the guest runs");
        if warned != matches!(cell.from, Origin::Wrong(_)) {
            return Err(format!("a warning, or none: {seen}"));
        }
        let release = report
            .split("· Linux ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .ok_or_else(|| format!("no release: {seen}"))?
            .to_owned();
        Ok(Outcome::Right { messages: compared, release })
    }

    /// What the kernel, not hung, prints there.
    fn console(&self, cell: &Cell, stock: &Path, qemu: &Path) -> Result<Expected, String> {
        // Without -kernel the kernel has another command line.
        let own = cell.from.is_own();
        // Nor does every board start a kernel that is not wrapped.
        let own = own || matches!(cell.from, Origin::ZImage | Origin::BuildTree);
        let from = if own { cell.from } else { Origin::Kernel };
        let key = format!("{} {} {from:?}", cell.kernel.name, cell.machine.is);
        let limit = if cell.machine.slow { SLOW_LIMIT } else { LIMIT };
        let messages = self.consoles.get(key, || {
            let folder = tempfile::tempdir().expect("a folder");
            let words = boot(&Cell { from, ..*cell }, stock, folder.path());
            let last = cell.machine.hang.message();
            oracle::console(qemu, &words, folder.path(), limit, |messages| {
                let at = messages.iter().position(|message| message.contains(last));
                // A dozen more: what follows until the first console is known.
                at.is_some_and(|at| messages.len() > at + 12)
            })
            .map_err(|why| format!("bare QEMU: {why}"))
        })?;
        // The console says of itself that it is there: what stood before it
        // is all that an early hang leaves.
        let count = messages.iter().position(|message| message.contains("bootconsole ["));
        let count = count.filter(|_| cell.machine.hang == Hang::Early);
        Ok(Expected { count, messages, of_every_level: !cell.from.is_own() })
    }

    /// The kernel, hung.
    fn hung(&self, cell: &Cell, stock: &Path) -> PathBuf {
        let function = cell.machine.hang.function();
        let name = format!("{}-{function}", cell.kernel.name);
        self.hung.get(name.clone(), || {
            let path = self.folder.path().join(name);
            lab::hang(stock, &path, function);
            path
        })
    }
}

/// What the console showed.
struct Expected {
    messages: Vec<String>,
    /// How many of them come before the hang, where the console tells.
    count: Option<usize>,
    /// None are too unimportant for the console. Without a command line some
    /// are, and the report has them nevertheless.
    of_every_level: bool,
}

impl Expected {
    /// How many messages of a report are the console's; that they all are.
    fn compare(&self, found: &[String]) -> Result<usize, String> {
        let mut next = self.messages.iter().take(self.count.unwrap_or(usize::MAX)).peekable();
        let mut same = 0;
        for message in found {
            if next.next_if(|wanted| *wanted == message).is_some() {
                same += 1;
            } else if self.of_every_level {
                let wanted = next.peek();
                return Err(format!("message {same} is {message:?}, the console's {wanted:?}"));
            }
        }
        match next.peek() {
            Some(missing) if self.count.is_some() => Err(format!("not reported: {missing:?}")),
            _ => Ok(same),
        }
    }
}

/// Ask until the guest hangs; the report and its messages.
fn ask(
    guest: &Guest,
    cell: &Cell,
    expected: &Expected,
    limit: Duration,
) -> Result<(String, Vec<String>), String> {
    let start = Instant::now();
    let (mut report, mut found, mut since) = (String::new(), Vec::new(), Instant::now());
    let messages = match cell.from.is_untold() {
        true => oracle::texts,
        false => oracle::messages,
    };
    loop {
        let before = found.len();
        if start.elapsed() > Duration::from_millis(400) {
            report = guest.ask();
            found = messages(&report);
        }
        if found.len() != before {
            since = Instant::now();
        }
        let hung = match expected.count {
            Some(count) => found.len() >= count,
            None => {
                let message = cell.machine.hang.message();
                found.iter().any(|found| found.contains(message)) && since.elapsed() > STILL
            }
        };
        if hung {
            // Once more: the last answer began while the kernel still ran.
            report = guest.ask();
            found = messages(&report);
            return Ok((report, found));
        }
        if start.elapsed() > limit {
            return Err(format!("only {} messages: {report:?}", found.len()));
        }
        std::thread::sleep(Duration::from_millis(if cell.machine.slow { 1000 } else { 150 }));
    }
}

/// The QEMU that has the cell's machine.
fn qemu(cell: &Cell) -> Option<PathBuf> {
    let machine = cell.machine;
    match machine.release {
        Some(release) => lab::file(&format!("qemu/{release}"), machine.qemu, false),
        None => which::which(machine.qemu).ok(),
    }
}

/// The command line that boots a kernel.
fn boot(cell: &Cell, kernel: &Path, folder: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = cell.machine.words.iter().map(OsString::from).collect();
    words.push("-nographic".into());
    let file = |name: &str, make: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let path = folder.join(name);
        std::fs::write(&path, make(std::fs::read(kernel).expect("a kernel"))).expect("written");
        path.into_os_string()
    };
    let stripped = |mut image: Vec<u8>| {
        files::strip(&mut image);
        image
    };
    let zimage = |image: Vec<u8>| {
        let wrapped = cell.kernel.wrapped.and_then(|file| lab::file(cell.kernel.name, file, false));
        let wrapped = std::fs::read(wrapped.expect("there, as was checked")).expect("a zImage");
        files::rewrapped(wrapped, &image)
    };
    let kernel: OsString = match cell.from {
        Origin::Kernel | Origin::Wrong(_) | Origin::Unnamed | Origin::Firmware | Origin::Loader => {
            kernel.into()
        }
        Origin::Map | Origin::Packed | Origin::Stripped => file("vmlinux-stripped", &stripped),
        Origin::Untold | Origin::UnnamedUntold => file("vmlinux-untold", &|mut image| {
            files::forget_types(&mut image);
            image
        }),
        Origin::UImage => file("uImage", &|image| files::uimage(&image)),
        Origin::ZImage => file("zImage", &zimage),
        Origin::BuildTree => {
            let boot = "arch/powerpc/boot";
            std::fs::create_dir_all(folder.join(boot)).expect("a folder");
            file("vmlinux", &|image| image);
            file(&format!("{boot}/zImage"), &zimage)
        }
        Origin::Disk => file("disk", &|image| files::disk(files::moved(image), None)),
        Origin::DiskZImage => file("disk", &|image| files::disk(zimage(image), None)),
        Origin::Grub => {
            let core = lab::file("grub", "core.elf", false).expect("there, as was checked");
            let core = std::fs::read(core).expect("GRUB");
            file("disk", &|image| files::disk(core.clone(), Some(files::tar("vmlinux", &image))))
        }
    };
    let with = |before: &str, after: &str| {
        let mut word = OsString::from(before);
        word.push(&kernel);
        word.push(after);
        word
    };
    match cell.from {
        Origin::Disk | Origin::DiskZImage | Origin::Grub => {
            words.extend(["-drive".into(), with("format=raw,if=none,id=d,file=", "")]);
            words.extend(["-device".into(), "scsi-hd,drive=d".into()]);
            return words;
        }
        Origin::Firmware => {
            words.extend(["-bios".into(), kernel]);
            return words;
        }
        Origin::Loader => {
            let more = ",addr=0x20000000,force-raw=on";
            words.extend(["-device".into(), with("loader,file=", more)]);
            return words;
        }
        Origin::Unnamed | Origin::UnnamedUntold => {
            // The same as -kernel, where our command line does not show it.
            let config = folder.join("machine.cfg");
            let kernel = kernel.to_str().expect("a plain path");
            let text = format!("[machine]\n  kernel = \"{kernel}\"\n");
            std::fs::write(&config, text).expect("written");
            words.extend(["-readconfig".into(), config.into()]);
        }
        _ => words.extend(["-kernel".into(), kernel]),
    }
    words.extend(["-append".into(), cell.machine.append.into()]);
    words
}

/// What `--logbuf-vmlinux` names.
fn given(cell: &Cell, stock: &Path, folder: &Path) -> Option<OsString> {
    let read = || std::fs::read(stock).expect("a kernel");
    let path = match cell.from {
        Origin::Map => {
            let path = folder.join("System.map");
            std::fs::write(&path, files::map(&read())).expect("written");
            path
        }
        Origin::Packed => {
            let path = folder.join("vmlinux.gz");
            std::fs::write(&path, files::gzip(&read())).expect("written");
            path
        }
        Origin::Wrong(other) => lab::file(other, "vmlinux", false)?,
        _ => return None,
    };
    let mut word = OsString::from("--logbuf-vmlinux=");
    word.push(path);
    Some(word)
}
