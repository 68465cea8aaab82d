//! A QEMU that was started without us, and what was saved of one.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol};
use qemu_logbuf::monitor::Monitor;

use super::guest::{MACHINE, in_time, until};
use super::{lab, messages};

/// A bare QEMU with a QMP socket.
pub struct Bare {
    child: Child,
    /// For what is saved of it.
    pub folder: tempfile::TempDir,
}

impl Bare {
    pub fn start(kernel: &Path) -> Self {
        Self::of(Path::new("qemu-system-ppc64"), kernel)
    }

    /// One of that program.
    fn of(program: &Path, kernel: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let option = format!("unix:{},server=on,wait=off", folder.path().join("qmp").display());
        let child = Command::new(program)
            .args(MACHINE)
            .args(["-qmp", &option, "-kernel"])
            .arg(kernel)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        let bare = Self { child, folder };
        until("the QMP socket", || bare.socket().exists());
        bare
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    pub fn monitor(&self) -> Monitor {
        let socket = UnixStream::connect(self.socket()).expect("a socket");
        Monitor::connect(socket, soon()).expect("QEMU's greeting")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn ours(words: &[String]) -> Output {
    let mut command = Command::new(lab::qemu_logbuf());
    command.args(words).stdin(Stdio::null()).output().expect("qemu-logbuf runs")
}

/// The report that the program gives with these words, and its status.
pub fn report(words: &[String]) -> (String, Option<i32>) {
    let output = ours(words);
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

#[test]
fn a_qemu_that_runs_already_is_reported_on_and_left_as_it_was() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let bare = Bare::start(&hung);
    let state = |bare: &Bare| {
        let mut monitor = bare.monitor();
        let mut ask = |command| monitor.execute(command, None, soon()).expect(command).to_string();
        [ask("query-status"), ask("query-chardev"), ask("query-fdsets"), ask("query-block")]
    };
    let before = state(&bare);
    let by_socket = format!("--logbuf-attach={}", bare.socket().display());
    let mut text = String::new();
    until("the log", || {
        let (report, status) = report(std::slice::from_ref(&by_socket));
        text = report;
        let chain = "register_early_udbg_console+0x8 ← setup_arch+0x16c ← ";
        status == Some(0) && text.contains("Hardware name") && text.contains(chain)
    });
    assert!(text.contains("end of report"), "{text}");
    assert!(text.contains(&format!("symbols of {}", hung.display())), "{text}");
    let by_pid = format!("--logbuf-attach={}", bare.child.id());
    let (again, status) = report(std::slice::from_ref(&by_pid));
    assert_eq!((messages(&again), status), (messages(&text), Some(0)));
    assert_eq!(state(&bare), before);
    // One client at a time: who is there already is not disturbed.
    let monitor = bare.monitor();
    let output = ours(std::slice::from_ref(&by_socket));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("one QMP client at a time"));
    drop(monitor);
    // Where the report cannot go, it is not lost.
    let nowhere = bare.folder.path().join("none/log").display().to_string();
    let output = ours(&[by_socket, format!("--logbuf-output={nowhere}")]);
    let err = String::from_utf8_lossy(&output.stderr);
    let why = format!("cannot write {nowhere}: No such file or directory, so the report is shown");
    assert!(err.contains(&why), "{err}");
    assert_eq!(messages(&String::from_utf8_lossy(&output.stdout)), messages(&text));
    assert_eq!(output.status.code(), Some(0));
}

/// Follow a QEMU that runs to its end, or until this is shown and we are ended
/// by hand; what was shown, and our status.
fn followed(kernel: &Path, by_hand: Option<&str>) -> (String, Option<i32>) {
    let mut bare = Bare::start(kernel);
    let path = bare.folder.path().join("followed");
    let mut follower = Command::new(lab::qemu_logbuf())
        .arg(format!("--logbuf-attach={}", bare.socket().display()))
        .args(["--logbuf-follow", "--logbuf-format=json"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&path).expect("a file"))
        .spawn()
        .expect("it runs");
    let text = || std::fs::read_to_string(&path).expect("text");
    if let Some(shown) = by_hand {
        until(shown, || text().contains(shown));
        let pid = nix::unistd::Pid::from_raw(follower.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("a signal");
    }
    let status = follower.wait().expect("an end");
    if by_hand.is_some() {
        assert!(matches!(bare.child.try_wait(), Ok(None)), "QEMU goes on");
    }
    (text(), status.code())
}

#[test]
fn a_qemu_that_runs_already_is_followed_until_it_ends() {
    let Some(stock) = lab::stock() else { return };
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    // A panic ends QEMU. A console before is on another terminal than ours.
    in_time("Kernel panic - not syncing", || {
        let (text, status) = followed(&stock, None);
        assert_eq!(status, Some(0));
        assert!(text.contains("] enabled"), "{text}");
        // Each record once, from the first on.
        let seqs: Vec<u64> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|line| line["seq"].as_u64())
            .collect();
        assert!(seqs.len() > 100, "{text}");
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
        text
    });
    assert_eq!(followed(&hung, Some("Hardware name")).1, Some(130));
}

/// As by `| head -1`: with nobody left to read, nobody follows, not
/// even a kernel that says nothing more.
#[test]
fn following_ends_with_its_reader() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let bare = Bare::start(&hung);
    let mut command = Command::new(lab::qemu_logbuf());
    command.arg(format!("--logbuf-attach={}", bare.socket().display())).arg("--logbuf-follow");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("qemu-logbuf runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a record");
    // Who asks every launcher by its name does not mean this one.
    let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
    kill(pid, Signal::SIGUSR1).expect("it runs");
    assert!(child.try_wait().expect("a child").is_none());
    drop(stdout);
    let mut end = None;
    until("its end", || {
        end = child.try_wait().expect("a child");
        end.is_some()
    });
    assert_eq!(end.and_then(|end| end.code()), Some(0));
}

/// A bare QEMU whose kernel hangs, and the messages it has by then.
pub fn hung_and_asked(kernel: &Path) -> (Bare, Vec<String>) {
    asked(Bare::start(kernel))
}

/// The same QEMU once its kernel hangs, and the messages it has by then.
fn asked(bare: Bare) -> (Bare, Vec<String>) {
    let attach = format!("--logbuf-attach={}", bare.socket().display());
    let mut live = Vec::new();
    until("the log", || {
        live = messages(&report(std::slice::from_ref(&attach)).0);
        live.iter().any(|line| line.contains("Hardware name"))
    });
    (bare, live)
}

#[test]
fn what_was_saved_of_a_guest_is_read_like_the_guest() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let (bare, live) = hung_and_asked(&hung);
    let file = |name: &str| bare.folder.path().join(name).display().to_string();
    let mut monitor = bare.monitor();
    // All of low memory, a part of it, and the log buffer alone.
    monitor.pmemsave(0, 256 << 20, &file("ram"), soon()).expect("saved");
    monitor.pmemsave(16 << 20, 48 << 20, &file("part"), soon()).expect("saved");
    let data = std::fs::read(&hung).expect("the kernel");
    let elf = object::File::parse(&*data).expect("an ELF file");
    let buffer = elf.symbols().find(|symbol| symbol.name() == Ok("__log_buf")).expect("__log_buf");
    let real = buffer.address() & 0x0fff_ffff_ffff_ffff;
    monitor.pmemsave(real, buffer.size(), &file("tmp"), soon()).expect("saved");
    let read = |name: &str, more: &[String]| {
        let mut words = vec![format!("--logbuf-read={}", file(name))];
        words.extend_from_slice(more);
        report(&words)
    };
    let vmlinux = [format!("--logbuf-vmlinux={}", hung.display())];
    let (text, status) = read("ram", &vmlinux);
    assert_eq!((messages(&text), status), (live.clone(), Some(0)), "{text}");
    assert!(text.contains("symbols of"), "{text}");
    let (text, _) = read("ram", &[]);
    assert_eq!(messages(&text), live, "{text}");
    let (text, _) = read("part@0x1000000", &[]);
    assert_eq!(messages(&text), live, "{text}");
    // What the library alone makes of it, with names and without.
    for more in [&[][..], &[hung.as_path()]] {
        let output = Command::new(lab::example("decode-dump")).arg(file("ram")).args(more).output();
        let output = output.expect("decode-dump runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(messages(&text), live);
    }
    for more in [&[][..], &vmlinux] {
        let (text, status) = read("tmp", more);
        assert_eq!(status, Some(0));
        for line in &live {
            let (_, words) = line.split_once("] ").expect("a stamp");
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}

/// QEMU says itself which dumps it was built to write: of Debian's, none has
/// lzo or snappy, and those since 8.2 have `-R`, not flattened.
#[test]
fn every_dump_that_a_qemu_writes_is_read_like_the_guest() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let programs = [
        (Some("qemu-system-ppc64".into()), &["elf", "kdump-zlib"][..]),
        (
            lab::file("qemu/sid", "qemu-system-ppc64", false),
            &["elf", "kdump-zlib", "kdump-raw-zlib"],
        ),
    ];
    for (program, known) in programs {
        let Some(program): Option<PathBuf> = program else { continue };
        let (bare, live) = asked(Bare::of(&program, &hung));
        let mut monitor = bare.monitor();
        let listed = monitor.execute("query-dump-guest-memory-capability", None, soon());
        let listed = listed.expect("a list")["formats"].clone();
        let formats: Vec<&str> =
            listed.as_array().expect("a list").iter().filter_map(|name| name.as_str()).collect();
        println!("{} writes {formats:?}", program.display());
        assert!(known.iter().all(|format| formats.contains(format)), "{formats:?}");
        for format in formats {
            let file = bare.folder.path().join(format).display().to_string();
            let arguments = serde_json::json!({
                "paging": false, "protocol": format!("file:{file}"), "format": format,
            });
            monitor.execute("dump-guest-memory", Some(arguments), soon()).expect("dumped");
            let start = std::fs::read(&file).expect("the dump")[..12].to_vec();
            let signature: &[u8] = match format {
                "elf" => b"\x7fELF",
                _ if format.contains("raw") => b"KDUMP   ",
                _ => b"makedumpfile",
            };
            assert!(start.starts_with(signature), "{format}: {start:?}");
            let read = format!("--logbuf-read={file}");
            let vmlinux = format!("--logbuf-vmlinux={}", hung.display());
            for words in [&[read.clone()][..], &[read, vmlinux]] {
                let (text, status) = report(words);
                assert_eq!((messages(&text), status), (live.clone(), Some(0)), "{format}: {text}");
            }
            std::fs::remove_file(file).expect("removed");
        }
    }
}
