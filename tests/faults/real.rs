//! Faults of a real QEMU.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};

use super::{Run, is_alive, launcher, qemu, stock};

const MACHINE: [&str; 5] = ["-M", "pseries,x-vof=on", "-m", "512", "-nographic"];

fn booting() -> Option<(Command, std::path::PathBuf)> {
    let (qemu, kernel) = (qemu()?, stock()?);
    let mut command = Command::new(launcher());
    command.env("QEMU_LOGBUF_QEMU", &qemu).args(MACHINE).arg("-kernel").arg(kernel);
    Some((command, qemu))
}

#[test]
fn a_stopped_qemu_is_said_or_read_and_goes_on() {
    let Some((mut command, _)) = booting() else { return };
    command.stdout(Stdio::null());
    let mut run = Run::start(command);
    run.ask_until("records");
    let qemu = run.qemu();
    kill(qemu, Signal::SIGSTOP).expect("it runs");
    let report = run.ask();
    assert!(report.contains("qemu-logbuf"), "{report}");
    kill(qemu, Signal::SIGCONT).expect("it runs");
    run.ask_until("Linux version");
    assert_eq!(run.terminate(), 0);
}

/// Its stdout is a pipe that nobody reads, and full.
#[test]
fn a_qemu_frozen_on_its_stdout_is_read() {
    let Some((mut command, _)) = booting() else { return };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a mode");
    let mut full = writer.try_clone().expect("a descriptor");
    while full.write(&[b'.'; 4096]).is_ok() {}
    while full.write(b".").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("a mode");
    command.stdout(writer);
    let run = Run::start(command);
    // Not while the kernel moves its data about: then a scan finds the log.
    super::until("the log by its names", || {
        let report = run.ask_until("Linux version");
        report.contains("symbols of")
    });
    // Once more, by now surely frozen.
    super::until("all of it again", || run.ask().contains("Linux version"));
    let qemu = run.qemu();
    assert!(is_alive(qemu));
    drop(reader);
}

#[test]
fn a_killed_qemu_is_its_end() {
    let Some((mut command, _)) = booting() else { return };
    command.stdout(Stdio::null());
    let mut run = Run::start(command);
    run.ask_until("records");
    kill(run.qemu(), Signal::SIGKILL).expect("it runs");
    let _ = kill(run.pid(), Signal::SIGUSR1);
    assert_eq!(run.end(), -9, "{}", run.stderr());
}

/// While all of its memory is being looked through, which takes a moment.
#[test]
fn a_qemu_killed_in_mid_report_is_its_end() {
    let Some(qemu) = qemu() else { return };
    for pause in [0, 3, 30, 100] {
        let mut command = Command::new(launcher());
        command.env("QEMU_LOGBUF_QEMU", &qemu).stdout(Stdio::null());
        command.args(["-M", "pseries,x-vof=on", "-m", "4G", "-S", "-display", "none"]);
        let mut run = Run::start(command);
        let qemu = run.qemu();
        kill(run.pid(), Signal::SIGUSR1).expect("it runs");
        // Not in step with anything: any moment will do.
        std::thread::sleep(Duration::from_millis(pause));
        kill(qemu, Signal::SIGKILL).expect("it runs");
        let begun = Instant::now();
        assert_eq!(run.end(), -9, "{}", run.stderr());
        assert!(begun.elapsed() < super::LONGEST, "{pause}: {:?}", begun.elapsed());
        let said = super::ours(&run.stderr());
        assert!(said.lines().count() <= 1 || super::is_whole(&said), "{pause}: {said}");
    }
}

/// Without the right to trace others, root is as any user; QEMU changes its
/// user, or sees no `/proc` from where it is, or both.
#[test]
fn a_qemu_of_another_user_or_in_a_chroot_is_read() {
    if !is_root() {
        return;
    }
    let empty = tempfile::tempdir().expect("a folder");
    let chroot = ["-chroot", empty.path().to_str().expect("text")];
    let user = ["-runas", "nobody"];
    for words in [&user[..], &chroot, &[chroot, user].concat()] {
        for drop in [&[][..], &["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]] {
            let Some((ours, _)) = booting() else { return };
            let console = empty.path().with_extension("console");
            let mut command = Command::new("setpriv");
            command.args(drop).arg(ours.get_program()).args(ours.get_args()).args(words);
            command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.args(["-append", "console=hvc0"]);
            command.stdout(std::fs::File::create(&console).expect("a file"));
            let mut run = Run::start(command);
            // Before, all of memory would be looked through for a kernel,
            // which by QEMU's printing it takes minutes.
            super::until("a kernel", || {
                std::fs::read_to_string(&console).is_ok_and(|text| text.contains("Linux version"))
            });
            let report = run.ask();
            assert!(report.contains("Linux version"), "{words:?} {drop:?}: {report}");
            assert!(report.contains("symbols of"), "{words:?} {drop:?}: {report}");
            assert!(is_alive(run.qemu()));
            assert_eq!(run.terminate(), 0, "{words:?} {drop:?}: {}", run.stderr());
            std::fs::remove_file(&console).expect("a file");
        }
    }
}

/// A fault of our own, where the log is read and where QEMU is looked after.
#[test]
fn a_fault_of_our_own_is_said() {
    let Some((mut command, _)) = booting() else { return };
    command.stdout(Stdio::null()).env("QEMU_LOGBUF_FAULT", "answer");
    let mut run = Run::start(command);
    for _ in 0..2 {
        let line = run.refused();
        assert!(line.contains("failed inside qemu-logbuf itself"), "{line}");
    }
    let qemu = run.qemu();
    super::until("QEMU's own handlers", || super::catches(qemu, Signal::SIGTERM));
    assert_eq!(run.terminate(), 0, "{}", run.stderr());

    let Some((mut command, _)) = booting() else { return };
    command.stdout(Stdio::null()).env("QEMU_LOGBUF_FAULT", "session");
    let mut run = Run::start(command);
    let qemu = run.qemu();
    let line = run.refused();
    assert!(line.contains("QEMU ends with it"), "{line}");
    assert_eq!(run.end(), 125);
    super::until("QEMU's end", || !is_alive(qemu));
}

/// The same where QEMU is somebody else's.
#[test]
fn a_fault_of_our_own_beside_another_qemu_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(qemu) = qemu() else { return };
    let socket = folder.path().join("qmp");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let mut bare = Command::new(qemu);
    bare.args(["-M", "none", "-display", "none", "-nodefaults", "-qmp", &option]);
    let mut bare = bare.spawn().expect("QEMU starts");
    super::until("the QMP socket", || socket.exists());
    let mut command = Command::new(launcher());
    command.arg(format!("--logbuf-attach={}", socket.display())).env("QEMU_LOGBUF_FAULT", "answer");
    let output = command.output().expect("it starts");
    let _ = bare.kill();
    let _ = bare.wait();
    let line = String::from_utf8_lossy(&output.stderr);
    assert!(line.contains("failed inside itself, and nothing else is harmed"), "{line}");
    assert_eq!((output.status.code(), line.lines().count()), (Some(125), 1), "{line}");
}

