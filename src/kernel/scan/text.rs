//! Format A, before 3.5: recognising a ring of text.
//!
//! Every message was stored with its `<N>` in front, so the buffer is a long
//! stretch of text whose lines begin so. A kernel's own strings (`KERN_INFO`
//! was `"<6>"`) have the prefixes too, but a NUL after each message.

use super::peek::Peek;
use super::records::is_text;

/// Lines with a prefix that make a log.
const ENOUGH: usize = 3;

/// The longest text believed to be one log: `log_buf_len=` of the time.
const LONGEST: u64 = 32 << 20;

/// A stretch of messages.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub start: u64,
    pub end: u64,
    /// Where the oldest message begins, if the ring was written around.
    pub oldest: u64,
    pub lines: usize,
}

/// The text that the prefix at `real` stands in. The second value is where
/// the text ends in any case, so that no part is looked at twice; nothing
/// before `floor` is.
pub(super) fn text(peek: &Peek<'_>, real: u64, floor: u64, work: &mut u64) -> (Option<Text>, u64) {
    let start = begin(peek, real, floor, work);
    let (end, bytes) = read(peek, start, work);
    let lines = || bytes.split_inclusive(|byte| *byte == b'\n');
    let prefixed = lines().filter(|line| has_prefix(line)).count();
    if prefixed < ENOUGH || prefixed * 2 < lines().count() {
        return (None, end);
    }
    let oldest = start + seam(&bytes) as u64;
    (Some(Text { start, end, oldest, lines: prefixed }), end)
}

/// Go back to where the text begins.
fn begin(peek: &Peek<'_>, real: u64, floor: u64, work: &mut u64) -> u64 {
    let mut start = real;
    while start > floor {
        let piece = (start - floor).min(256);
        let mut raw = [0; 256];
        let Some(raw) = raw.get_mut(..piece as usize) else { break };
        *work += piece;
        if !peek.fill(start - piece, raw) || real - start > LONGEST {
            break;
        }
        match raw.iter().rposition(|byte| !is_text(*byte)) {
            Some(at) => return start - piece + at as u64 + 1,
            None => start -= piece,
        }
    }
    start
}

/// The text from `start` on, and where it ends.
fn read(peek: &Peek<'_>, start: u64, work: &mut u64) -> (u64, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut raw = [0; 4096];
    let mut end = start;
    while end - start < LONGEST {
        let Some(range) = peek.range(end) else { break };
        let piece = usize::try_from(range.end - end).unwrap_or(usize::MAX).min(raw.len());
        let Some(raw) = raw.get_mut(..piece) else { break };
        *work += piece as u64;
        if !peek.fill(end, raw) {
            break;
        }
        let len = raw.iter().position(|byte| !is_text(*byte)).unwrap_or(piece);
        bytes.extend_from_slice(raw.get(..len).unwrap_or_default());
        end += len as u64;
        if len < piece {
            break;
        }
    }
    (end, bytes)
}

fn has_prefix(line: &[u8]) -> bool {
    matches!(line, [b'<', b'0'..=b'7', b'>', ..])
}

/// Where the oldest message begins: after the last line of those whose times
/// (`printk.time`) rise, if they ever fall. Without times nothing tells.
fn seam(bytes: &[u8]) -> usize {
    let mut newest: Option<(u64, usize)> = None;
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        let Some(time) = time(line) else { continue };
        match newest {
            Some((before, end)) if time < before => return end,
            _ => newest = Some((time, at)),
        }
    }
    0
}

/// The microseconds of `<6>[   12.345678] `.
fn time(line: &[u8]) -> Option<u64> {
    let line = line.get(3..).filter(|_| has_prefix(line))?.strip_prefix(b"[")?;
    let stamp = line.get(..line.iter().position(|byte| *byte == b']')?)?;
    let stamp = std::str::from_utf8(stamp).ok()?.trim_start();
    let (seconds, micros) = stamp.split_once('.')?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?)
}
