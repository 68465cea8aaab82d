//! What happens without being asked about: reports of events, following, and
//! verdicts by exit status.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use qemu_logbuf::monitor::Monitor;

use super::guest::{Guest, MACHINE, Terminal, catches, in_time, until};
use super::{boot, lab, messages};

/// An event's reports, one after the other.
fn reports<'a>(stderr: &'a str, event: &str) -> Vec<&'a str> {
    stderr
        .split("──── qemu-logbuf")
        .filter(|part| {
            part.split('·').next().is_some_and(|head| head.contains(&format!(": {event}: ")))
        })
        .collect()
}

/// A kernel that panics without a root file system, and reboots at once.
const REBOOTS: &[&str] = &["-action", "panic=none", "-append", "console=hvc0 panic=-1"];

/// What such a kernel says last.
const LAST: &str = "ret_from_kernel_thread";

#[test]
fn a_silent_hang_is_reported_once_and_ends_the_run_with_124() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let mut guest = Guest::start(boot(&hung, &["--logbuf-on=stall:1", "--logbuf-stop-on=stall:3"]));
    assert_eq!(guest.wait(), Some(124));
    let stderr = guest.stderr();
    let reports = reports(&stderr, "stall");
    assert_eq!(reports.len(), 2, "one for each limit: {stderr}");
    for (report, seconds) in reports.iter().zip([1, 3]) {
        assert!(report.contains("Hardware name"), "{report}");
        assert!(report.contains(&format!("printed nothing for {seconds} s")), "{report}");
    }
    assert_eq!(guest.console(), "");
}

#[test]
fn a_hang_before_the_first_message_is_a_stall_too() {
    let Some(hung) = lab::stock_hung_in("early_setup") else { return };
    let mut guest = Guest::start(boot(&hung, &["--logbuf-stop-on=stall:1"]));
    assert_eq!(guest.wait(), Some(124));
    let stderr = guest.stderr();
    assert!(stderr.contains("stall: the kernel was entered, but has not printed"), "{stderr}");
}

#[test]
fn a_hang_where_the_kernel_was_loaded_is_a_stall_and_firmware_is_none() {
    for function in ["prom_init", "relocate"] {
        let Some(hung) = lab::stock_hung_in(function) else { return };
        let mut guest = Guest::start(boot(&hung, &["--logbuf-stop-on=stall:1"]));
        assert_eq!(guest.wait(), Some(124));
        let stderr = guest.stderr();
        assert!(stderr.contains("stall: the kernel was entered, but has not printed"), "{stderr}");
        assert!(stderr.contains(&format!(" in real mode in {function}+")), "{stderr}");
    }
    // Firmware that waits, with the kernel in memory: not entered.
    let Some(stock) = lab::stock() else { return };
    let words = ["-M", "pseries", "-m", "512", "-nographic", "-prom-env", "auto-boot?=false"];
    let mut words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    words.extend(["-kernel".into(), stock.into(), "--logbuf-on=stall:1".into()]);
    let mut guest = Guest::start(words);
    until("the firmware's prompt", || guest.console().contains("0 >"));
    let begun = Instant::now();
    guest.ask_until_it("three seconds more", |_| begun.elapsed() > Duration::from_secs(3));
    assert!(!guest.stderr().contains(": stall:"), "{}", guest.stderr());
    guest.terminate();
}

#[test]
fn a_guest_that_has_a_console_or_stands_still_is_not_stalled() {
    let Some(quiet) = lab::stock_hung_in("prepare_namespace") else { return };
    let Some(stock) = lab::stock() else { return };
    let option = "--logbuf-on=stall:1";
    let stopped = Guest::start(boot(&stock, &[option, "-S"]));
    let with_console = Guest::start(boot(&quiet, &[option, "-append", "console=hvc0"]));
    let paused = {
        let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
        let mut command = Command::new(lab::qemu_logbuf());
        command.args(boot(&hung, &["--logbuf-on=stall:4", "-S"])).env("NO_COLOR", "1");
        let mut terminal = Terminal::run(command);
        // Let it run for the time of a breath, and pause it.
        terminal.type_keys(b"\x01c");
        terminal.expect("(qemu)");
        terminal.type_keys(b"cont\r");
        terminal.press_until(b"\x01l", "Hardware name");
        terminal.type_keys(b"stop\r");
        terminal
    };
    let mut paused = paused;
    until("the console's messages", || messages(&with_console.console()).len() > 50);
    // Nothing is to happen: there is nothing to wait for but the time.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        paused.look(Duration::from_millis(500));
    }
    for stderr in [&stopped.stderr(), &with_console.stderr(), &paused.seen] {
        assert!(!stderr.contains("stall"), "{stderr}");
    }
}

