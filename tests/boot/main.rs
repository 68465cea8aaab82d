//! Real kernels under real QEMU: a hang, the key or the signal, and the log,
//! held against what the same kernel prints by itself.

mod attach;
mod boards;
mod damage;
mod events;
mod guest;
mod initramfs;
mod lab;
mod live_ring;
mod places;
mod soak;
mod zimage;

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use guest::{Guest, MACHINE, Terminal, until};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A command line that boots `kernel`.
fn boot(kernel: &Path, more: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = MACHINE.iter().map(OsString::from).collect();
    words.extend(["-kernel".into(), kernel.into()]);
    words.extend(more.iter().map(OsString::from));
    words
}

/// The messages of a report, as dmesg shows them.
fn messages(report: &str) -> Vec<String> {
    report
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| line.starts_with("[    0."))
        .map(ToOwned::to_owned)
        .collect()
}

/// What the kernel prints by itself once its console registers: from the
/// first message on, `count` of them.
fn oracle(kernel: &Path, count: usize) -> Vec<String> {
    let guest = Guest::start(boot(kernel, &["-append", "console=hvc0 ignore_loglevel"]));
    until("the console's first lines", || messages(&guest.console()).len() > count + 5);
    let mut messages = messages(&guest.console());
    // What only the oracle's command line brings up.
    messages.retain(|message| !message.ends_with("ignoring loglevel setting."));
    messages.truncate(count);
    messages
}

#[test]
fn a_signal_shows_every_early_message_of_a_stock_hang() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let Some(stock) = lab::stock() else { return };
    let mut guest = Guest::start(boot(&hung, &[]));
    let report = guest.ask_until("Hardware name");
    assert_eq!(guest.console(), "", "the hang is silent");
    let found = messages(&report);
    assert!(found.len() >= 10, "{report}");
    assert!(report.contains(&format!("{} records", found.len())), "{report}");
    assert_eq!(found, oracle(&stock, found.len()));
    assert!(!report.contains('\x1b'), "no colours in a file");
    assert_eq!(messages(&guest.ask()), found, "asking again is possible");
    assert_eq!(guest.terminate(), Some(0));
}

#[test]
fn the_key_shows_the_log_in_the_terminal_and_leaves_it_as_it_was() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let mut command = Command::new(lab::qemu_logbuf());
    command.args(boot(&hung, &[])).env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
    // A shell would be in the way: the terminal's own modes are the witness.
    let mut terminal = Terminal::run(command);
    let before = terminal.modes();
    let report = terminal.press_until(b"\x01l", "Hardware name");
    assert!(report.contains("\x1b[32m[    0.000000]"), "dmesg's colours: {report:?}");
    assert!(
        report
            .lines()
            .skip(1)
            .all(|line| line.is_empty() || !line.starts_with(' ') || line.starts_with("     ")),
        "{report:?}"
    );
    assert!(report.starts_with("\r\n"), "the guest's line is left alone: {report:?}");
    assert!(
        !report.replace("\r\n", "").contains('\n'),
        "lines end as a raw terminal needs: {report:?}"
    );
    // QEMU's own keys beside it.
    terminal.type_keys(b"\x01h");
    terminal.expect("switch between console and monitor");
    terminal.type_keys(b"\x01c");
    terminal.expect("(qemu)");
    // Asked again it says what is new; where nothing is, it shows all again.
    let report = terminal.press_until(b"\x01l", "nothing is new since report #");
    assert!(report.contains("Hardware name"), "{report:?}");
    let report = terminal.press_until(b"\x01w", "where the CPUs are");
    assert!(report.contains("register_early_udbg_console+0x8"), "{report:?}");
    assert!(report.contains("GPR00 ") && report.contains("NIP c000"), "{report:?}");
    let report = terminal.press_until(b"\x01a", "Hardware name");
    assert!(report.contains("qemu-logbuf #"), "{report:?}");
    terminal.type_keys(b"\x01x");
    assert_eq!(terminal.wait(), Some(0));
    assert_eq!(terminal.modes(), before);
}

