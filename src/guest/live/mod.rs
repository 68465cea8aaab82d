//! The memory of a running QEMU's guest.
//!
//! [`LiveMemory`] asks the monitor once where RAM is and where QEMU holds it,
//! and from then on reads by the fastest way that works:
//!
//! 1. [`Reader::Process`]: straight out of QEMU's own memory. It needs no
//!    answer from QEMU, so it still works when QEMU is stuck.
//! 2. [`Reader::Save`]: QEMU writes the bytes into a file without a name that
//!    it inherited from us, or was lent. For hosts that forbid the first.
//! 3. [`Reader::Text`]: QEMU prints the bytes. Slow, but it needs neither
//!    permission nor a file: QEMU in a chroot.
//!
//! The guest is never stopped and never written to; what is read is what was
//! there at that moment, page by page. Nothing here knows what bytes mean.

mod present;
mod process;
mod text;

use std::fs::File;
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

pub use self::present::PresentMemory;
use super::{Memory, ReadError, is_ram};
use crate::monitor::tree::Piece;
use crate::monitor::{self, Monitor, Shared};

/// How long a report may wait in all for a QEMU that gives no answer.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// How much QEMU saves by one command, in bytes. QEMU holds its big lock
/// meanwhile: this is about 10 ms.
const SAVED_AT_ONCE: u64 = 16 << 20;

/// A transfer beyond this many bytes takes its time for a good reason, which
/// is not counted against QEMU's patience.
const QUICK: u64 = 1 << 20;

/// More pieces than any machine has; further ones are read by the monitor.
const PIECES_HELD: usize = 256;

/// By which way guest memory is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Out of QEMU's own memory, by `process_vm_readv`.
    Process,
    /// By `pmemsave` into an inherited file.
    Save,
    /// By the human monitor's `xp`.
    Text,
}

/// A file that QEMU can write to and we can read.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    path: String,
}

impl Scratch {
    /// `file` is our handle of a memfd that QEMU has as descriptor
    /// `fd_in_qemu`; its contents are given up.
    #[must_use]
    pub fn new(file: File, fd_in_qemu: RawFd) -> Self {
        // QEMU opens a name, and truncates what it opens.
        Self { file, path: format!("/proc/self/fd/{fd_in_qemu}") }
    }
}

/// One piece of RAM, and where QEMU holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    piece: Piece,
    /// An address in QEMU's memory; contiguous for the whole piece.
    host: Option<u64>,
}

/// Whether QEMU's memory can be read directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direct {
    /// Not tried, or found wrong.
    Untrusted,
    /// Checked against the monitor, in the process of this id.
    Trusted(Pid),
    /// The host forbids it; not tried again.
    Forbidden,
}

/// The RAM of a running QEMU's guest, by real address.
#[derive(Debug)]
pub struct LiveMemory {
    monitor: Shared,
    pid: Option<Pid>,
    scratch: Option<Scratch>,
    held: Vec<Held>,
    ram: Vec<Range<u64>>,
    direct: Mutex<Direct>,
    /// Whether QEMU has refused to save, since `begin`.
    save_refused: AtomicBool,
    /// Whether a read was outside of RAM as it was told, since `begin`.
    missed: AtomicBool,
    /// How long QEMU may still keep us waiting, since `begin`.
    patience: Mutex<Duration>,
}

impl LiveMemory {
    /// The memory of the QEMU behind `monitor`; nothing is asked yet, and no
    /// RAM known before [`LiveMemory::refresh`].
    ///
    /// `pid` is QEMU's process id where that is known; it is found out from
    /// QEMU otherwise, and where it turns out to be another's.
    #[must_use]
    pub fn new(monitor: Shared, pid: Option<i32>, scratch: Option<Scratch>) -> Self {
        Self {
            monitor,
            pid: pid.map(Pid::from_raw),
            scratch,
            held: Vec::new(),
            ram: Vec::new(),
            direct: Mutex::new(Direct::Untrusted),
            save_refused: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            patience: Mutex::new(PATIENCE),
        }
    }

