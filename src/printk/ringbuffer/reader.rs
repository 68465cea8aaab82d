//! A ring's records, decoded batch by batch: descriptors, then infos, then
//! text, then whatever moved meanwhile.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use super::{Ring, Scheme, Window};
use crate::arch::Bytes;
use crate::guest::{ReadError, View};
use crate::printk::Error;
use crate::printk::fetch::fetch_ring;
use crate::printk::layout::{
    COMMITTED, Desc, EMPTY_LINE_LPOS, FINALIZED, Info, Marks, REUSABLE, Words,
};
use crate::printk::record::{Device, Entry, Loss, Record, State, push_lost};

/// How many records are decoded at a time: enough that a read's round trip
/// does not matter, few enough that the pieces stay in the host's caches.
const BATCH: u64 = 1 << 14;

/// Decodes a ring's records batch by batch.
pub(super) struct Reader<'a, 'v> {
    ring: &'a Ring,
    view: &'a View<'v>,
    words: Words,
    marks: Marks,
    scheme: Scheme,
    pub(super) entries: Vec<Entry>,
    /// The sequence number expected next; nothing was decoded before it.
    next_seq: u64,
    /// Text that may still be produced: no more than the ring can hold.
    text_left: u64,
    /// Text that may still be read: some more, as batches may overlap.
    fetch_left: u64,
    /// The logical position that text offsets count from.
    oldest_text: u64,
    descs: Vec<u8>,
    again: Vec<u8>,
    infos: Vec<u8>,
    text: Vec<u8>,
    fates: Vec<Fate>,
}

/// What has been found of one descriptor.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost(Loss),
    /// A record without text.
    Empty(State),
    /// A text block at `offset` from the oldest text, `len` bytes with all
    /// that belongs to it.
    Block {
        offset: u64,
        len: u64,
        state: State,
    },
    /// As a descriptor that says its text lies outside the ring's text; so
    /// may look one that was written while we read.
    Outside,
}

impl<'a, 'v> Reader<'a, 'v> {
    pub(super) fn new(
        ring: &'a Ring,
        view: &'a View<'v>,
        marks: Marks,
        scheme: Scheme,
        next_seq: u64,
    ) -> Self {
        let size = ring.data_size();
        Self {
            ring,
            view,
            words: ring.words(),
            marks,
            scheme,
            entries: Vec::new(),
            next_seq,
            text_left: size,
            fetch_left: size.saturating_mul(4),
            oldest_text: 0,
            descs: Vec::new(),
            again: Vec::new(),
            infos: Vec::new(),
            text: Vec::new(),
            fates: Vec::new(),
        }
    }

    pub(super) fn run(&mut self, window: Window) -> Result<(), Error> {
        // What is older than the oldest descriptor was overwritten.
        if window.seq > self.next_seq {
            self.lose(window.seq - self.next_seq, Loss::Overwritten);
        }
        let mut done = 0;
        while done < window.count {
            let count = BATCH.min(window.count - done);
            let first = self.words.id_plus(window.first, done);
            self.batch(first, count)?;
            done += count;
        }
        Ok(())
    }

    /// Decode `count` records from id `first`; `count` is at most `BATCH`
    /// and at most the ring's.
    fn batch(&mut self, first: u64, count: u64) -> Result<(), Error> {
        self.fetch_descs(first, count, false)?;
        let live = self.live(first, count as usize);
        if live.is_empty() {
            self.lose(count, Loss::Overwritten);
            return Ok(());
        }
        // Text is overwritten sooner than descriptors are, so a ring that
        // has come round begins with many that have nothing to tell.
        if live.start > 0 {
            self.lose(live.start as u64, Loss::Overwritten);
        }
        let first_live = self.words.id_plus(first, live.start as u64);
        let stride = self.scheme.form.stride as u64;
        fetch_ring(
            self.view,
            self.ring.header.infos,
            (self.ring.count(), stride),
            (first_live, live.len() as u64),
            &mut self.infos,
        )?;
        self.judge(first_live, live.clone());
        let base = self.fetch_text()?;

        let now = self.ring.marks(self.view)?;
        let moved = now != self.marks;
        if moved {
            self.fetch_descs(first, count, true)?;
        }
        self.settle(first_live, live.clone(), moved);
        self.tell(first_live, base);
        let after = count - live.end as u64;
        if after > 0 {
            self.lose(after, Loss::Overwritten);
        }
        Ok(())
    }

    fn fetch_descs(&mut self, first: u64, count: u64, again: bool) -> Result<(), ReadError> {
        let buf = if again { &mut self.again } else { &mut self.descs };
        let ring = (self.ring.count(), self.ring.desc.size as u64);
        fetch_ring(self.view, self.ring.header.descs, ring, (first, count), buf)
    }