#[test]
fn a_panic_before_the_console_is_found_in_the_log() {
    let Some(stock) = lab::stock() else { return };
    let mut guest =
        Guest::start(boot(&stock, &["--logbuf-stop-on=panic,reset", "-append", "mem=16M"]));
    assert_eq!(guest.wait(), Some(123));
    assert_eq!(guest.console(), "", "it is silent");
    let stderr = guest.stderr();
    assert_eq!(reports(&stderr, "panic").len(), 1, "{stderr}");
    assert!(stderr.contains("Kernel panic - not syncing: Failed to allocate"), "{stderr}");
}

#[test]
fn a_panic_is_reported_whole_and_qemus_status_and_end_are_its_own() {
    let Some(stock) = lab::stock() else { return };
    let words = ["--logbuf-on=panic,shutdown,exit", "-append", "console=hvc0"];
    // It ends QEMU by itself, with success as far as QEMU is concerned.
    let whole = in_time(LAST, || {
        let mut guest = Guest::start(boot(&stock, &words));
        assert_eq!(guest.wait(), Some(0));
        let stderr = guest.stderr();
        let panics = reports(&stderr, "panic");
        assert_eq!(panics.len(), 1, "{stderr}");
        assert!(reports(&stderr, "exit").is_empty(), "nothing was left to say: {stderr}");
        panics[0].to_owned()
    });
    assert!(whole.contains("Kernel panic - not syncing: VFS"), "{whole}");
    // What the user chose to happen then still does.
    let held = Guest::start(boot(&stock, &[&words[..], &["-no-shutdown"]].concat()));
    until("the panic's report", || held.stderr().contains("end of report"));
    assert!(held.ask().contains(LAST), "it is still there to be asked");
    let mut ended = Guest::start(boot(&stock, &["--logbuf-stop-on=panic", "-append", ""]));
    assert_eq!(ended.wait(), Some(123));
}

#[test]
fn every_boot_of_a_loop_is_reported_before_the_next() {
    let Some(stock) = lab::stock() else { return };
    in_time(LAST, || {
        let guest = Guest::start(boot(&stock, &[&["--logbuf-on=reset"], REBOOTS].concat()));
        until("two resets", || guest.stderr().matches("end of report").count() >= 2);
        let stderr = guest.stderr();
        let both = &reports(&stderr, "reset")[..2];
        for report in both {
            let found = messages(report);
            assert!(found.len() > 100, "{report}");
            assert_eq!(report.matches("Linux version").count(), 1, "of one boot: {report}");
        }
        // The one that lacks it, if one does.
        let short = both.iter().find(|report| !report.contains(LAST));
        (*short.unwrap_or(&both[0])).to_owned()
    });
}

#[test]
fn a_reset_ends_the_run_with_122_also_where_qemu_ends_on_it() {
    let Some(stock) = lab::stock() else { return };
    for more in [&[][..], &["-no-reboot"]] {
        let words = [&["--logbuf-stop-on=reset"], REBOOTS, more].concat();
        in_time(LAST, || {
            let mut guest = Guest::start(boot(&stock, &words));
            assert_eq!(guest.wait(), Some(122), "{more:?}");
            let stderr = guest.stderr();
            assert_eq!(reports(&stderr, "reset").len(), 1, "{stderr}");
            stderr
        });
    }
}

#[test]
fn a_shutdown_is_reported_and_nothing_is_left_for_the_exit() {
    let Some(stock) = lab::stock() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("qmp");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let append = "console=hvc0 root=/dev/vda rootwait";
    let words = ["--logbuf-on=shutdown,exit", "-qmp", &option, "-append", append];
    let mut guest = Guest::start(boot(&stock, &words));
    until("a kernel that waits", || guest.console().contains("Waiting for root device"));
    // Its power button; without a program to call, the kernel does it itself.
    let socket = UnixStream::connect(socket).expect("a socket");
    let soon = Instant::now() + Duration::from_secs(20);
    let mut monitor = Monitor::connect(socket, soon).expect("QEMU's greeting");
    monitor.execute("system_powerdown", None, soon).expect("pressed");
    assert_eq!(guest.wait(), Some(0));
    let stderr = guest.stderr();
    let shutdowns = reports(&stderr, "shutdown");
    assert_eq!(shutdowns.len(), 1, "{stderr}");
    assert!(shutdowns[0].contains("Waiting for root device"), "{stderr}");
    assert!(reports(&stderr, "exit").is_empty(), "{stderr}");
}