    /// Begin a report: QEMU has not kept us waiting yet.
    ///
    /// Until the next call, all reads and refreshes together wait no longer
    /// than `patience` for a QEMU that does not answer, and then fail at once.
    pub fn begin(&self, patience: Duration) {
        *lock(&self.patience) = patience;
        self.save_refused.store(false, Ordering::Relaxed);
        self.missed.store(false, Ordering::Relaxed);
    }

    /// Have QEMU save to this file from now on, where its memory can't be read.
    pub fn save_to(&mut self, scratch: Scratch) {
        self.scratch = Some(scratch);
    }

    /// Whether it is known where RAM is.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        !self.ram.is_empty()
    }

    /// Whether a refresh may change something: nothing is known yet, reading
    /// QEMU's memory went wrong, or a read since `begin` was outside of RAM.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        !self.is_prepared()
            || *lock(&self.direct) == Direct::Untrusted
            || self.missed.load(Ordering::Relaxed)
    }

    /// Leave QEMU's own memory alone from now on, as on a host that forbids
    /// reading it.
    pub fn forbid_process(&self) {
        *lock(&self.direct) = Direct::Forbidden;
    }

    /// The process whose memory is read, while that is the way.
    #[must_use]
    pub fn process(&self) -> Option<Pid> {
        match *lock(&self.direct) {
            Direct::Trusted(pid) => Some(pid),
            Direct::Untrusted | Direct::Forbidden => None,
        }
    }

    /// By which way the next read goes first.
    #[must_use]
    pub fn reader(&self) -> Reader {
        match *lock(&self.direct) {
            Direct::Trusted(_) if self.held.iter().all(|held| held.host.is_some()) => {
                Reader::Process
            }
            _ if self.scratch.is_some() && !self.save_refused.load(Ordering::Relaxed) => {
                Reader::Save
            }
            _ => Reader::Text,
        }
    }

    /// Ask QEMU where RAM is, and where in its own memory; whether that
    /// has changed.
    ///
    /// To be called early, while QEMU answers, so that reading works later
    /// when it does not; and again when memory may have been plugged in or a
    /// read was [`ReadError::NotRam`].
    ///
    /// # Errors
    /// As QEMU fails; [`ReadError::Refused`] before the machine exists
    /// (`-preconfig`). What was known before is kept.
    pub fn refresh(&mut self) -> Result<bool, ReadError> {
        let mut held = self.ask_map()?;
        let known = matches!(*lock(&self.direct), Direct::Trusted(_));
        let forbidden = *lock(&self.direct) == Direct::Forbidden;
        if !forbidden {
            for held in held.iter_mut().take(PIECES_HELD) {
                held.host = self.ask_host(&held.piece.range)?;
            }
        }
        let changed = held != self.held;
        self.ram = merged(held.iter().map(|held| &held.piece.range));
        self.held = held;
        if !forbidden && (changed || !known) {
            let direct = self.check()?;
            *lock(&self.direct) = direct;
        }
        Ok(changed)
    }

    /// The map, not yet with QEMU's addresses.
    fn ask_map(&self) -> Result<Vec<Held>, ReadError> {
        let mut pieces = self.ask(false, Monitor::memory_tree)?;
        if pieces.is_empty() {
            // A QEMU whose map reads differently: what every machine has.
            let size = self.ask(false, Monitor::query_base_memory)?;
            if size > 0 {
                pieces.push(Piece { range: 0..size, name: String::new() });
            }
        }
        Ok(pieces.into_iter().map(|piece| Held { piece, host: None }).collect())
    }

    /// Where QEMU holds `range`; `None` where it is not in one piece.
    fn ask_host(&self, range: &Range<u64>) -> Result<Option<u64>, ReadError> {
        let at = |real| match self.ask(false, |monitor, deadline| monitor.gpa2hva(real, deadline)) {
            Ok(host) => Ok(Some(host)),
            Err(ReadError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        };
        let (Some(first), Some(last)) = (at(range.start)?, at(range.end - 1)?) else {
            return Ok(None);
        };
        Ok((last.wrapping_sub(first) == range.end - 1 - range.start).then_some(first))
    }

    /// Find out whether reading QEMU's memory gives what QEMU itself reads:
    /// the process might be a shell script that started QEMU, or the id one
    /// of another namespace.
    fn check(&self) -> Result<Direct, ReadError> {
        let threads = self.ask(false, Monitor::query_cpus).unwrap_or_default();
        let by_qemu = threads.first().and_then(|cpu| process::of_thread(cpu.thread));
        let mut forbidden = false;
        let mut tried = None;
        for pid in [self.pid, by_qemu].into_iter().flatten() {
            if tried.replace(pid) == Some(pid) {
                continue;
            }
            match self.agrees(pid) {
                Ok(true) => return Ok(Direct::Trusted(pid)),
                Ok(false) => {}
                Err(ReadError::Io(error)) if process::is_forbidden(&error) => forbidden = true,
                // No such process, or not there: not QEMU's.
                Err(ReadError::Io(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if forbidden { Direct::Forbidden } else { Direct::Untrusted })
    }

    /// Whether process `pid` holds the guest's memory where QEMU said.
    fn agrees(&self, pid: Pid) -> Result<bool, ReadError> {
        const LEN: u64 = 128;
        for Held { piece, host } in &self.held {
            let (range, Some(host)) = (&piece.range, *host) else { continue };
            let size = range.end - range.start;
            for at in [0, size / 2, size.saturating_sub(LEN)] {
                let len = LEN.min(size - at) as usize;
                let direct = || {
                    let mut buf = vec![0; len];
                    process::read(pid, host + at, &mut buf).map(|()| buf)
                };
                // The guest may write meanwhile: each byte is to be as it was
                // before or as it is after, in one of a few tries.
                let mut same = false;
                for _ in 0..3 {
                    let before = direct()?;
                    let mut said = vec![0; len];
                    self.read_text(range.start + at, &mut said)?;
                    let after = direct()?;
                    same = said
                        .iter()
                        .zip(before.iter().zip(&after))
                        .all(|(said, (before, after))| said == before || said == after);
                    if same {
                        break;
                    }
                }
                if !same {
                    return Ok(false);
                }
            }
        }
        Ok(!self.held.is_empty())
    }

    /// Run one command within what patience is left.
    fn ask<T>(
        &self,
        long: bool,
        command: impl FnOnce(&mut Monitor, Instant) -> Result<T, monitor::Error>,
    ) -> Result<T, ReadError> {
        let left = *lock(&self.patience);
        if left.is_zero() {
            return Err(ReadError::Silent);
        }
        let mut monitor = self.monitor.lock();
        let begun = Instant::now();
        let result = command(&mut monitor, begun + left);
        if !long || result.is_err() {
            let mut patience = lock(&self.patience);
            *patience = patience.saturating_sub(begun.elapsed());
            if matches!(result, Err(monitor::Error::Silent)) {
                *patience = Duration::ZERO;
            }
        }
        Ok(result?)
    }

    fn read_process(&self, pid: Pid, real: u64, buf: &mut [u8]) -> Result<bool, std::io::Error> {
        let mut at = real;
        let mut rest = buf;
        while !rest.is_empty() {
            // Adjacent pieces, such as NUMA nodes, lie apart in QEMU.
            let Some(Held { piece, host: Some(host) }) =
                self.held.iter().find(|held| held.piece.range.contains(&at))
            else {
                return Ok(false);
            };
            let len = rest.len().min(usize::try_from(piece.range.end - at).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            process::read(pid, host + (at - piece.range.start), now)?;
            at += len as u64;
            rest = later;
        }
        Ok(true)
    }

    fn read_save(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let save = |monitor: &mut Monitor, at: u64, len: u64, path: &str, deadline| {
            monitor.pmemsave(at, len, path, deadline)
        };
        self.save(real, buf, save)
    }

    /// Have QEMU save piece by piece and take each over.
    fn save(
        &self,
        start: u64,
        buf: &mut [u8],
        save: impl Fn(&mut Monitor, u64, u64, &str, Instant) -> Result<(), monitor::Error>,
    ) -> Result<(), ReadError> {
        let Some(scratch) = &self.scratch else {
            return Err(ReadError::Refused("there is no file to save to".into()));
        };
        let mut at = start;
        for chunk in buf.chunks_mut(SAVED_AT_ONCE as usize) {
            let len = chunk.len() as u64;
            // All while the monitor is ours, as the next who has it may use
            // the same file. Emptied, as its pages are not needed any more.
            self.ask(len > QUICK, |monitor, deadline| {
                save(monitor, at, len, &scratch.path, deadline)?;
                let taken = scratch.file.read_exact_at(chunk, 0);
                Ok(taken.and(scratch.file.set_len(0)))
            })??;
            at += len;
        }
        Ok(())
    }

    fn read_text(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.print(real, buf, text::command)
    }

    /// Have QEMU print the bytes from `start` on.
    fn print(
        &self,
        start: u64,
        buf: &mut [u8],
        command: impl Fn(u64, usize) -> String,
    ) -> Result<(), ReadError> {
        let mut at = start;
        for chunk in buf.chunks_mut(text::AT_ONCE) {
            let command = command(at, chunk.len());
            let long = chunk.len() > text::QUICK;
            let reply = self.ask(long, |monitor, deadline| monitor.hmp(&command, deadline))?;
            if !text::parse(&reply, chunk) {
                return Err(ReadError::Refused(text::words(&reply)));
            }
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// Fill `buf` from an effective address as processor `cpu` translates it
    /// at this moment, through the guest's own page tables. For addresses
    /// that no rule maps, such as a stack in vmalloc space.
    ///
    /// # Errors
    /// [`ReadError::Refused`] where nothing is mapped, otherwise as QEMU
    /// fails.
    pub fn read_effective(
        &self,
        cpu: u64,
        effective: u64,
        buf: &mut [u8],
    ) -> Result<(), ReadError> {
        if self.scratch.is_none() && cpu == 0 {
            return self.print(effective, buf, text::command_effective);
        }
        self.save(effective, buf, |monitor, at, len, path, deadline| {
            monitor.memsave(at, len, path, cpu, deadline)
        })
    }
}

impl Memory for LiveMemory {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if !is_ram(&self.ram, real, buf.len() as u64) {
            self.missed.store(true, Ordering::Relaxed);
            return Err(ReadError::NotRam { address: real, len: buf.len() as u64 });
        }
        let direct = *lock(&self.direct);
        if let Direct::Trusted(pid) = direct {
            match self.read_process(pid, real, buf) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if process::is_gone(&error) => return Err(ReadError::Gone),
                Err(error) if process::is_forbidden(&error) => {
                    *lock(&self.direct) = Direct::Forbidden;
                }
                // Memory that was there is not: QEMU has moved it. The next
                // refresh finds out.
                Err(_) => *lock(&self.direct) = Direct::Untrusted,
            }
        }
        if self.scratch.is_some() && !self.save_refused.load(Ordering::Relaxed) {
            match self.read_save(real, buf) {
                Err(ReadError::Refused(_) | ReadError::Io(_)) => {
                    self.save_refused.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.read_text(real, buf)
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}

impl From<monitor::Error> for ReadError {
    fn from(error: monitor::Error) -> Self {
        match error {
            monitor::Error::Gone => Self::Gone,
            monitor::Error::Silent => Self::Silent,
            monitor::Error::Refused(words) => Self::Refused(words),
            monitor::Error::Malformed(_) | monitor::Error::Io(_) => {
                Self::Io(std::io::Error::other(error))
            }
        }
    }
}

/// A panic elsewhere leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ascending ranges with adjacent ones joined.
fn merged<'a>(ranges: impl Iterator<Item = &'a Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
