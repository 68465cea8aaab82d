//! Finding the log with no names at all: the structures of every format are
//! recognised in guest RAM by what must hold within them.
//!
//! Low memory comes first, since a kernel on Power runs near address 0 and
//! its log is in its data unless it asked for a larger one. Nothing is
//! anchored on the banner: a kernel that hangs early has not printed it.
//! Records are not read here, only found; what is found is one of three
//! things that must not be mixed up: a log in use, one in which nothing was
//! logged yet, or mere images of a kernel that was not entered.
//!
//! Guest memory is hostile: a look at a place is bounded, the number of
//! closer looks too, so that a scan takes the time of reading whatever is
//! there.

#![deny(clippy::indexing_slicing)]

mod blocks;
mod peek;
mod records;
mod ring;
mod sieve;
#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests;
mod text;
mod variable;

use std::ops::{ControlFlow, Range};

use crate::arch::{Arch, Endian, Word};
use crate::guest::{AddressRule, Memory, ReadError, ram_at};
use crate::kernel::types;

use peek::Peek;
use records::Row;
use ring::{Head, Ring, Shape};
use sieve::{Hint, Pairs, Wanted};
use text::Text;
use variable::Variable;

/// Where the first part of a scan ends: a kernel with its data fits below.
const LOW: u64 = 64 << 20;

/// How much is read at a time: so little that the sieve finds it in the
/// nearest cache.
const CHUNK: u64 = 256 << 10;

/// How much where each transfer has a cost of its own, as through a monitor.
const LARGE_CHUNK: u64 = 4 << 20;

/// Bytes a microsecond below which that is taken to be so.
const SLOW: u64 = 1000;

/// How much of the next chunk is read along, so that what begins near the
/// end of one can be seen whole.
const AHEAD: u64 = 512;

/// Closer looks granted to one scan, for a guest that fills RAM with
/// pretended rings; a real one has a handful.
const MAX_LOOKS: usize = 512;

/// Rings kept, likewise.
const MAX_RINGS: usize = 32;

/// Bytes looked at in places that might be of the older formats.
const MAX_WORK: u64 = 256 << 20;

/// Rows and stretches of the older formats kept.
const MAX_BUFFERS: usize = 4096;

/// Of these, how many are worth looking for a variable.
const MAX_OLD: usize = 8;

/// A log in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The real address of its first byte.
    pub real: u64,
    /// The kernel's effective address of the same.
    pub effective: u64,
    /// What the kernel was compiled for.
    pub arch: Arch,
    /// How its addresses become real ones.
    pub rule: AddressRule,
    /// Which format, and what its decoder has to be told.
    pub kind: Kind,
    /// A variable of the kernel points at it. Without, it is the likeliest
    /// of what was seen.
    pub confirmed: bool,
}

/// A found log's format, with addresses as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 5.10 and later.
    Ringbuffer {
        /// Effective address of the `struct printk_ringbuffer`.
        prb: u64,
        /// Nothing was logged in it yet: the kernel hung before its first
        /// message, or was loaded to where it runs and not yet entered.
        /// Memory cannot tell these apart.
        empty: bool,
        /// `sizeof(struct printk_info)`, where the infos tell.
        info_size: Option<usize>,
    },
    /// 3.5 to 5.9.
    Variable {
        /// Effective address of the buffer.
        buffer: u64,
        /// Its length: the kernel's own `log_buf_len` where that showed, else
        /// the least power of two that holds the records; never more than
        /// there is RAM.
        len: u64,
        /// Where the oldest record is, counted from the buffer
        /// (`log_first_idx`).
        first_idx: u32,
        /// Where the next will go (`log_next_idx`).
        next_idx: u32,
        /// `sizeof(struct printk_log)`: 16, 20 or 24.
        header: usize,
    },
    /// Before 3.5.
    Bytes {
        /// Effective address of the first byte of text, which is the buffer's
        /// unless that holds stray bytes.
        start: u64,
        /// Past the last one.
        end: u64,
        /// Where the oldest message is: `start`, or past the newest message
        /// of a ring that was written around.
        oldest: u64,
    },
    /// Nothing but the text ring of 5.10 and later: a dump of `__log_buf`
    /// alone, or a ring of which nobody tells how it is laid out. There are
    /// no descriptors to decode, only blocks to salvage.
    Blocks {
        /// Effective address of the text ring.
        data: u64,
        /// Its size, a power of two.
        size: u64,
        /// How many bytes of it there are; the rest was not dumped.
        len: u64,
    },
}

