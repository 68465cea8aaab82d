//! Where the processors of real kernels are, held against gdb.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use super::boot;
use super::guest::{Guest, until};
use super::lab;

/// The line of a processor in a report.
fn line(report: &str, cpu: u32) -> &str {
    let head = format!("CPU {cpu} ");
    report.lines().find(|line| line.starts_with(&head)).unwrap_or_default()
}

/// The stock kernel hung in a function, in a file of its own.
fn hung_in(function: &str) -> Option<(tempfile::TempDir, std::path::PathBuf)> {
    let stock = lab::stock()?;
    let folder = tempfile::tempdir().expect("a folder");
    let hung = folder.path().join("vmlinux");
    lab::hang(&stock, &hung, function);
    Some((folder, hung))
}

/// What gdb says of the chain that begins in a function without a frame of
/// its own: `name+0xoffset` of each of so many places, innermost first.
fn gdbs_chain(stub: &Path, kernel: &Path, architecture: &str, count: usize) -> Option<Vec<String>> {
    let mut script = vec![
        format!("set architecture {architecture}"),
        format!("target remote {}", stub.display()),
        "info symbol $pc".to_owned(),
        "info symbol $lr".to_owned(),
        "set $frame = *(unsigned long *)$r1".to_owned(),
    ];
    for _ in 2..count {
        script.push("info symbol *(unsigned long *)($frame + 16)".to_owned());
        script.push("set $frame = *(unsigned long *)$frame".to_owned());
    }
    script.push("detach".to_owned());
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-nx", "-batch"]);
    script.iter().for_each(|command| {
        gdb.args(["-ex", command]);
    });
    let output = gdb.arg(kernel).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let places = text.lines().filter_map(|line| {
        let (place, _) = line.split_once(" in section ")?;
        let (name, offset) = place.split_once(" + ").unwrap_or((place, "0"));
        let name = name.strip_prefix('.').unwrap_or(name);
        Some(format!("{name}+{:#x}", offset.parse::<u64>().ok()?))
    });
    Some(places.collect())
}

/// The chain of processor 0 is what gdb sees through QEMU's stub.
fn chain_equals_gdbs(kernel: &Path, architecture: &str, count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = folder.path().join("gdb");
    let option = format!("unix:{},server=on,wait=off", stub.display());
    let mut guest = Guest::start(boot(kernel, &["-gdb", &option]));
    let report = guest.ask_until("register_early_udbg_console+0x");
    let ours = line(&report, 0);
    let start = ours.find("register_early_udbg_console").unwrap_or_default();
    let ours: Vec<&str> = ours[start..].split(" ← ").collect();
    let Some(gdbs) = gdbs_chain(&stub, kernel, architecture, count) else {
        eprintln!("skipped: there is no gdb-multiarch");
        return;
    };
    assert_eq!(ours, gdbs, "{report}");
    assert_eq!(guest.terminate(), Some(0));
}

#[test]
fn the_chain_of_a_stock_hang_equals_gdbs() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    chain_equals_gdbs(&hung, "powerpc:common64", 4);
}

#[test]
fn the_chain_of_a_big_endian_hang_equals_gdbs() {
    let Some(kernel) = lab::file("be64-6.1", "vmlinux", false) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let hung = folder.path().join("vmlinux");
    lab::hang(&kernel, &hung, "register_early_udbg_console");
    chain_equals_gdbs(&hung, "powerpc:common64", 4);
}

#[test]
fn a_hang_before_the_first_message_is_placed() {
    let Some(hung) = lab::stock_hung_in("early_setup") else { return };
    let guest = Guest::start(boot(&hung, &[]));
    // On its way there it copies itself, and is entered and silent as well.
    let report = guest.ask_until(" early_setup+0x0");
    assert!(report.contains("was entered, but has not printed"), "{report}");
    let cpu = line(&report, 0);
    assert!(cpu.contains(" early_setup+0x0 ← start_here_multiplatform+"), "{report}");
    // Before the kernel has moved to where it runs.
    let Some((_folder, hung)) = hung_in("prom_init") else { return };
    let guest = Guest::start(boot(&hung, &[]));
    let report = guest.ask_until("prom_init");
    assert!(report.contains("was entered, but has not printed"), "{report}");
    assert!(
        line(&report, 0).contains("real mode in prom_init+0x8 ← __boot_from_prom+"),
        "{report}"
    );
}

#[test]
fn in_a_panic_one_processor_is_stuck_and_the_other_idle() {
    let Some((_folder, hung)) = hung_in("panic") else { return };
    let guest = Guest::start(boot(&hung, &["-smp", "2", "-append", "console=hvc0"]));
    let report = guest.ask_until_it("one that is stuck, and one that is idle", |report| {
        // The idle one may be on its way just when its stack is read.
        let idle = report.lines().find(|line| line.contains(" idle in "));
        report.contains("stuck in a branch to itself in panic+0x8")
            && idle.is_some_and(|line| line.contains("do_idle+"))
    });
    let (stuck, idle) = match line(&report, 0) {
        cpu if cpu.contains("in panic") => (cpu, line(&report, 1)),
        _ => (line(&report, 1), line(&report, 0)),
    };
    assert!(stuck.contains("stuck in a branch to itself in panic+0x8 ← "), "{report}");
    assert!(stuck.contains(" ← kernel_init+") && stuck.contains(" ← ret_from_kernel_thread+"));
    assert!(idle.contains(" idle in "), "{report}");
    assert!(idle.contains("do_idle+"), "{report}");
    // All of it has been on the console.
    let option = "--logbuf-show=unseen";
    let guest = Guest::start(boot(&hung, &["-append", "console=hvc0", option]));
    until("the last messages on the console", || {
        guest.console().contains("No filesystem could mount root")
    });
    guest.ask_until("the consoles have printed all records");
    // And before there is a console, nothing has.
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let guest = Guest::start(boot(&hung, &[option]));
    let report = guest.ask_until("Hardware name");
    assert!(report.contains(" records that no console has printed"), "{report}");
}

