//! From a kernel's names to its log buffer.
//!
//! Which format it is follows from which names exist, not from a version:
//! vendors backport.

use super::names::Names;
use super::scan;
use crate::guest::View;
use crate::printk::bytes::{ByteLog, ByteSymbols};
use crate::printk::ringbuffer::{Ring, RingHints};
use crate::printk::variable::{VariableLog, VariableSymbols};
use crate::printk::{Error, LogBuffer};

/// Why names did not lead to a log buffer.
#[derive(Debug)]
pub enum LocateError {
    /// None of the formats' names is among them.
    NoName,
    /// What they lead to is no log buffer.
    Printk(Error),
}

impl std::fmt::Display for LocateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoName => {
                f.write_str("no symbol of the log (prb, log_next_idx, log_end) is among them")
            }
            Self::Printk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LocateError {}

impl<E: Into<Error>> From<E> for LocateError {
    fn from(error: E) -> Self {
        Self::Printk(error.into())
    }
}

/// The log buffer that `names` lead to, in a kernel that runs `displacement`
/// bytes above where it was linked to.
///
/// # Errors
/// [`LocateError`].
pub fn locate(view: &View<'_>, names: &Names, displacement: u64) -> Result<LogBuffer, LocateError> {
    let address = |name| Some(names.address(name)?.wrapping_add(displacement));
    // 5.10 (896fbe20b4e2 "printk: use the lockless ringbuffer"): `prb` points
    // to the ring in use, the static one until setup_log_buf() and, with
    // log_buf_len= or many CPUs, a dynamic one from then on.
    if let Some(prb) = address("prb") {
        let ring = view.word(prb)?;
        return Ok(LogBuffer::Ringbuffer(Ring::open_with(view, ring, ring_hints(names, view))?));
    }
    // 3.5 (7ff9554bb578 "printk: convert byte-buffer to variable-length record
    // buffer"): byte offsets of the first record and of the next.
    if let (Some(first_idx), Some(next_idx)) = (address("log_first_idx"), address("log_next_idx")) {
        let wanted = |name| address(name).ok_or(LocateError::NoName);
        let symbols = VariableSymbols {
            log_buf: wanted("log_buf")?,
            log_buf_len: wanted("log_buf_len")?,
            first_seq: wanted("log_first_seq")?,
            first_idx,
            next_seq: wanted("log_next_seq")?,
            next_idx,
            cont: address("cont"),
        };
        return Ok(LogBuffer::Variable(VariableLog::open(view, symbols)?));
    }
    // Before: a ring of bytes, and how many were ever written to it.
    if let Some(log_end) = address("log_end") {
        let wanted = |name| address(name).ok_or(LocateError::NoName);
        let symbols = ByteSymbols {
            log_buf: wanted("log_buf")?,
            log_buf_len: wanted("log_buf_len")?,
            log_end,
            logged_chars: address("logged_chars"),
        };
        return Ok(LogBuffer::Bytes(ByteLog::open(view, symbols)?));
    }
    Err(LocateError::NoName)
}

/// The log buffer that a scan found, without any names; `None` where only the
/// text of one was found.
///
/// # Errors
/// As [`locate`].
pub fn open_found(view: &View<'_>, found: &scan::Kind) -> Result<Option<LogBuffer>, Error> {
    Ok(Some(match *found {
        scan::Kind::Blocks { .. } => return Ok(None),
        scan::Kind::Ringbuffer { prb, info_size, .. } => {
            let hints = RingHints { info_stride: info_size };
            LogBuffer::Ringbuffer(Ring::open_with(view, prb, hints)?)
        }
        scan::Kind::Variable { buffer, len, first_idx, .. } => {
            let size = usize::try_from(len).unwrap_or(usize::MAX);
            let first = usize::try_from(first_idx).unwrap_or(usize::MAX);
            LogBuffer::Variable(VariableLog::chain(view, buffer, size, first)?)
        }
        scan::Kind::Bytes { start, end, .. } => {
            let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
            LogBuffer::Bytes(ByteLog::text(view, start, len)?)
        }
    }))
}

/// What the symbols' sizes say of the ring: `_printk_rb_static_descs` holds
/// as many descriptors, of three words each, as `_printk_rb_static_infos`
/// holds infos.
fn ring_hints(names: &Names, view: &View<'_>) -> RingHints {
    let size = |name: &str| names.symbols.get(name).map(|symbol| symbol.size);
    let stride = || {
        let desc = 3 * view.arch().word.bytes() as u64;
        let count = size("_printk_rb_static_descs")? / desc;
        usize::try_from(size("_printk_rb_static_infos")?.checked_div(count)?).ok()
    };
    RingHints { info_stride: stride().filter(|stride| *stride > 0) }
}
