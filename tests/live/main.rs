//! The monitor, guest memory and registers of a real QEMU.
//!
//! Skipped, and said so, where no `qemu-system-ppc64` is installed.

mod places;
mod qemu;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use qemu_logbuf::guest::live::Reader;
use qemu_logbuf::guest::{LiveMemory, Memory, ReadError};
use qemu_logbuf::monitor::{Error, StdioUse};

use qemu::{Qemu, soon};

/// Where the test's bytes are put in the guest.
const AT: u64 = 0x200_0000;

fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn read(memory: &LiveMemory, at: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    memory.read(at, &mut buf).expect("guest memory");
    buf
}

#[test]
fn every_way_reads_the_same_bytes_of_a_real_guest() {
    let truth = bytes(1 << 20);
    let Some(mut qemu) = Qemu::with_bytes(&["-S", "-M", "pseries", "-m", "1G"], AT, &truth) else {
        return;
    };
    let mut memory = qemu.memory();
    memory.refresh().expect("a map");
    let whole = 0..1 << 30;
    assert_eq!(memory.ram(), std::slice::from_ref(&whole));
    assert_eq!(memory.reader(), Reader::Process);
    assert_eq!(read(&memory, AT, truth.len()), truth);
    let low = read(&memory, 0, 1 << 20);

    memory.forbid_process();
    memory.refresh().expect("a map");
    assert_eq!(memory.reader(), Reader::Save, "what is forbidden is not tried again");
    assert_eq!(read(&memory, AT, truth.len()), truth);
    assert_eq!(read(&memory, 0, 1 << 20), low);

    let mut memory = qemu.memory_without_file();
    memory.forbid_process();
    memory.refresh().expect("a map");
    assert_eq!(memory.reader(), Reader::Text);
    assert_eq!(read(&memory, AT, 100_000), truth[..100_000]);
    assert!(matches!(memory.read(1 << 30, &mut [0]), Err(ReadError::NotRam { .. })));

    // Not a byte of all that on QEMU's own output.
    let (out, err) = qemu.quit();
    assert_eq!((out.as_str(), err.as_str()), ("", ""));
}

#[test]
fn qemu_finds_its_own_process_id() {
    let truth = bytes(4096);
    let Some(mut qemu) = Qemu::with_bytes(&["-S", "-M", "pseries"], AT, &truth) else { return };
    // As if a script had started QEMU: the id is the script's.
    let mut memory =
        LiveMemory::new(qemu.monitor.clone(), i32::try_from(std::process::id()).ok(), None);
    memory.refresh().expect("a map");
    assert_eq!(memory.reader(), Reader::Process);
    assert_eq!(read(&memory, AT, truth.len()), truth);
    qemu.quit();
}

#[test]
fn memory_in_pieces_reads_across_them() {
    let truth = bytes(0x2000);
    let numa = "-S -M pseries -m 512M -smp 2 -object memory-backend-ram,id=a,size=256M \
        -object memory-backend-ram,id=b,size=256M -numa node,memdev=a -numa node,memdev=b";
    let arguments: Vec<&str> = numa.split_ascii_whitespace().collect();
    let at = (256 << 20) - 0x1000;
    let Some(mut qemu) = Qemu::with_bytes(&arguments, at, &truth) else { return };
    let mut memory = qemu.memory();
    memory.refresh().expect("a map");
    assert_eq!(memory.ram().len(), 1);
    assert_eq!(memory.reader(), Reader::Process);
    assert_eq!(read(&memory, at, truth.len()), truth);
    qemu.quit();
}

#[test]
fn a_stopped_qemu_is_still_read_and_a_killed_one_is_gone() {
    let truth = bytes(4096);
    let Some(mut qemu) = Qemu::with_bytes(&["-S", "-M", "pseries"], AT, &truth) else { return };
    let mut memory = qemu.memory();
    memory.refresh().expect("a map");
    qemu.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    memory.begin(Duration::from_millis(200));
    assert!(matches!(memory.refresh(), Err(ReadError::Silent)));
    assert_eq!(read(&memory, AT, truth.len()), truth);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    qemu.signal(Signal::SIGCONT);
    memory.begin(Duration::from_secs(2));
    memory.refresh().expect("an answer again");

    qemu.signal(Signal::SIGKILL);
    qemu.wait();
    assert!(matches!(memory.read(AT, &mut [0; 8]), Err(ReadError::Gone)));
    assert!(matches!(memory.refresh(), Err(ReadError::Gone)));
    assert_eq!(qemu.monitor.lock().query_status(soon()), Err(Error::Gone));
}