    /// The places of the batch between leading and trailing reusable ones.
    fn live(&self, first: u64, count: usize) -> Range<usize> {
        let descs = Bytes::new(&self.descs, self.ring.arch);
        let is_live = |place: &usize| {
            let id = self.words.id_plus(first, *place as u64);
            self.ring
                .parse_desc(descs, *place)
                .is_some_and(|desc| desc.state != REUSABLE || desc.id != id)
        };
        match (0..count).find(is_live) {
            Some(start) => start..(start..count).rfind(is_live).map_or(count, |last| last + 1),
            None => 0..0,
        }
    }

    /// Judge every live descriptor by itself and its info.
    fn judge(&mut self, first: u64, live: Range<usize>) {
        let descs = Bytes::new(&self.descs, self.ring.arch);
        let infos = Bytes::new(&self.infos, self.ring.arch);
        self.oldest_text = self.find_oldest_text(descs, live.clone());
        let mut fates = std::mem::take(&mut self.fates);
        fates.clear();
        for (nth, place) in live.enumerate() {
            let id = self.words.id_plus(first, nth as u64);
            let fate = match (
                self.ring.parse_desc(descs, place),
                self.scheme.form.info(infos, nth.saturating_mul(self.scheme.form.stride)),
            ) {
                (Some(desc), Some(info)) => self.judge_one(id, &desc, &info),
                _ => Fate::Lost(Loss::Corrupt),
            };
            fates.push(fate);
        }
        self.fates = fates;
    }

    /// The position of the oldest text, by the header if that can be.
    fn find_oldest_text(&self, descs: Bytes<'_>, live: Range<usize>) -> u64 {
        let Marks { head_lpos, tail_lpos, .. } = self.marks;
        let size = self.ring.data_size();
        if self.words.minus(head_lpos, tail_lpos) <= size {
            return tail_lpos;
        }
        // The header's text positions are damaged: the newest block tells.
        let newest = live
            .rev()
            .filter_map(|place| self.ring.parse_desc(descs, place))
            .find(|desc| matches!(desc.state, COMMITTED | FINALIZED) && desc.next & 1 == 0);
        newest.map_or(0, |desc| self.words.minus(desc.next, size))
    }

    fn judge_one(&self, id: u64, desc: &Desc, info: &Info) -> Fate {
        if desc.id != id {
            let reserving = self.ring.awaits(desc, id);
            return Fate::Lost(if reserving { Loss::Reserved } else { Loss::Corrupt });
        }
        let numbered = self.seq_of(id) == info.seq;
        let state = match desc.state {
            REUSABLE => return Fate::Lost(Loss::Overwritten),
            FINALIZED => State::Complete,
            COMMITTED => State::Open,
            // Everything but the id may still be that of one round before.
            _ if !numbered || info.text_len == 0 => return Fate::Lost(Loss::Reserved),
            _ => State::InProgress,
        };
        if !numbered {
            return Fate::Lost(Loss::Corrupt);
        }
        if desc.begin & desc.next & 1 == 1 {
            // Data-less: an empty line, or FAILED_LPOS where the text ring
            // had no room.
            return match (desc.begin, desc.next) {
                (EMPTY_LINE_LPOS, EMPTY_LINE_LPOS) => Fate::Empty(state),
                _ => Fate::Lost(Loss::NoText),
            };
        }
        let size = self.ring.data_size();
        let len = self.words.minus(desc.next, desc.begin);
        let offset = self.words.minus(desc.begin, self.oldest_text);
        let aligned = (desc.begin | desc.next) & (self.words.size - 1) == 0;
        if !aligned || len < self.words.size || len > size {
            return self.no_text(state);
        }
        if offset >= size || offset + len > size {
            return match state {
                State::InProgress => Fate::Lost(Loss::Reserved),
                _ => Fate::Outside,
            };
        }
        Fate::Block { offset, len, state }
    }

    /// Text that cannot be had: not there yet, or damaged.
    fn no_text(&self, state: State) -> Fate {
        Fate::Lost(if state == State::InProgress { Loss::Reserved } else { Loss::Corrupt })
    }

    /// The sequence number that goes with an id of the ring.
    fn seq_of(&self, id: u64) -> u64 {
        self.scheme.head_seq.wrapping_sub(self.words.id_minus(self.marks.head_id, id))
    }

    /// Read the text of all blocks found. Returns the offset that
    /// `self.text` begins at.
    fn fetch_text(&mut self) -> Result<u64, Error> {
        self.text.clear();
        let spans = self.fates.iter().filter_map(|fate| match fate {
            Fate::Block { offset, len, .. } => Some((*offset, *offset + *len)),
            _ => None,
        });
        let span = spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let Some((low, high)) = span else { return Ok(0) };
        let len = high - low;
        // Blocks are laid one after another, so all batches together read
        // little more than the ring; a ring of lies could make each of them
        // read all of it.
        if len > self.fetch_left {
            return Ok(low);
        }
        self.fetch_left -= len;
        let ring = (self.ring.data_size(), 1);
        let at = self.oldest_text.wrapping_add(low);
        fetch_ring(self.view, self.ring.header.data, ring, (at, len), &mut self.text)?;
        Ok(low)
    }

