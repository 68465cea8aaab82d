//! Guest memory that can be had without waiting for anybody.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Held, LiveMemory, Memory, ReadError, is_ram, process};

/// An entry of `/proc/PID/pagemap`, in bytes, and its bit that says that the
/// page is in memory (Documentation/admin-guide/mm/pagemap.rst).
const ENTRY: u64 = 8;
const IN_MEMORY: u64 = 1 << 63;

/// The memory of a guest as far as QEMU has it in RAM at this moment and
/// mapped; the rest would have to be brought from a swap device, or by whoever
/// serves QEMU's page faults (`userfaultfd`, a migration's), which may take any
/// time and cannot be interrupted.
///
/// A read that cannot be had fails, and all is to be asked again of
/// [`LiveMemory`]: see [`PresentMemory::fell_short`].
#[derive(Debug)]
pub struct PresentMemory<'a> {
    memory: &'a LiveMemory,
    pid: Pid,
    pagemap: File,
    page: u64,
    /// Numbers of pages in QEMU's address space that were there.
    seen: RefCell<BTreeSet<u64>>,
    /// Bytes that may still be read.
    left: Cell<u64>,
    fell_short: Cell<bool>,
}

impl LiveMemory {
    /// What of this memory is at hand, of which up to `most` bytes can be read
    /// in all; `None` where it is not known where that is, or QEMU's memory is
    /// not to be read.
    #[must_use]
    pub fn present(&self, most: u64) -> Option<PresentMemory<'_>> {
        if self.is_doubtful() {
            return None;
        }
        let pid = self.process()?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok()?;
        let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
        Some(PresentMemory {
            memory: self,
            pid,
            pagemap,
            page,
            seen: RefCell::default(),
            left: Cell::new(most),
            fell_short: Cell::new(false),
        })
    }
}

impl PresentMemory<'_> {
    /// Whether a read failed that [`LiveMemory`] may be able to do: what was
    /// made of the others is worth nothing.
    #[must_use]
    pub fn fell_short(&self) -> bool {
        self.fell_short.get()
    }

    /// Whether QEMU has all of this range of its own addresses in memory.
    fn is_in_memory(&self, range: Range<u64>) -> io::Result<bool> {
        let mut seen = self.seen.borrow_mut();
        let pages = range.start / self.page..range.end.div_ceil(self.page);
        if pages.clone().all(|page| seen.contains(&page)) {
            return Ok(true);
        }
        let mut entries = vec![0; ((pages.end - pages.start) * ENTRY) as usize];
        self.pagemap.read_exact_at(&mut entries, pages.start * ENTRY)?;
        let (entries, _) = entries.as_chunks();
        let all = entries.iter().all(|entry| u64::from_ne_bytes(*entry) & IN_MEMORY != 0);
        if all {
            seen.extend(pages);
        }
        Ok(all)
    }

    /// Read what is all there; whether it was.
    fn read_present(&self, real: u64, buf: &mut [u8]) -> io::Result<bool> {
        let Some(left) = self.left.get().checked_sub(buf.len() as u64) else { return Ok(false) };
        self.left.set(left);
        let end = real.saturating_add(buf.len() as u64);
        let holds = |held: &&Held| held.piece.range.start <= real && end <= held.piece.range.end;
        let Some(Held { piece, host: Some(host) }) = self.memory.held.iter().find(holds) else {
            return Ok(false);
        };
        let host = host + (real - piece.range.start);
        if !self.is_in_memory(host..host + buf.len() as u64)? {
            return Ok(false);
        }
        process::read(self.pid, host, buf).map(|()| true)
    }
}

impl Memory for PresentMemory<'_> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let in_ram = is_ram(&self.memory.ram, real, buf.len() as u64);
        if in_ram && self.read_present(real, buf).unwrap_or(false) {
            return Ok(());
        }
        self.fell_short.set(true);
        Err(ReadError::Cancelled)
    }

    fn ram(&self) -> &[Range<u64>] {
        self.memory.ram()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::{Direct, Piece, lock};
    use super::*;
    use crate::monitor::{Monitor, Shared};

    /// So far apart that no huge page holds both.
    const FAR: u64 = 48 << 20;
    const SIZE: u64 = 64 << 20;

    /// Memory of this very process, behind a monitor that says nothing.
    fn memory(bytes: &[u8]) -> (LiveMemory, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let monitor = Shared::new(Monitor::new(ours).expect("a session"));
        let mut memory = LiveMemory::new(monitor, None, None);
        let piece = Piece { range: 0..bytes.len() as u64, name: String::new() };
        memory.ram = vec![piece.range.clone()];
        memory.held = vec![Held { piece, host: Some(bytes.as_ptr() as u64) }];
        *lock(&memory.direct) = Direct::Trusted(Pid::this());
        (memory, theirs)
    }

    fn first_byte(memory: &impl Memory, real: u64) -> Result<u8, ReadError> {
        let mut buf = [0; 0x2001];
        memory.read(real, &mut buf).map(|()| buf[0])
    }

    #[test]
    fn pages_that_nobody_has_touched_are_left_to_who_can_wait() {
        // Given by the kernel, and not yet there.
        let mut bytes = vec![0; SIZE as usize];
        bytes[..0x4000].fill(7);
        let (memory, _monitor) = memory(&bytes);
        let present = memory.present(SIZE).expect("it is known where");
        assert!(matches!(first_byte(&present, 1), Ok(7)));
        assert!(!present.fell_short());
        assert!(matches!(first_byte(&present, FAR), Err(ReadError::Cancelled)));
        assert!(present.fell_short());
        assert!(matches!(first_byte(&memory, FAR), Ok(0)), "which brings it in");
        let again = memory.present(SIZE).expect("it is known where");
        assert!(matches!(first_byte(&again, FAR), Ok(0)));
        assert!(!again.fell_short());
    }

    #[test]
    fn no_more_is_read_than_was_to_be_and_nothing_outside() {
        let bytes = vec![7; 0x8000];
        let (memory, _monitor) = memory(&bytes);
        let present = memory.present(0x3000).expect("it is known where");
        assert!(matches!(first_byte(&present, 0), Ok(7)));
        assert!(matches!(first_byte(&present, 0), Err(ReadError::Cancelled)));
        assert!(present.fell_short());
        let present = memory.present(SIZE).expect("it is known where");
        for real in [0x7000, SIZE, u64::MAX] {
            assert!(matches!(first_byte(&present, real), Err(ReadError::Cancelled)));
        }
        assert!(present.fell_short());
    }

    #[test]
    fn memory_that_is_not_read_directly_is_not_at_hand() {
        let bytes = vec![7; 0x8000];
        let (memory, _monitor) = memory(&bytes);
        for direct in [Direct::Untrusted, Direct::Forbidden] {
            *lock(&memory.direct) = direct;
            assert!(memory.present(SIZE).is_none());
        }
    }
}
