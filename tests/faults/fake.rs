//! Faults of QEMU's monitor, by a script in QEMU's place.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::{Run, is_alive, launcher};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}"#;

/// A QEMU that does this with its monitor, descriptor `$S`.
fn fake(part: &str) -> (Run, tempfile::TempDir) {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("qemu-system-ppc64");
    let text = format!(
        "#!/bin/bash\nS=$(sed -n 's/.*fd = \"\\([0-9]*\\)\"/\\1/p' \"$2\" | head -n 1)\n\
         trap 'exit 5' TERM\nG='{GREETING}'\n{part}\nwhile :; do sleep 0.05; done\n"
    );
    std::fs::write(&path, text).expect("a script");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a mode");
    let mut command = Command::new(launcher());
    command.env("QEMU_LOGBUF_QEMU", &path).args(["-M", "none"]).stdout(Stdio::null());
    (Run::start(command), place)
}

/// A line, twice, and an end as if nothing had been asked.
fn is_borne(part: &str) -> String {
    let (mut run, _place) = fake(part);
    let qemu = run.qemu();
    let line = run.refused();
    println!("{line}");
    run.refused();
    assert!(is_alive(qemu));
    assert_eq!(run.terminate(), 5, "{}", run.stderr());
    line
}

#[test]
fn a_silent_monitor_is_said_in_time() {
    is_borne(":");
}

#[test]
fn a_monitor_silent_after_its_greeting_is_said_in_time() {
    is_borne("echo \"$G\" >&$S");
}

#[test]
fn what_is_no_qmp_is_said() {
    is_borne("echo 'QEMU 0.9.1 monitor - type help' >&$S");
    is_borne("echo \"$G\" >&$S; echo '{\"return\": [[[' >&$S");
    is_borne("echo \"$G\" >&$S; echo \"$G\" >&$S");
}

#[test]
fn events_without_end_are_borne() {
    is_borne("echo \"$G\" >&$S; yes '{\"event\": \"RTC_CHANGE\", \"data\": {}}' >&$S &");
}

#[test]
fn a_line_without_end_is_borne() {
    is_borne("tr '\\0' x </dev/zero >&$S &");
}

#[test]
fn a_monitor_that_hangs_up_is_said() {
    is_borne("eval \"exec $S>&-\"");
}

#[test]
fn a_refused_handshake_is_said() {
    is_borne(
        "echo \"$G\" >&$S; read -r -u $S _; \
         echo '{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}' >&$S",
    );
}

/// An old QEMU, perhaps, or one that was built without what is needed.
#[test]
fn a_monitor_that_knows_no_command_is_said() {
    is_borne(
        "echo \"$G\" >&$S; read -r -u $S _; echo '{\"return\": {}, \"id\": 1}' >&$S; \
         while read -r -u $S line; do id=${line##*\"id\":}; id=${id%%[,\\}]*}; \
         echo '{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"not found\"}, \"id\": '\"$id\"'}' >&$S; done &",
    );
}

/// One that does not know how to be given a monitor ends as it would over any
/// option: with its own words and status.
#[test]
fn a_qemu_that_refuses_the_monitor_says_so_itself() {
    let (mut run, _place) = fake("echo \"${0##*/}: Invalid parameter 'fd'\" >&2; exit 1");
    assert_eq!(run.end(), 1);
    assert!(
        run.stderr().ends_with("qemu-system-ppc64: Invalid parameter 'fd'\n"),
        "{}",
        run.stderr()
    );
}

#[test]
fn an_end_in_mid_report_is_qemus_end() {
    let (mut run, _place) = fake(
        "echo \"$G\" >&$S; read -r -u $S _; echo '{\"return\": {}, \"id\": 1}' >&$S; \
         read -r -u $S _; kill -KILL $$",
    );
    let _ = nix::sys::signal::kill(run.pid(), nix::sys::signal::Signal::SIGUSR1);
    let begun = std::time::Instant::now();
    assert_eq!(run.end(), -9, "{}", run.stderr());
    assert!(begun.elapsed() < super::LONGEST);
    assert!(run.stderr().lines().count() <= 1, "{}", run.stderr());
}