#[test]
fn the_end_by_a_signal_is_reported_and_is_still_qemus() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let mut guest = Guest::start(boot(&hung, &["--logbuf-on=exit"]));
    guest.ask_until("Hardware name");
    assert_eq!(guest.terminate(), Some(0));
    let stderr = guest.stderr();
    let exits = reports(&stderr, "exit");
    assert_eq!(exits.len(), 1, "{stderr}");
    assert!(exits[0].contains("Hardware name"), "{stderr}");
    assert!(stderr.contains("terminating on signal 15"), "{stderr}");
}

#[test]
fn following_shows_what_the_console_would_until_there_is_one() {
    let Some(stock) = lab::stock() else { return };
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let silent = Guest::start(boot(&hung, &["--logbuf-follow"]));
    until("the last early message", || silent.stderr().contains("Hardware name"));
    assert!(messages(&silent.stderr()).len() >= 10, "{}", silent.stderr());
    drop(silent);
    // Two boots: what is followed begins again with the guest.
    let guest = Guest::start(boot(&stock, &[&["--logbuf-follow"], REBOOTS].concat()));
    const HANDED: &str = "the kernel has a console now";
    until("two boots", || guest.stderr().matches(HANDED).count() >= 2);
    let (stderr, console) = (guest.stderr(), messages(&guest.console()));
    for boot in stderr.split_inclusive(HANDED).take(2) {
        let followed = messages(boot);
        // The console may be there before the first look, and replays all.
        if followed.is_empty() {
            continue;
        }
        // The console replays what was printed before it was there.
        let at = console.iter().position(|line| *line == followed[0]);
        let at = at.unwrap_or_else(|| panic!("{} is not in {console:?}", followed[0]));
        let untimed = |lines: &[String]| -> Vec<String> {
            lines
                .iter()
                .map(|line| line.split_once("] ").map_or("", |(_, text)| text).to_owned())
                .collect()
        };
        assert_eq!(untimed(&followed), untimed(&console[at..at + followed.len()]));
    }
}

#[test]
fn following_all_shows_each_record_once() {
    let Some(stock) = lab::stock() else { return };
    let words = ["--logbuf-follow=all", "--logbuf-on=exit", "-append", "console=hvc0"];
    let mut guest = Guest::start(boot(&stock, &words));
    assert_eq!(guest.wait(), Some(0));
    let stderr = guest.stderr();
    let (followed, report) = stderr.split_once("──── qemu-logbuf").expect("a report");
    let (followed, reported) = (messages(followed), messages(report));
    assert!(reported.len() > 100, "{stderr}");
    // QEMU may be gone before the last look.
    assert!(followed.len() + 60 >= reported.len(), "{stderr}");
    assert_eq!(followed, reported[..followed.len()]);
}

#[test]
fn what_the_log_is_expected_to_say_decides() {
    let Some(stock) = lab::stock() else { return };
    let words = |expect| boot(&stock, &[expect, "-append", "console=hvc0"]);
    let mut good = Guest::start(words("--logbuf-expect=^Memory: .* available"));
    assert_eq!(good.wait(), Some(0));
    assert!(good.stderr().contains("qemu-logbuf: seen in the log: Memory: "), "{}", good.stderr());
    assert!(!good.stderr().contains("OS terminated"), "it was ended before");
    let mut bad = Guest::start(words("--logbuf-expect=Welcome to Nowhere"));
    assert_eq!(bad.wait(), Some(121));
}

/// A machine without memory, one that is not made yet, and one whose report
/// nobody reads: what nobody saw is no success.
#[test]
fn what_nobody_saw_is_not_what_was_expected() {
    let Some(_) = lab::stock() else { return };
    for machine in [&["-M", "none"][..], &["-M", "pseries", "-preconfig"]] {
        let words = [machine, &["-display", "none", "-nodefaults", "--logbuf-expect=x"]].concat();
        let mut guest = Guest::start(words);
        until("QEMU's handlers", || {
            guest.qemu().is_some_and(|qemu| catches(qemu, Signal::SIGTERM))
        });
        assert_eq!(guest.terminate(), Some(121), "{machine:?}: {}", guest.stderr());
        assert!(guest.stderr().contains("never said what --logbuf-expect"), "{}", guest.stderr());
    }
}

