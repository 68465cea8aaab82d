//! Reading through a monitor that is scripted. Its guest's memory is a
//! buffer of this very process, so that every way of reading can be had.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use serde_json::{Value, json};

use super::*;

const BASE: u64 = 0x1000;
const SIZE: usize = 0x2_0000;

/// A monitor over a little memory.
struct Fake {
    memory: Vec<u8>,
    /// Where it claims the memory to be in its process.
    host: u64,
    map: bool,
    save: bool,
    silent: Arc<AtomicBool>,
    commands: Arc<AtomicUsize>,
}

impl Fake {
    fn new() -> Self {
        let memory: Vec<u8> = (0..SIZE as u32).map(|n| (n % 251) as u8 ^ (n >> 12) as u8).collect();
        let host = memory.as_ptr() as u64;
        Self {
            memory,
            host,
            map: true,
            save: true,
            silent: Arc::default(),
            commands: Arc::default(),
        }
    }

    fn at(&self, real: u64, len: u64) -> &[u8] {
        &self.memory[(real - BASE) as usize..][..len as usize]
    }

    fn human(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let hex = |word: &str| u64::from_str_radix(&word[2..], 16).expect("hex");
        match words.next() {
            Some("info") if self.map => format!(
                "FlatView #0\r\n AS \"memory\", root: system\r\n  {BASE:016x}-{:016x} (prio 0, ram): a\r\n  \
                 {:016x}-{:016x} (prio 0, ram): b\r\n",
                BASE + 0xfff,
                BASE + 0x1000,
                BASE + SIZE as u64 - 1
            ),
            Some("gpa2hva") => {
                let real = hex(words.next().expect("an address"));
                format!(
                    "Host virtual address for {real:#x} (a) is {:#x}\r\n",
                    self.host + real - BASE
                )
            }
            Some("xp") => {
                let len: u64 = words.next().expect("a format")[1..]
                    .trim_end_matches("xb")
                    .parse()
                    .expect("a number");
                let real = hex(words.next().expect("an address"));
                let lines = self.at(real, len).chunks(8).enumerate().map(|(n, line)| {
                    let values: Vec<String> = line.iter().map(|b| format!("{b:#04x}")).collect();
                    format!("{:016x}: {}\r\n", real + 8 * n as u64, values.join(" "))
                });
                lines.collect()
            }
            _ => "unknown command\r\n".to_owned(),
        }
    }

    fn reply(&self, command: &Value) -> Result<Value, String> {
        let arguments = &command["arguments"];
        let number = |name: &str| arguments[name].as_i64().expect("a number") as u64;
        match command["execute"].as_str().expect("a command") {
            "qmp_capabilities" => Ok(json!({})),
            "human-monitor-command" => {
                Ok(self.human(arguments["command-line"].as_str().expect("a line")).into())
            }
            "query-cpus-fast" => Ok(json!([])),
            "query-memory-size-summary" => Ok(json!({ "base-memory": 0 })),
            "pmemsave" | "memsave" if self.save => {
                // The peer's descriptors are ours: the same name works.
                let path = arguments["filename"].as_str().expect("a name");
                std::fs::write(path, self.at(number("val"), number("size"))).expect("written");
                Ok(json!({}))
            }
            _ => Err("Could not open".into()),
        }
    }

    /// A session with it.
    fn serve(self) -> Shared {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        thread::spawn(move || {
            let mut out = theirs.try_clone().expect("a second handle");
            let greeting =
                json!({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}}});
            let _ = writeln!(out, "{greeting}");
            for line in BufReader::new(theirs).lines() {
                let Ok(line) = line else { return };
                self.commands.fetch_add(1, Ordering::SeqCst);
                if self.silent.load(Ordering::SeqCst) {
                    continue;
                }
                let command: Value = serde_json::from_str(&line).expect("a command");
                let reply = match self.reply(&command) {
                    Ok(value) => json!({ "return": value, "id": command["id"] }),
                    Err(words) => json!({ "error": { "desc": words }, "id": command["id"] }),
                };
                let _ = writeln!(out, "{reply}");
            }
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        Shared::new(Monitor::connect(ours, deadline).expect("a session"))
    }
}

fn scratch() -> Scratch {
    let file = tempfile::tempfile().expect("a file");
    let fd = file.as_raw_fd();
    Scratch::new(file, fd)
}

fn this() -> Option<i32> {
    Some(Pid::this().as_raw())
}

