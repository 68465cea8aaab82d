//! Where the processors of a real, hung kernel are.
//!
//! `QEMU_LOGBUF_TEST_HUNG` names a pseries kernel with symbols whose
//! `register_early_udbg_console` branches to itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use object::{Object, ObjectSymbol, SymbolKind};
use qemu_logbuf::arch::Arch;
use qemu_logbuf::guest::{AddressRule, LiveMemory, View, cpu};
use qemu_logbuf::kernel::activity::{Activity, Extent, Place, Sample, watch};
use qemu_logbuf::kernel::stack::{End, Walker};
use qemu_logbuf::monitor::Error;

use crate::qemu::{Qemu, soon};

/// The functions of a kernel by address.
pub struct Functions {
    names: BTreeMap<u64, String>,
    pub arch: Arch,
    pub extent: Extent,
}

impl Functions {
    pub fn of(path: &str) -> Self {
        let data = std::fs::read(path).expect("the kernel");
        let file = object::File::parse(&*data).expect("an ELF file");
        let mut names = BTreeMap::new();
        let (mut start, mut end) = (0, 0);
        for symbol in file.symbols() {
            let (Ok(name), address) = (symbol.name(), symbol.address()) else { continue };
            match name {
                "_stext" => start = address,
                "_end" => end = address,
                _ => {}
            }
            if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label)
                && !name.is_empty()
                && !name.contains("long_branch")
            {
                // The longest says the most; local labels the least.
                let place: &mut String = names.entry(address).or_default();
                if name.len() > place.len() {
                    name.clone_into(place);
                }
            }
        }
        let arch = match (file.is_64(), file.is_little_endian()) {
            (true, true) => Arch::PPC64LE,
            (true, false) => Arch::PPC64,
            (false, _) => Arch::PPC32,
        };
        let rule = if file.is_64() { AddressRule::Linear64 } else { AddressRule::PPC32 };
        Self { names, arch, extent: Extent { kernel: Some(start..end), rule } }
    }

    pub fn find(&self, address: u64) -> Option<(String, u64)> {
        let kernel = self.extent.kernel.as_ref()?;
        kernel.contains(&address).then_some(())?;
        let (at, name) = self.names.range(..=address).next_back()?;
        Some((name.clone(), address - at))
    }
}

/// Look at all processors of a guest, through its page tables where needed.
fn places(qemu: &Qemu, memory: &LiveMemory, functions: &Functions) -> Vec<(Activity, Sample)> {
    memory.begin(Duration::from_secs(1));
    let symbols = |address| functions.find(address);
    let mapped = |address: u64, buf: &mut [u8]| memory.read_effective(0, address, buf).is_ok();
    let view = View::new(memory, functions.arch, functions.extent.rule);
    let walker = Walker::new(view, &symbols).with_mapped(&mapped);
    let threads = qemu.monitor.lock().query_cpus(soon()).expect("processors");
    let look = || -> Result<Vec<Sample>, Error> {
        let text = qemu.monitor.lock().registers(soon())?;
        let sample = |cpu: cpu::Cpu| {
            let thread = threads.iter().find(|thread| thread.index == u64::from(cpu.index));
            let run = thread.and_then(|thread| cpu::run_time(thread.thread));
            Sample::take(&walker, cpu, run)
        };
        Ok(cpu::parse(&text).into_iter().map(sample).collect())
    };
    watch(look, &functions.extent, || Duration::from_millis(50)).expect("registers")
}

#[test]
fn a_hung_kernel_is_stuck_where_it_was_made_to_hang() {
    let Ok(kernel) = std::env::var("QEMU_LOGBUF_TEST_HUNG") else {
        eprintln!("skipped: QEMU_LOGBUF_TEST_HUNG names no kernel");
        return;
    };
    let functions = Functions::of(&kernel);
    let arguments =
        ["-M", "pseries,x-vof=on", "-m", "1G", "-smp", "2", "-nographic", "-kernel", &kernel];
    let Some(mut qemu) = Qemu::plain(&arguments) else { return };
    let mut memory = qemu.memory();
    memory.refresh().expect("a map");
    let deadline = Instant::now() + Duration::from_secs(60);
    let line = loop {
        assert!(Instant::now() < deadline, "it does not hang");
        let begun = Instant::now();
        let places = places(&qemu, &memory, &functions);
        for (activity, sample) in &places {
            eprintln!("{}  [{:?}]", Place { sample, activity: *activity }, begun.elapsed());
        }
        assert_eq!(places.len(), 2);
        if let (Activity::SelfBranch, sample) = &places[0] {
            assert_eq!(places[1].0, Activity::NotStarted);
            assert_eq!(sample.trace.end, End::Entry);
            break sample.trace.to_string();
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let functions: Vec<&str> =
        line.split(" ← ").map(|frame| frame.split('+').next().unwrap_or_default()).collect();
    assert_eq!(
        functions,
        ["register_early_udbg_console", "setup_arch", "start_kernel", "start_here_common"]
    );
    assert!(!line.contains('?'), "{line}");
    qemu.quit();
}

/// Not a test but a look at any kernel: `QEMU_LOGBUF_TEST_LOOK=KERNEL` and
/// `QEMU_LOGBUF_TEST_ARGUMENTS`.
#[test]
#[ignore = "a look by eye"]
fn look_at_a_kernel() {
    let Ok(kernel) = std::env::var("QEMU_LOGBUF_TEST_LOOK") else { return };
    let given = std::env::var("QEMU_LOGBUF_TEST_ARGUMENTS").unwrap_or_default();
    let functions = Functions::of(&kernel);
    let mut arguments: Vec<&str> = given.split_ascii_whitespace().collect();
    arguments.extend(["-nographic", "-no-shutdown", "-kernel", &kernel]);
    let Some(mut qemu) = Qemu::plain(&arguments) else { return };
    let mut memory = qemu.memory();
    memory.refresh().expect("a map");
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(700));
        let begun = Instant::now();
        let places = places(&qemu, &memory, &functions);
        let taken = begun.elapsed();
        for (activity, sample) in &places {
            let (msr, nip) = (sample.cpu.msr, sample.cpu.nip);
            let place = Place { sample, activity: *activity };
            eprintln!("{place}  [msr {msr:x} nip {nip:x} {taken:?}]");
        }
    }
    drop(memory);
    qemu.signal(nix::sys::signal::Signal::SIGTERM);
    qemu.wait();
}