#[test]
fn a_pipe_has_its_answer_at_once_and_what_it_has_no_room_for_later() {
    let Some(hung) = lab::stock_hung_in("prepare_namespace") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let debug = folder.path().join("debug");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a page");
    let mut command = Command::new(lab::qemu_logbuf());
    command.args(boot(&hung, &["--logbuf-where=off", "-serial", "null"]));
    command.arg(format!("--logbuf-debug={}", debug.display())).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut child = command.spawn().expect("qemu-logbuf starts");
    drop(command);
    let pid = Pid::from_raw(child.id().cast_signed());
    until("the launcher's signal handlers", || guest::catches(pid, Signal::SIGUSR1));
    let ask = || kill(pid, Signal::SIGUSR1).expect("it runs");
    // Without processors a diagnosis is a single line.
    let is_end = |report: &str| {
        let last = report.lines().last().unwrap_or_default();
        report.ends_with('\n') && last.contains("qemu-logbuf") && !last.contains(" records")
    };
    let mut report = || {
        let mut bytes = Vec::new();
        let mut page = [0; 512];
        while !is_end(&String::from_utf8_lossy(&bytes)) {
            let count = reader.read(&mut page).expect("it is open");
            assert_ne!(count, 0, "it ended");
            bytes.extend_from_slice(&page[..count]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut before = String::new();
    until("the last record", || {
        ask();
        before = report();
        before.contains("evm: HMAC attrs")
    });
    let at_once = || {
        let said = std::fs::read_to_string(&debug).unwrap_or_default();
        said.matches("4096 of ").count()
    };
    let begun = at_once();
    assert!(begun > 0 && before.len() > 8192, "{before}");
    ask();
    // Nobody reads meanwhile.
    until("a pipe that is full", || at_once() > begun);
    assert_eq!(messages(&report()), messages(&before), "whole, and in order");
    kill(pid, Signal::SIGTERM).expect("it runs");
    child.wait().expect("it ends");
}

/// Much memory, and no log in it; more than this machine has, as the guest uses
/// none. It takes seconds to read on the fastest machine.
const LARGE_AND_EMPTY: [&str; 8] = [
    "-M",
    "pseries,x-vof=on,memory-backend=ram",
    "-m",
    "64G",
    "-nographic",
    "-S",
    "-object",
    "memory-backend-ram,id=ram,size=64G,reserve=off",
];

#[test]
fn a_long_look_is_seen_and_the_key_cancels_it() {
    let mut command = Command::new(lab::qemu_logbuf());
    command.args(LARGE_AND_EMPTY);
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::run(command);
    for _ in 0..2 {
        terminal.type_keys(b"\x01l");
        let line = terminal.expect("the key cancels");
        assert!(line.contains("\nqemu-logbuf: looking for the log"), "{line:?}");
        let from = terminal.seen.len();
        terminal.expect_from(from, "the key cancels");
        terminal.type_keys(b"\x01l");
        let end = terminal.expect_from(from, "for another try");
        assert!(end.contains("qemu-logbuf: cancelled; press"), "{end:?}");
    }
    // A question that is not cancelled has an answer.
    let from = terminal.seen.len();
    terminal.type_keys(b"\x01l");
    let end = terminal.expect_from(from, "has not been entered");
    assert!(end.contains(" of 65536 MiB"), "{end:?}");
}

#[test]
fn who_asked_by_signal_is_told_that_a_look_takes_long() {
    let guest = Guest::start(LARGE_AND_EMPTY);
    let report = guest.ask_until("has not been entered");
    let told: Vec<&str> = report.lines().filter(|line| line.contains("takes long")).collect();
    assert_eq!(
        told,
        ["qemu-logbuf: looking for the log in guest memory takes long; the report follows"]
    );
}

#[test]
fn without_keys_of_qemus_own_another_one_asks() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let boot = |key: &[&str]| {
        let mut command = Command::new(lab::qemu_logbuf());
        command.args([
            "-M",
            "pseries,x-vof=on",
            "-m",
            "512",
            "-display",
            "none",
            "-serial",
            "stdio",
        ]);
        command.arg("-kernel").arg(&hung).args(key).env("NO_COLOR", "1");
        Terminal::run(command)
    };
    let mut usual = boot(&[]);
    let report = usual.press_until(b"\x1dl", "Hardware name");
    assert!(!report.contains('\x1b'), "NO_COLOR is kept: {report:?}");
    let mut chosen = boot(&["--logbuf-key=ctrl-t"]);
    chosen.press_until(b"\x14", "Hardware name");
}

#[test]
fn a_kernel_that_was_not_entered_is_not_one_that_is_silent() {
    let Some(stock) = lab::stock() else { return };
    // Stopped before the first instruction.
    let stopped = Guest::start(boot(&stock, &["-S"]));
    let report = stopped.ask_until("the kernel has not been entered");
    assert!(!report.contains("record"), "{report}");
    // In firmware: SLOF takes seconds before it enters the kernel.
    let mut words = boot(&stock, &[]);
    words[1] = "pseries".into();
    let firmware = Guest::start(words);
    let report = firmware.ask_until("the kernel has not been entered");
    assert!(report.contains("firmware"), "{report}");
    // Entered, and hung before its first message.
    let Some(hung) = lab::stock_hung_in("early_setup") else { return };
    let silent = Guest::start(boot(&hung, &[]));
    let report = silent.ask_until("was entered");
    assert!(report.contains("the kernel was entered, but has not printed"), "{report}");
}

#[test]
fn a_vmlinux_of_another_build_is_refused_by_name() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let stale = folder.path().join("vmlinux");
    let mut bytes = std::fs::read(&hung).expect("a kernel");
    for at in memchr::memmem::find_iter(&bytes.clone(), b"Linux version 6.1.0-") {
        bytes[at + 14] = b'5';
    }
    std::fs::write(&stale, bytes).expect("written");
    let option = format!("--logbuf-vmlinux={}", stale.display());
    let guest = Guest::start(boot(&hung, &[&option]));
    let report = guest.ask_until("Hardware name");
    assert!(report.contains("is Linux 5.1.0-"), "{report}");
    assert!(report.contains("the guest runs Linux 6.1.0-"), "{report}");
    assert!(report.contains("; name the guest's own vmlinux"), "{report}");
}

#[test]
fn a_vmlinux_of_no_use_is_named_with_why_and_what_to_give() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let guest = Guest::start(boot(&hung, &["--logbuf-vmlinux=/nowhere/vmlinux"]));
    let report = guest.ask_until("Hardware name");
    let why = "warning: /nowhere/vmlinux: No such file or directory; name the guest's vmlinux";
    assert!(report.contains(why), "{report}");
}