/// Nor does a report that nobody reads keep a guest that is to be ended.
#[test]
fn a_stall_ends_qemu_though_its_report_goes_nowhere() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let output = format!("--logbuf-output={}", fifo.display());
    let mut guest = Guest::start(boot(&hung, &["--logbuf-stop-on=stall:1", &output]));
    assert_eq!(guest.wait(), Some(124), "{}", guest.stderr());
}

/// A shell's `>(...)`, which only a descriptor names.
#[test]
fn reports_go_to_a_descriptor_that_was_inherited() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["--logbuf-stop-on=stall:1", "--logbuf-output=/dev/fd/3"];
    let command = "\"$@\" 3> >(cat >piped); status=$?; wait $!; exit $status";
    let status = Command::new("bash")
        .args(["-c", command, "bash"])
        .arg(lab::qemu_logbuf())
        .args(boot(&hung, &words))
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .status()
        .expect("bash runs");
    assert_eq!(status.code(), Some(124));
    let piped = std::fs::read_to_string(folder.path().join("piped")).expect("a file");
    assert!(piped.contains("Hardware name") && piped.contains("end of report"), "{piped}");
}

/// Beside a QEMU that has the launcher's process id, its end is still told of;
/// and that its status is no verdict is said.
#[test]
fn the_end_is_reported_beside_qemu_too() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let mut words = vec!["--logbuf-same-pid", "--logbuf-follow=all", "--logbuf-on=exit"];
    words.push("--logbuf-expect=Welcome to Nowhere");
    let mut guest = Guest::start_unready(boot(&hung, &words));
    until("all that it says", || guest.stderr().contains("Hardware name"));
    assert_eq!(guest.terminate(), Some(0));
    until("the report of the end", || reports(&guest.stderr(), "exit").len() == 1);
    assert!(guest.stderr().contains("is QEMU's own and no verdict"), "{}", guest.stderr());
}

#[test]
fn one_line_is_a_bisection() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let Some(stock) = lab::stock() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let git = |words: &[&str]| -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
            .args(words)
            .current_dir(folder.path())
            .output()
            .expect("git runs");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {stdout} {:?}", output.stderr);
        stdout
    };
    git(&["init", "-q"]);
    for number in 1..=8 {
        let kernel = if number < 6 { &stock } else { &hung };
        commit(folder.path(), kernel, number);
        git(&["add", "."]);
        git(&["commit", "-qm", &format!("change {number}")]);
    }
    git(&["bisect", "start", "HEAD", "HEAD~7"]);
    let wrapper = lab::qemu_logbuf();
    let mut run = vec!["bisect", "run", wrapper.to_str().expect("a path")];
    run.extend(MACHINE);
    run.extend([
        "-kernel",
        "vmlinux",
        "--logbuf-stop-on=stall:4,panic",
        "--logbuf-expect=^Memory: ",
    ]);
    let found = git(&run);
    assert!(found.contains("is the first bad commit"), "{found}");
    assert_eq!(git(&["log", "-1", "--format=%s", "refs/bisect/bad"]).trim(), "change 6");
}

/// A source tree whose build is `kernel`.
fn commit(folder: &Path, kernel: &Path, number: u32) {
    let vmlinux = folder.join("vmlinux");
    let _ = std::fs::remove_file(&vmlinux);
    std::os::unix::fs::symlink(kernel, &vmlinux).expect("a link");
    std::fs::write(folder.join("source"), number.to_string()).expect("written");
}

#[test]
fn a_key_begins_to_follow_and_ends_it() {
    let Some(stock) = lab::stock() else { return };
    let mut command = Command::new(lab::qemu_logbuf());
    command.args(boot(&stock, &["-S", "-append", "console=hvc0"])).env("NO_COLOR", "1");
    let mut terminal = Terminal::run(command);
    terminal.type_keys(b"\x01c");
    terminal.expect("(qemu)");
    terminal.type_keys(b"\x01f");
    terminal.expect("qemu-logbuf: following the kernel's log\r\n");
    terminal.type_keys(b"cont\r");
    let followed = terminal.expect("qemu-logbuf: the kernel has a console now");
    assert!(followed.contains("\r\n[    0.000000] Linux version"), "{followed:?}");
    assert!(!followed.replace("\r\n", "").contains('\n'), "{followed:?}");
    terminal.type_keys(b"\x01f");
    terminal.expect("qemu-logbuf: following ended");
}