#[test]
fn a_qemu_frozen_on_its_undrained_output_is_still_read() {
    // Full from the start: the firmware's first character blocks QEMU.
    let (unread, mut full) = UnixStream::pair().expect("a socket pair");
    full.set_nonblocking(true).expect("a socket");
    while full.write(&[b'x'; 4096]).is_ok() {}
    full.set_nonblocking(false).expect("a socket");
    let output = OwnedFd::from(full).into();
    let Some(qemu) = Qemu::writing_to(output, &["-S", "-nographic", "-M", "pseries"]) else {
        return;
    };
    let mut memory = qemu.memory();
    memory.refresh().expect("a map");
    let before = read(&memory, 0, 0x1000);
    // It may freeze before it answers.
    let resumed = qemu.monitor.lock().execute("cont", None, soon());
    assert!(matches!(resumed, Ok(_) | Err(Error::Silent)), "{resumed:?}");

    let waited = Instant::now();
    let frozen = || {
        let asked = Instant::now() + Duration::from_millis(300);
        qemu.monitor.lock().query_status(asked) == Err(Error::Silent)
    };
    while !frozen() {
        assert!(waited.elapsed() < Duration::from_secs(60), "it does not freeze");
    }
    let begun = Instant::now();
    memory.begin(Duration::from_millis(200));
    assert!(matches!(memory.refresh(), Err(ReadError::Silent)));
    assert_eq!(memory.reader(), Reader::Process);
    let after = read(&memory, 0, 0x1000);
    assert_eq!(after.len(), before.len());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(unread);
}

#[test]
fn who_has_standard_input_is_told() {
    for (arguments, used) in [
        (&["-nographic"][..], StdioUse::Mux),
        (&["-display", "none", "-serial", "stdio"], StdioUse::Plain),
        (&["-nographic", "-serial", "none", "-monitor", "none"], StdioUse::None),
        (&["-display", "none", "-serial", "mon:stdio"], StdioUse::Mux),
        (
            &[
                "-nodefaults",
                "-display",
                "none",
                "-chardev",
                "stdio,id=c,mux=on",
                "-serial",
                "chardev:c",
            ],
            StdioUse::Mux,
        ),
    ] {
        let arguments: Vec<&str> =
            ["-S", "-M", "pseries"].iter().chain(arguments).copied().collect();
        let Some(mut qemu) = Qemu::plain(&arguments) else { return };
        let mut monitor = qemu.monitor.lock();
        assert_eq!(monitor.query_stdio(soon()), Ok(used), "{arguments:?}");
        let status = monitor.query_status(soon()).expect("a status");
        assert_eq!((status.running, status.name.as_str()), (false, "prelaunch"));
        drop(monitor);
        qemu.quit();
    }
}

#[test]
fn before_there_is_a_machine_qemu_refuses_and_later_does_not() {
    let Some(mut qemu) =
        Qemu::plain(&["-display", "none", "-nodefaults", "-preconfig", "-S", "-M", "pseries"])
    else {
        return;
    };
    let mut memory = qemu.memory();
    assert!(matches!(memory.refresh(), Err(ReadError::Refused(_))));
    assert!(!memory.is_prepared());
    qemu.monitor.lock().execute("x-exit-preconfig", None, soon()).expect("a machine");
    memory.refresh().expect("a map");
    assert_eq!(memory.reader(), Reader::Process);
    qemu.quit();
}

/// Not a test but a measurement: `cargo test --release --test live -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn transfer_times() {
    let truth = bytes(1 << 20);
    let Some(mut qemu) = Qemu::with_bytes(&["-S", "-M", "pseries", "-m", "2G"], AT, &truth) else {
        return;
    };
    let mut memory = qemu.memory();
    let begun = Instant::now();
    memory.refresh().expect("a map");
    eprintln!("first refresh  {:>9.3} ms", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    memory.refresh().expect("a map");
    eprintln!("later refresh  {:>9.3} ms", begun.elapsed().as_secs_f64() * 1e3);
    let text = qemu.memory_without_file();
    let mut text = text;
    text.forbid_process();
    text.refresh().expect("a map");
    for way in [Reader::Process, Reader::Save, Reader::Text] {
        if way == Reader::Save {
            memory.forbid_process();
        }
        for (len, times) in [(256 << 10, 21), (1 << 20, 21), (1 << 30, 3)] {
            let memory = if way == Reader::Text { &text } else { &memory };
            if way == Reader::Text && len > 256 << 10 {
                continue;
            }
            assert_eq!(memory.reader(), way);
            let mut buf = vec![0_u8; len];
            let mut taken: Vec<f64> = (0..times)
                .map(|_| {
                    memory.begin(Duration::from_secs(2));
                    let begun = Instant::now();
                    memory.read(0, &mut buf).expect("guest memory");
                    begun.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            taken.sort_by(f64::total_cmp);
            eprintln!(
                "{way:?} {:>8} KiB  median {:>9.3} ms  (first .. worst {:.3})",
                len >> 10,
                taken[taken.len() / 2],
                taken[taken.len() - 1]
            );
        }
    }
    let mut taken: Vec<f64> = (0..51)
        .map(|_| {
            let begun = Instant::now();
            qemu.monitor.lock().registers(soon()).expect("registers");
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    taken.sort_by(f64::total_cmp);
    eprintln!("registers of one CPU: median {:.3} ms", taken[25]);
    qemu.quit();
}