#[test]
fn the_log_of_a_paused_guest_and_of_one_that_panicked_can_be_read() {
    let Some(stock) = lab::stock() else { return };
    // No root file system: it panics, and -no-shutdown holds it there.
    let guest = Guest::start(boot(&stock, &["-no-shutdown", "-append", "console=hvc0"]));
    until("the panic on the console", || guest.console().contains("ret_from_kernel_thread"));
    let report = guest.ask_until("rtas_os_term");
    assert!(report.contains("Kernel panic - not syncing: VFS"), "{report}");
    let console = messages(&guest.console());
    let found = messages(&report);
    assert!(found.len() > 100);
    for line in &console {
        assert!(found.contains(line), "{line} was printed and is not in the report");
    }
}

#[test]
fn reports_go_where_output_says() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("reports");
    let option = format!("--logbuf-output={}", file.display());
    let guest = Guest::start(boot(&hung, &[&option]));
    let mut text = String::new();
    until("two reports in the file", || {
        nix::sys::signal::kill(guest.pid(), nix::sys::signal::Signal::SIGUSR1).expect("it runs");
        text = std::fs::read_to_string(&file).unwrap_or_default();
        text.matches("end of report").count() >= 2
    });
    assert_eq!(guest.stderr().matches("qemu-logbuf").count(), 0, "{}", guest.stderr());
}

#[test]
fn a_big_endian_kernels_log_is_read_too() {
    let Some(kernel) = lab::file("be64-6.1", "vmlinux", false) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let hung = folder.path().join("vmlinux");
    lab::hang(&kernel, &hung, "register_early_udbg_console");
    let guest = Guest::start(boot(&hung, &[]));
    let report = guest.ask_until("Hardware name");
    assert!(report.contains("ppc64 ") || report.contains("ppc64\n"), "{report}");
    let found = messages(&report);
    assert_eq!(found, oracle(&kernel, found.len()));
}