/// A piece of guest memory.
struct Piece<'a> {
    /// Its real address.
    start: u64,
    /// What is in it, and some of what comes after.
    bytes: &'a [u8],
    /// How much of these is its own.
    len: usize,
}

/// What a scan of guest memory led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel's log; for a ring, look whether it is empty.
    Live(Found),
    /// Images of a kernel's data as the compiler made it, at these real
    /// addresses, and no ring in use: no kernel was entered yet.
    OnlyPristine(Vec<u64>),
    /// Nothing that looks like a log of any format.
    Nothing,
}

/// A scan's result, and what it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was found.
    pub verdict: Verdict,
    /// Real addresses of rings that were seen and put aside: stale twins, and
    /// the one given up for a larger.
    pub stale: Vec<u64>,
    /// How many bytes were read to find it.
    pub read: u64,
}

/// Called after each piece read with the bytes done and those there are at
/// most; to break off cancels the scan.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Look for the kernel's log in all of guest RAM.
///
/// # Errors
/// [`ReadError::Cancelled`] when `progress` says so, otherwise as reading
/// fails. Places that turn out not to be RAM are passed over.
pub fn scan(memory: &dyn Memory, progress: Progress<'_>) -> Result<Outcome, ReadError> {
    let mut scan = Scan::new(memory, progress);
    let verdict = scan.run()?;
    let reported = |real: &u64| match &verdict {
        Verdict::Live(found) => found.real == *real,
        Verdict::OnlyPristine(all) => all.contains(real),
        Verdict::Nothing => false,
    };
    let seen = scan.rings.iter().map(|ring| ring.head.real).chain(scan.pristine.iter().copied());
    let mut stale: Vec<u64> = seen.filter(|real| !reported(real)).collect();
    stale.sort_unstable();
    stale.dedup();
    Ok(Outcome { verdict, stale, read: scan.done })
}

struct Scan<'a> {
    memory: &'a dyn Memory,
    peek: Peek<'a>,
    progress: Progress<'a>,
    /// How much is read at a time.
    chunk: u64,
    done: u64,
    total: u64,
    looks: usize,
    /// What a ring may look like.
    shapes: Vec<Shape>,
    /// Rings whose pointers lead to arrays.
    rings: Vec<Ring>,
    /// Heads as the compiler made them.
    pristine: Vec<u64>,
    /// Bytes looked at for the older formats, in places the sieve picked.
    work: u64,
    /// Rows of records (format B), ascending and disjoint.
    rows: Vec<Row>,
    /// Stretches of messages (format A).
    texts: Vec<Text>,
    /// Where the last stretch of text ended.
    text_floor: u64,
    /// The text ring with most blocks that none of the shapes leads to, and
    /// how many there are.
    block: Option<(usize, blocks::Blocks)>,
    /// Closer looks at such.
    block_looks: usize,
}

impl<'a> Scan<'a> {
    fn new(memory: &'a dyn Memory, progress: Progress<'a>) -> Self {
        Self {
            memory,
            peek: Peek::new(memory),
            progress,
            chunk: CHUNK,
            done: 0,
            total: memory.ram().iter().map(|range| range.end.saturating_sub(range.start)).sum(),
            looks: 0,
            shapes: Shape::known(),
            rings: Vec::new(),
            pristine: Vec::new(),
            work: 0,
            rows: Vec::new(),
            texts: Vec::new(),
            text_floor: 0,
            block: None,
            block_looks: 0,
        }
    }

    fn run(&mut self) -> Result<Verdict, ReadError> {
        let (low, high) = split(self.memory.ram());
        let mut pairs = Pairs::KNOWN;
        if self.rings_in(&low, pairs)? {
            return self.verdict(&low);
        }
        // A kernel with a ring like no other may carry its types.
        let told = match self.live() {
            None => types::unknown_in(self.memory, LOW),
            Some(_) => None,
        };
        if let Some((arch, layout)) = &told {
            let shape = Shape::told(*arch, layout);
            (self.shapes, self.looks) = (vec![shape], 0);
            pairs = Pairs::told(shape.head.count_bits, shape.head.size_bits);
            let before = self.done;
            if self.rings_in(&low, pairs)? {
                return self.verdict(&low);
            }
            self.done = before;
        }
        // Any image of a ring speaks for 5.10 or later. Without one, the
        // older formats are looked for, in low memory first again.
        let old = self.rings.is_empty() && self.pristine.is_empty() && told.is_none();
        let mut rings = Some(pairs);
        if old {
            let before = self.done;
            let _ = self.ranges(&low, Wanted { rings: None, old })?;
            self.done = before;
            match self.old(&low)? {
                Some((found, true)) => return Ok(Verdict::Live(found)),
                Some((found, false)) if found.confirmed => rings = None,
                _ => {}
            }
        }
        let _ = self.ranges(&high, Wanted { rings, old })?;
        self.follow_prb()?;
        self.verdict(&low)
    }

