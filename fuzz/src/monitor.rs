//! What QEMU, or whoever is in its place, says on the monitor.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use qemu_logbuf::guest::cpu;
use qemu_logbuf::monitor::{EVENTS_KEPT, Monitor, parse, tree};

/// A whole session that QEMU has written beforehand, then hung up; and its
/// texts by themselves.
pub fn monitor(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        let _ = parse(line);
    }
    let text = String::from_utf8_lossy(data);
    let _ = cpu::parse(&text);
    let _ = tree::parse(&text);

    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    theirs.set_nonblocking(true).expect("a mode");
    // More than a socket holds is left out.
    let _ = theirs.write(data);
    let _ = theirs.shutdown(Shutdown::Write);
    let mut monitor = Monitor::new(ours).expect("a monitor");
    let deadline = Instant::now() + Duration::from_secs(5);
    let _ = monitor.query_status(deadline);
    let _ = monitor.query_cpus(deadline);
    let _ = monitor.memory_tree(deadline);
    let _ = monitor.registers(deadline);
    let _ = monitor.gpa2hva(0, deadline);
    let _ = monitor.query_stdio(deadline);
    let events = monitor.drain().unwrap_or_default();
    assert!(events.len() <= EVENTS_KEPT);
    assert!(Instant::now() < deadline, "a wait for one who has hung up");
}