    /// What the second look at the descriptors leaves of the first: those
    /// taken back since may have lost their text under our eyes.
    fn settle(&mut self, first: u64, live: Range<usize>, moved: bool) {
        let again = Bytes::new(&self.again, self.ring.arch);
        let ring = self.ring;
        for (nth, (place, fate)) in live.zip(&mut self.fates).enumerate() {
            if moved {
                let id = self.words.id_plus(first, nth as u64);
                let stays = ring.parse_desc(again, place).is_some_and(|desc| {
                    (desc.id == id && desc.state != REUSABLE) || ring.awaits(&desc, id)
                });
                if !stays {
                    *fate = Fate::Lost(Loss::Overwritten);
                }
            }
            if let Fate::Outside = fate {
                // Text laid after the header was read is beyond its end.
                *fate = Fate::Lost(if moved { Loss::Reserved } else { Loss::Corrupt });
            }
        }
    }

    /// Turn what was found into entries; `base` is the offset that the text
    /// read begins at.
    fn tell(&mut self, first: u64, base: u64) {
        let fates = std::mem::take(&mut self.fates);
        self.entries.reserve(fates.len());
        for (nth, fate) in fates.iter().enumerate() {
            let id = self.words.id_plus(first, nth as u64);
            let told = match *fate {
                Fate::Lost(why) => Err(why),
                Fate::Outside => Err(Loss::Corrupt),
                Fate::Empty(state) => self.record(nth, &[], state).ok_or(Loss::Corrupt),
                Fate::Block { offset, len, state } => {
                    let text = self.text_of(id, offset, len, base);
                    let record = text.and_then(|text| self.record(nth, text, state));
                    record.ok_or(match state {
                        State::InProgress => Loss::Reserved,
                        _ => Loss::Corrupt,
                    })
                }
            };
            match told {
                Ok(record) => {
                    self.text_left = self.text_left.saturating_sub(record.text.len() as u64);
                    self.entries.push(Entry::Record(record));
                    self.next_seq = self.next_seq.wrapping_add(1);
                }
                Err(why) => self.lose(1, why),
            }
        }
        self.fates = fates;
    }

    /// The text of a block, with what padding follows it.
    fn text_of(&self, id: u64, offset: u64, len: u64, base: u64) -> Option<&[u8]> {
        let bytes = Bytes::new(&self.text, self.ring.arch);
        let block = offset.checked_sub(base)? as usize;
        if bytes.word(block)? != id {
            return None;
        }
        let size = self.ring.data_size();
        let begin = self.oldest_text.wrapping_add(offset) & self.words.mask;
        let last = begin.wrapping_add(len - 1) & self.words.mask;
        // A block that does not fit before the end of the ring leaves its id
        // there and lies at the start. Up to 6.18 that goes also for one
        // that would end exactly at the end, later not; comparing with the
        // last byte instead of the next position is right for both.
        let skipped = if begin / size == last / size {
            0
        } else {
            self.words.minus(last & !(size - 1), begin)
        };
        let text = (block as u64 + skipped + self.words.size) as usize;
        let len = len.checked_sub(skipped + self.words.size)?;
        bytes.slice(text, len as usize)
    }

    /// The record with the `nth` info of the batch, and with as much of
    /// `text` as is its own.
    fn record(&self, nth: usize, text: &[u8], state: State) -> Option<Record> {
        let infos = Bytes::new(&self.infos, self.ring.arch);
        let at = nth.checked_mul(self.scheme.form.stride)?;
        let info = self.scheme.form.info(infos, at)?;
        let text = text.get(..text.len().min(info.text_len))?;
        if text.len() as u64 > self.text_left {
            return None;
        }
        let device = self.scheme.form.device(infos, at).and_then(device_of);
        Some(info.record(device, text.to_vec(), state))
    }

    fn lose(&mut self, count: u64, why: Loss) {
        push_lost(&mut self.entries, self.next_seq, count, why);
        self.next_seq = self.next_seq.wrapping_add(count);
    }
}

/// What a `struct dev_printk_info` names, if anything.
#[inline]
fn device_of([subsystem, device]: [&[u8]; 2]) -> Option<Box<Device>> {
    if subsystem.first() == Some(&0) && device.first() == Some(&0) {
        return None;
    }
    Some(Box::new(Device { subsystem: c_string(subsystem), device: c_string(device) }))
}

/// The bytes before the first NUL.
fn c_string(array: &[u8]) -> Vec<u8> {
    array.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}