/// What is read equals what is there, across the pieces too.
fn reads_right(memory: &LiveMemory, truth: &[u8]) {
    for (at, len) in [(0, 1), (0xff0, 0x20), (5, 0x1_1000), (0, SIZE), (SIZE - 1, 1)] {
        let mut buf = vec![0xee; len];
        memory.read(BASE + at as u64, &mut buf).expect("memory");
        assert_eq!(buf, truth[at..at + len]);
    }
    for (real, len) in [(BASE - 1, 2), (BASE + SIZE as u64 - 1, 2), (u64::MAX, 1)] {
        let error = memory.read(real, &mut vec![0; len]).expect_err("not RAM");
        assert!(matches!(error, ReadError::NotRam { .. }), "{error}");
    }
}

#[test]
fn qemus_own_memory_is_read_without_asking_qemu() {
    let fake = Fake::new();
    let (truth, silent) = (fake.memory.clone(), Arc::clone(&fake.silent));
    let mut memory = LiveMemory::new(fake.serve(), this(), Some(scratch()));
    memory.refresh().expect("a map");
    let whole = BASE..BASE + SIZE as u64;
    assert_eq!(memory.ram(), std::slice::from_ref(&whole), "adjacent pieces are one");
    assert_eq!(memory.reader(), Reader::Process);
    reads_right(&memory, &truth);

    silent.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    memory.begin(Duration::from_millis(50));
    assert!(matches!(memory.refresh(), Err(ReadError::Silent)));
    reads_right(&memory, &truth);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn memory_that_is_not_where_qemu_said_is_not_trusted() {
    let mut fake = Fake::new();
    let elsewhere = vec![0x55_u8; SIZE];
    fake.host = elsewhere.as_ptr() as u64;
    let truth = fake.memory.clone();
    let mut memory = LiveMemory::new(fake.serve(), this(), Some(scratch()));
    memory.refresh().expect("a map");
    assert_eq!(memory.reader(), Reader::Save);
    reads_right(&memory, &truth);
    assert_eq!(memory.scratch.as_ref().map(|s| s.file.metadata().expect("a file").len()), Some(0));

    let mut fake = Fake::new();
    fake.host = 0x1000;
    let mut memory = LiveMemory::new(fake.serve(), this(), Some(scratch()));
    memory.refresh().expect("a map");
    assert_eq!(memory.reader(), Reader::Save, "no memory there at all");
}

#[test]
fn qemu_prints_the_bytes_where_nothing_else_works() {
    let mut fake = Fake::new();
    fake.save = false;
    let truth = fake.memory.clone();
    let shared = fake.serve();
    let mut memory = LiveMemory::new(shared.clone(), None, Some(scratch()));
    memory.refresh().expect("a map");
    reads_right(&memory, &truth);
    assert_eq!(memory.reader(), Reader::Text);
    memory.begin(PATIENCE);
    assert_eq!(memory.reader(), Reader::Save, "tried again by the next report");
    let mut memory = LiveMemory::new(shared, None, None);
    memory.refresh().expect("a map");
    reads_right(&memory, &truth);
}

#[test]
fn a_silent_qemu_costs_the_patience_once() {
    let fake = Fake::new();
    let (silent, commands) = (Arc::clone(&fake.silent), Arc::clone(&fake.commands));
    let mut memory = LiveMemory::new(fake.serve(), None, Some(scratch()));
    memory.refresh().expect("a map");
    silent.store(true, Ordering::SeqCst);
    let before = commands.load(Ordering::SeqCst);
    memory.begin(Duration::from_millis(100));
    let begun = Instant::now();
    for _ in 0..50 {
        assert!(matches!(memory.read(BASE, &mut [0; 8]), Err(ReadError::Silent)));
        assert!(matches!(memory.refresh(), Err(ReadError::Silent)));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(commands.load(Ordering::SeqCst), before + 1, "no pile of commands");
    assert!(memory.is_prepared(), "what was known is kept");
}

#[test]
fn a_map_of_another_wording_falls_back_to_the_size_of_memory() {
    let mut fake = Fake::new();
    fake.map = false;
    let mut memory = LiveMemory::new(fake.serve(), this(), Some(scratch()));
    memory.refresh().expect("an answer");
    assert!(!memory.is_prepared(), "this one has none");
}

#[test]
fn page_tables_are_the_guests_own() {
    let fake = Fake::new();
    let truth = fake.memory.clone();
    let memory = LiveMemory::new(fake.serve(), None, Some(scratch()));
    let mut buf = [0; 64];
    memory.read_effective(0, BASE + 16, &mut buf).expect("memory");
    assert_eq!(buf, truth[16..80]);
}
