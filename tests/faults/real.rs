//! Faults of a real QEMU.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

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
    let report = run.ask_until("Linux version");
    assert!(report.contains("symbols of"), "{report}");
    // Once more, by now surely frozen.
    run.ask_until("Linux version");
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

/// Of another user, and, as its program may not be read, not to be traced:
/// guest memory comes by the monitor then.
#[test]
fn memory_that_may_not_be_read_comes_by_the_monitor() {
    let (Some(qemu), Some(kernel)) = (qemu(), stock()) else { return };
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        println!("skipped: needs root, to become somebody else");
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    // A copy elsewhere does not find its firmware by itself.
    let share = qemu.parent().expect("a folder").join("../share/qemu");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    mode(place.path(), 0o755);
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
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&ours);
    command.env("QEMU_LOGBUF_QEMU", &qemu).args(MACHINE).arg("-kernel").arg(kernel);
    command.args(["-vga", "none", "-L"]).arg(share).stdout(Stdio::null());
    let mut run = Run::start(command);
    let report = run.ask_until("Linux version");
    assert!(report.contains("symbols of"), "{report}");
    assert_eq!(run.terminate(), 0);
}