    /// Look for rings alone; whether low memory has all there is to find. It
    /// has, too, where a kernel hung before its first message.
    fn rings_in(&mut self, low: &[Range<u64>], pairs: Pairs) -> Result<bool, ReadError> {
        let wanted = Wanted { rings: Some(pairs), old: false };
        let all = self.ranges(low, wanted)?.is_break() || self.follow_prb()?;
        Ok(all || self.live().is_some_and(|(_, confirmed)| confirmed))
    }

    /// Sieve some ranges; break when the log is found beyond doubt.
    fn ranges(
        &mut self,
        ranges: &[Range<u64>],
        wanted: Wanted,
    ) -> Result<ControlFlow<()>, ReadError> {
        let mut buf = Vec::new();
        for range in ranges {
            let mut start = range.start;
            while start < range.end {
                let len = self.chunk.min(range.end - start);
                if self.piece(start, len, &mut buf, wanted)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                start += len;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn piece(
        &mut self,
        start: u64,
        len: u64,
        buf: &mut Vec<u8>,
        wanted: Wanted,
    ) -> Result<ControlFlow<()>, ReadError> {
        let end = self.peek.range(start).map_or(start + len, |range| range.end);
        let ahead = AHEAD.min(end.saturating_sub(start + len));
        buf.resize(usize::try_from(len + ahead).unwrap_or(0), 0);
        let begin = std::time::Instant::now();
        read_around_holes(self.memory, start, buf)?;
        let bytes_a_microsecond = u128::from(len) / begin.elapsed().as_micros().max(1);
        self.chunk = match bytes_a_microsecond < u128::from(SLOW) {
            true => LARGE_CHUNK.min(2 * self.chunk),
            // A busy machine may make one look slow, but not the next.
            false => CHUNK,
        };
        self.done += len;
        let wanted = Wanted { old: wanted.old && !self.is_weary(), ..wanted };
        if wanted.old && start < LOW {
            let piece = Piece { start, bytes: buf, len: buf.len().min(len as usize) };
            let found = blocks::first(&self.peek, &piece, &mut self.block_looks);
            self.block = self.block.take().into_iter().chain(found).max_by_key(|(row, _)| *row);
        }
        let mut hits = Vec::new();
        sieve::sieve(buf, wanted, &mut |hint, at| {
            if (at as u64) < len {
                hits.push((hint, at));
            }
        });
        for (hint, at) in hits {
            let real = start + at as u64;
            match hint {
                Hint::Ring => {
                    if self.ring(buf.get(at..).unwrap_or_default(), real).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Hint::Record => self.record(real),
                Hint::Prefix => self.prefix(real),
            }
        }
        self.peek.failure()?;
        if (self.progress)(self.done, self.total).is_break() {
            return Err(ReadError::Cancelled);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A closer look at a place that may be a ring.
    fn ring(&mut self, bytes: &[u8], real: u64) -> ControlFlow<()> {
        // What was recognised is not always what a ring begins with.
        let first = |shape: &Shape| shape.head.count_bits.min(shape.head.size_bits);
        let before = self.shapes.first().map_or(0, first);
        let head = match before {
            0 => Head::parse(bytes, real, &self.shapes),
            _ => real
                .checked_sub(before as u64)
                .and_then(|real| Head::at(real, &self.peek, &self.shapes)),
        };
        let Some(head) = head else { return ControlFlow::Continue(()) };
        let real = head.real;
        if head.pristine && self.pristine.len() < MAX_RINGS {
            self.pristine.push(real);
        }
        if self.looks >= MAX_LOOKS || self.rings.len() >= MAX_RINGS {
            return ControlFlow::Continue(());
        }
        self.looks += 1;
        if let Some(ring) = head.follow(&self.peek) {
            self.rings.push(ring);
            if self.live().is_some_and(|(ring, confirmed)| confirmed && !ring.empty) {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether closer looks for the older formats have become too many: a
    /// guest may fill RAM with places that take long to refute.
    fn is_weary(&self) -> bool {
        self.work > MAX_WORK || self.rows.len() + self.texts.len() >= MAX_BUFFERS
    }

    /// A closer look at a place that may be a record of format B.
    fn record(&mut self, real: u64) {
        let known = self.rows.last().is_some_and(|row| real < row.end);
        if known || self.is_weary() {
            return;
        }
        if let Some(row) = records::row(&self.peek, real, &mut self.work) {
            self.rows.push(row);
        }
    }

    /// A closer look at a place that may be a message of format A.
    fn prefix(&mut self, real: u64) {
        if real < self.text_floor || self.is_weary() {
            return;
        }
        let (text, end) = text::text(&self.peek, real, self.text_floor, &mut self.work);
        self.text_floor = end;
        self.texts.extend(text);
    }

    /// The log of an older format: the one with most messages that a variable
    /// in low memory points at, else of all; and whether it is in use beyond
    /// doubt. Where an image of the kernel lies as it was loaded, a variable in
    /// it points at the first buffer also once that was given up for a larger
    /// one; the kernel's own does so only as long as it was not.
    fn old(&mut self, low: &[Range<u64>]) -> Result<Option<(Found, bool)>, ReadError> {
        let mut likely: Vec<Old> = records::buffers(&self.rows)
            .into_iter()
            .map(Old::Records)
            .chain(self.texts.iter().cloned().map(Old::Text))
            .collect();
        likely.sort_by_key(|old| std::cmp::Reverse(old.weight()));
        likely.truncate(MAX_OLD);
        let named = self.named(low, &likely)?;
        let named = likely.iter().zip(named);
        let best = named.max_by_key(|(old, (named, _))| (named.is_some(), old.weight()));
        Ok(best.map(|(old, (variable, count))| (old.found(variable, self.peek.ram()), count > 1)))
    }

    /// For each buffer, a variable in low memory that points at it, and how
    /// many do that stand beside the buffer's length, as `log_buf` does.
    fn named(
        &mut self,
        low: &[Range<u64>],
        likely: &[Old],
    ) -> Result<Vec<(Option<Variable>, usize)>, ReadError> {
        let mut named = vec![(None, 0); likely.len()];
        if likely.is_empty() {
            return Ok(named);
        }
        let mut buf = Vec::new();
        for range in low {
            let mut start = range.start;
            while start < range.end {
                let len = self.chunk.min(range.end - start);
                buf.resize(usize::try_from(len).unwrap_or(0), 0);
                read_around_holes(self.memory, start, &mut buf)?;
                for (old, (named, count)) in likely.iter().zip(&mut named) {
                    let (real, used) = old.extent();
                    let Some(found) = variable::find(&buf, real, used) else { continue };
                    *count += usize::from(found.len.is_some());
                    *named = named.filter(|named| named.len.is_some()).or(Some(found));
                }
                start += len;
            }
        }
        Ok(named)
    }

    /// The ring in use among those seen, and whether a `prb` points at it.
    fn live(&self) -> Option<(&Ring, bool)> {
        let named = |ring: &Ring| self.rings.iter().any(|other| other.names(ring));
        let best = self.rings.iter().map(|ring| (ring, named(ring))).max_by_key(|(ring, named)| {
            // Of two equal ones the lower, hence the one seen first.
            (*named && !ring.empty, !ring.empty, *named, std::cmp::Reverse(ring.head.real))
        });
        // An empty ring that nothing points at is a stale twin.
        best.filter(|(ring, named)| *named || !ring.empty)
    }

    /// Rings that were used and that nothing names were given up for another
    /// one (`setup_log_buf()`): see where the variables beside them lead.
    fn follow_prb(&mut self) -> Result<bool, ReadError> {
        if !self.live().is_some_and(|(_, confirmed)| confirmed) {
            let named: Vec<Ring> = self
                .rings
                .iter()
                .filter(|ring| !ring.empty)
                .take(4)
                .flat_map(|ring| ring.named(&self.peek))
                .collect();
            self.rings.extend(named);
            self.rings.sort_by_key(|ring| ring.head.real);
            self.rings.dedup_by_key(|ring| ring.head.real);
            self.peek.failure()?;
        }
        Ok(self.live().is_some_and(|(ring, confirmed)| confirmed && !ring.empty))
    }

    fn verdict(&mut self, low: &[Range<u64>]) -> Result<Verdict, ReadError> {
        if let Some((ring, confirmed)) = self.live() {
            let prb = ring.effective();
            return Ok(Verdict::Live(Found {
                real: ring.head.real,
                effective: prb,
                arch: ring.head.arch,
                rule: ring.rule,
                kind: Kind::Ringbuffer { prb, empty: ring.empty, info_size: ring.info_size },
                confirmed,
            }));
        }
        if !self.pristine.is_empty() {
            return Ok(Verdict::OnlyPristine(self.pristine.clone()));
        }
        let found = match self.old(low)? {
            Some((found, _)) if found.confirmed => Some(found),
            old => self.blocks().or(old.map(|(found, _)| found)),
        };
        Ok(found.map_or(Verdict::Nothing, Verdict::Live))
    }

    /// A buffer that only its text tells.
    fn blocks(&mut self) -> Option<Found> {
        let best = self.block.take().map(|(_, blocks)| blocks);
        // Memory so small may be a buffer and nothing else.
        let all = || blocks::find(&self.peek).filter(|_| self.total <= LOW);
        let blocks = best.or_else(all)?;
        let rule = match blocks.arch.word {
            Word::W64 => AddressRule::Linear64,
            Word::W32 => AddressRule::PPC32,
        };
        let data = rule.effective(blocks.real);
        // Of a length that was asked for only the powers of two can be meant.
        let size = blocks.size.unwrap_or_else(|| 1 << blocks.len.max(1).ilog2());
        let kind = Kind::Blocks { data, size, len: blocks.len.min(size) };
        let (real, arch) = (blocks.real, blocks.arch);
        Some(Found { real, effective: data, arch, rule, kind, confirmed: false })
    }
}

/// A buffer of a format before 5.10.
enum Old {
    Records(records::Buffer),
    Text(Text),
}

impl Old {
    /// Records are surer than text, more are surer than few.
    const fn weight(&self) -> (bool, usize) {
        match self {
            Self::Records(buffer) => (true, buffer.records),
            Self::Text(text) => (false, text.lines),
        }
    }

    /// Where it begins, and how long it is at least.
    const fn extent(&self) -> (u64, u64) {
        match self {
            Self::Records(buffer) => (buffer.start, buffer.end - buffer.start),
            Self::Text(text) => (text.start, text.end - text.start),
        }
    }

    fn found(&self, variable: Option<Variable>, ram: &[Range<u64>]) -> Found {
        let (real, used) = self.extent();
        // Without a variable 64-bit is assumed; big endian, where the bytes
        // do not tell, as little endian came in 3.13.
        let (arch, rule) = match (&variable, self) {
            (Some(variable), _) => (variable.arch, variable.rule),
            (None, Self::Records(records::Buffer { endian: Endian::Little, .. })) => {
                (Arch::PPC64LE, AddressRule::Linear64)
            }
            (None, _) => (Arch::PPC64, AddressRule::Linear64),
        };
        let effective = rule.effective(real);
        let len = variable.and_then(|variable| variable.len);
        let len = len.unwrap_or_else(|| used.max(4 << 10).next_power_of_two());
        // Of a dump that holds less, what there is.
        let there = ram_at(ram, real);
        let len = there.map_or(used, |range| len.min(range.end - real));
        let kind = match self {
            Self::Records(buffer) => Kind::Variable {
                buffer: effective,
                len,
                first_idx: u32::try_from(buffer.first - real).unwrap_or(0),
                next_idx: u32::try_from(buffer.next - real).unwrap_or(0),
                header: buffer.header as usize,
            },
            Self::Text(text) => Kind::Bytes {
                start: effective,
                end: effective + used,
                oldest: effective + (text.oldest - real),
            },
        };
        Found { real, effective, arch, rule, kind, confirmed: variable.is_some() }
    }
}

/// RAM below [`LOW`], and the rest.
fn split(ram: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let clip = |from: u64, to: u64| {
        let clipped = ram.iter().map(move |range| range.start.max(from)..range.end.min(to));
        clipped.filter(|range| !range.is_empty()).collect()
    };
    (clip(0, LOW), clip(LOW, u64::MAX))
}

/// Fill `buf`; pieces that are no RAM after all, or that a dump has damaged,
/// are left zero.
fn read_around_holes(memory: &dyn Memory, start: u64, buf: &mut [u8]) -> Result<(), ReadError> {
    match memory.read(start, buf) {
        Err(error) if is_hole(&error) => {}
        other => return other,
    }
    const PIECE: usize = 64 << 10;
    for (index, piece) in buf.chunks_mut(PIECE).enumerate() {
        match memory.read(start + (index * PIECE) as u64, piece) {
            Err(error) if is_hole(&error) => piece.fill(0),
            other => other?,
        }
    }
    Ok(())
}

/// Whether a failure is of one place only.
fn is_hole(error: &ReadError) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        ReadError::NotRam { .. } => true,
        ReadError::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => false,
    }
}