/// Of another user, and, as its program may not be read, not to be traced:
/// guest memory comes by the monitor then.
#[test]
fn memory_that_may_not_be_read_comes_by_the_monitor() {
    let Some((mut run, _place)) = untraceable() else { return };
    let report = run.ask_until("Linux version");
    assert!(report.contains("symbols of"), "{report}");
    assert_eq!(run.terminate(), 0);
}

/// A host that gives no thread for the answer gives one later.
#[test]
fn a_host_without_room_for_a_thread_is_said() {
    let Some((mut run, _place)) = untraceable() else { return };
    run.ask_until("Linux version");
    let limit = |limit: &str| {
        let mut command = nobody(std::path::Path::new("prlimit"));
        command.args(["--pid", &run.pid().to_string(), &format!("--nproc={limit}:")]);
        assert!(command.status().expect("prlimit runs").success());
    };
    limit("1");
    let why = "qemu-logbuf: cannot start a thread to read the log: ";
    super::until("the reason", || run.ask().starts_with(why));
    limit("10000");
    assert!(run.ask().contains("Linux version"));
    assert_eq!(run.terminate(), 0);
}

/// The same where it was not started by us, as where Yama guards it: it is
/// lent a file, and in the end as it was. To be printed byte by byte, the
/// memory that is looked through here would take a minute.
#[test]
fn a_qemu_attached_to_that_may_not_be_read_is_lent_a_file() {
    let Some((mut run, place)) = untraceable() else { return };
    run.ask_until("Linux version");
    // Without its names, much of memory is to be seen.
    std::fs::remove_file(place.path().join("vmlinux")).expect("it was there");
    let files = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", run.qemu())).expect("it runs");
        let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("memfd:")).count()
    };
    let before = files();
    let mut command = nobody(&place.path().join("qemu-logbuf"));
    command.args(["--logbuf-attach=qmp", "--logbuf-debug=debug"]).current_dir(place.path());
    let output = command.output().expect("it starts");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("Linux version"), "{report}{output:?}");
    let debug = std::fs::read_to_string(place.path().join("debug")).expect("a trace");
    assert!(debug.contains("QEMU was lent a file"), "{debug}");
    super::until("QEMU's files as they were", || files() == before);
    assert_eq!(run.terminate(), 0);
}

/// Neither the monitor nor its memory: one line says so, in time.
#[test]
fn a_stopped_qemu_that_may_not_be_read_is_said() {
    let Some((mut run, _place)) = untraceable() else { return };
    run.ask_until("records");
    let qemu = run.qemu();
    kill(qemu, Signal::SIGSTOP).expect("it runs");
    let line = run.refused();
    assert!(line.contains("does not answer"), "{line}");
    kill(qemu, Signal::SIGCONT).expect("it runs");
    run.ask_until("Linux version");
    assert_eq!(run.terminate(), 0);
}

/// QEMU and launcher of a user who may not trace QEMU.
fn untraceable() -> Option<(Run, tempfile::TempDir)> {
    let (qemu, kernel) = (qemu()?, stock()?);
    if !is_root() {
        return None;
    }
    let place = tempfile::tempdir().expect("a folder");
    // A copy elsewhere does not find its firmware by itself.
    let share = qemu.parent().expect("a folder").join("../share/qemu");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    mode(place.path(), 0o777);
    let copy = |from: &std::path::Path, name: &str, bits| {
        let to = place.path().join(name);
        std::fs::copy(from, &to).expect("a copy");
        mode(&to, bits);
        to
    };
    // A program that is no script and may not be read is not dumpable.
    let qemu = copy(&qemu, "qemu-system-ppc64", 0o711);
    let ours = copy(&launcher(), "qemu-logbuf", 0o755);
    let kernel = copy(&kernel, "vmlinux", 0o644);
    let mut command = nobody(&ours);
    command.env("QEMU_LOGBUF_QEMU", &qemu).args(MACHINE).arg("-kernel").arg(kernel);
    command.args(["-vga", "none", "-qmp", "unix:qmp,server=on,wait=off", "-L"]).arg(share);
    command.current_dir(place.path()).stdout(Stdio::null());
    Some((Run::start(command), place))
}

/// A program to be run as another user.
fn nobody(program: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

/// Whether this test may become somebody else.
fn is_root() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        println!("skipped: needs root, to become somebody else");
    }
    root
}