#[test]
fn the_second_processor_in_a_loop_is_told_from_the_first_that_waits_for_it() {
    let Some((_folder, hung)) = hung_in("loop:start_secondary+0x20") else { return };
    let guest = Guest::start(boot(&hung, &["-smp", "2"]));
    // It may just have come there, or have moved in the loop; and the first
    // one, in a loop of a few instructions, be met twice at the same.
    let report = guest.ask_until_it("one that is stuck, and one that is not", |report| {
        report.contains("stuck in start_secondary+0x2") && report.matches("stuck").count() == 1
    });
    let second = line(&report, 1);
    assert!(second.contains("stuck in start_secondary+0x2"), "{report}");
    assert!(!second.contains("branch to itself"), "{report}");
    assert!(second.contains(" ← start_secondary_prolog+0x10"), "{report}");
    // It waits for the second one, and reads the time meanwhile.
    assert!(line(&report, 0).contains(" ← bringup_cpu+"), "{report}");
}

#[test]
fn a_hang_with_interrupts_off_is_placed() {
    // In panic(), behind its local_irq_disable().
    let Some((_folder, hung)) = hung_in("kmsg_dump") else { return };
    let guest = Guest::start(boot(&hung, &["-append", "console=hvc0"]));
    guest.ask_until("stuck in a branch to itself in kmsg_dump+0x8");
    // The log is read before the place: it may have moved on in between.
    let report = guest.ask();
    assert!(
        report.contains("Kernel panic - not syncing: VFS: Unable to mount root fs"),
        "{report}"
    );
    let cpu = line(&report, 0);
    assert!(cpu.contains("stuck in a branch to itself in kmsg_dump+0x8 ← panic_flush_kmsg_end+"));
    assert!(cpu.contains(" ← panic+"), "{report}");
}

#[test]
fn a_healthy_kernel_that_waits_is_idle() {
    let Some(stock) = lab::stock() else { return };
    let words = ["-append", "console=hvc0 root=/dev/vda rootwait", "-smp", "2"];
    let guest = Guest::start(boot(&stock, &words));
    let report = guest.ask_until_it("a kernel that waits, both processors idle", |report| {
        report.contains("Waiting for root device")
            && [0, 1].iter().all(|cpu| line(report, *cpu).contains(" idle in "))
    });
    for cpu in [line(&report, 0), line(&report, 1)] {
        assert!(cpu.contains(" idle in ") && !cpu.contains("stuck"), "{report}");
        assert!(cpu.contains("do_idle+"), "{report}");
    }
}

#[test]
fn firmware_is_said_to_be_and_who_called_it() {
    let Some(stock) = lab::stock() else { return };
    // os-term ends it in firmware, where -no-shutdown holds it.
    let guest = Guest::start(boot(&stock, &["-no-shutdown", "-append", "console=hvc0"]));
    // Before the kernel it is in firmware too, which nobody called.
    let report = guest.ask_until("rtas_os_term");
    let cpu = line(&report, 0);
    assert!(cpu.contains("in firmware at 0x") && cpu.contains(" ← panic+"), "{report}");
    let guest = Guest::start(["-M", "pseries", "-nographic", "-S"]);
    assert_eq!(line(&guest.ask(), 0), "CPU 0 not started");
}

#[test]
fn without_a_symbol_table_the_kernels_own_names_are_used() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let stripped = folder.path().join("vmlinux");
    let mut bytes = std::fs::read(&hung).expect("a kernel");
    // No section headers: e_shoff, e_shnum, e_shstrndx.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    std::fs::write(&stripped, bytes).expect("written");
    let guest = Guest::start(boot(&stripped, &[]));
    let chain = "register_early_udbg_console+0x8 ← setup_arch+0x16c ← start_kernel+0x";
    // Asked before its image has been searched for names, a scan answers.
    let report = guest.ask_until(chain);
    assert!(!report.contains("symbols of"), "{report}");
    assert!(line(&report, 0).contains(chain), "{report}");
}

#[test]
fn where_can_be_left_out_and_a_report_has_other_forms() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let guest = Guest::start(boot(&hung, &["--logbuf-where=off"]));
    // Without processors a diagnosis is a single line.
    until("a report of the log", || {
        nix::sys::signal::kill(guest.pid(), nix::sys::signal::Signal::SIGUSR1).expect("it runs");
        let reports = guest.stderr();
        assert_eq!(line(&reports, 0), "", "{reports}");
        reports.contains("Hardware name") && reports.contains("end of report")
    });
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("{pid}-{n}.json");
    let mut words: Vec<OsString> = boot(&hung, &["--logbuf-format=json"]);
    words.push(format!("--logbuf-output={}", output.display()).into());
    let guest = Guest::start(words);
    let mut number = 0;
    until("a file for each report", || {
        nix::sys::signal::kill(guest.pid(), nix::sys::signal::Signal::SIGUSR1).expect("it runs");
        number += 1;
        let path = folder.path().join(format!("{}-{number}.json", guest.pid()));
        let mut text = String::new();
        until("the report", || {
            text = std::fs::read_to_string(&path).unwrap_or_default();
            text.ends_with('\n')
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let last = lines.last().expect("the report's own line");
        assert_eq!((&last["type"], &last["report"]), (&"report".into(), &number.into()));
        let place = last["cpus"][0]["where"].as_str().unwrap_or_default();
        last["records"].as_u64().is_some_and(|records| records as usize + 1 == lines.len())
            && place.contains("register_early_udbg_console+0x8 ← setup_arch")
    });
}
