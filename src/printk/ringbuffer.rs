//! The log of 5.10 and later: `struct printk_ringbuffer`.
//!
//! Three rings: descriptors, one `struct printk_info` for each of them, and
//! text blocks that begin with the id of their descriptor. Writers never
//! lock, so a kernel that hangs at any instruction leaves a ring that can be
//! read; this does what the kernel's own reader does, and beyond it shows
//! what a reader in the kernel must not: records still being written.
//!
//! The guest may run while we read. Text is overwritten only after a mark in
//! the header has moved, so the header is read again after the text; if it
//! moved, the descriptors are read again too, and a record whose descriptor
//! was taken back meanwhile counts as overwritten. Torn text never gets out.
//!
//! Where the ring is, is not this module's business; nor is formatting.

#![deny(clippy::indexing_slicing)]

mod reader;

use super::fetch::{fetch, fetch_ring};
use super::layout::{
    COMMITTED, Desc, DescForm, FINALIZED, HeadForm, Header, InfoForm, LARGEST, LayoutSource, Marks,
    REUSABLE, RingLayout, Words,
};
use super::record::{Entry, Format, Log, Loss, State, push_lost};
use super::{Error, Progress, salvage};
use crate::arch::{Arch, Bytes, Word};
use crate::guest::View;
use reader::Reader;

/// Fewest and most `count_bits` believed: `CONFIG_LOG_BUF_SHIFT` is 12 to 25
/// and `log_buf_len=` ends at 2 GiB (`LOG_BUF_LEN_MAX`), 5 bits more each.
const COUNT_BITS: std::ops::RangeInclusive<u32> = 6..=26;

/// How many damaged records are looked for among the text, at most: as many
/// as a ring of 2 MiB has.
const MOST_REPAIRED: u64 = 1 << 16;

/// How many places of the ring are looked at to tell its form.
const PROBED: u64 = 64;

/// What is wrong with most places that are no ring.
const UNFIT: &str = "sizes of text and descriptors do not fit each other";

/// What is known of the ring beforehand, from symbols or debug information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingHints {
    /// `sizeof(struct printk_info)`: the size of `_printk_rb_static_infos`
    /// divided by the number of descriptors.
    pub info_stride: Option<usize>,
}

/// A printk ring of 5.10 or later, found to be well-formed.
#[derive(Clone, Debug)]
pub struct Ring {
    address: u64,
    arch: Arch,
    head: HeadForm,
    desc: DescForm,
    /// Where the kernel's types tell it.
    info: Option<InfoForm>,
    source: LayoutSource,
    header: Header,
    hints: RingHints,
    empty: bool,
}

/// How the ring's infos look and its ids are numbered.
#[derive(Clone, Copy, Debug)]
struct Scheme {
    form: InfoForm,
    /// The sequence number that goes with the newest id.
    head_seq: u64,
}

/// The ids to be read, in order, with their sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    first: u64,
    count: u64,
    /// Sequence number of the first.
    seq: u64,
}

impl Ring {
    /// Open the ring whose `struct printk_ringbuffer` is at effective
    /// address `prb`.
    ///
    /// # Errors
    /// [`Error::Read`] when its memory cannot be read, [`Error::Malformed`]
    /// when it contradicts itself: sizes, or arrays outside RAM. Damage to
    /// single records, or to ids, is no error; see [`Ring::vouch`].
    pub fn open(view: &View<'_>, prb: u64) -> Result<Self, Error> {
        Self::open_with(view, prb, RingHints::default())
    }

    /// [`Ring::open`] with what is known beforehand.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn open_with(view: &View<'_>, prb: u64, hints: RingHints) -> Result<Self, Error> {
        let word = view.arch().word;
        let mut why = UNFIT;
        for head in HeadForm::known(word) {
            match Self::open_as(view, prb, (head, DescForm::known(word), None), hints) {
                Err(Error::Malformed { what, .. }) if what != UNFIT => why = what,
                Err(Error::Malformed { .. }) => {}
                other => return other,
            }
        }
        Err(malformed(prb, why))
    }

    /// [`Ring::open`] of a kernel that is laid out as its own types tell.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn open_told(view: &View<'_>, prb: u64, layout: &RingLayout) -> Result<Self, Error> {
        let form = (layout.head, layout.desc, Some(layout.info));
        let ring = Self::open_as(view, prb, form, RingHints::default())?;
        Ok(Self { source: layout.source, ..ring })
    }

    fn open_as(
        view: &View<'_>,
        prb: u64,
        (head, desc, info): (HeadForm, DescForm, Option<InfoForm>),
        hints: RingHints,
    ) -> Result<Self, Error> {
        let arch = view.arch();
        let raw = read_header(view, prb, &head)?;
        let header =
            Header::parse(Bytes::new(&raw, arch), &head).ok_or_else(|| malformed(prb, UNFIT))?;
        let stride = info.map_or(InfoForm::PLAIN.stride, |info| info.stride);
        check_geometry(view, &header, desc.size, stride).map_err(|what| malformed(prb, what))?;
        let source = LayoutSource::Known;
        let mut ring =
            Self { address: prb, arch, head, desc, info, source, header, hints, empty: false };
        ring.empty = ring.holds_nothing(view, &header.marks)?;
        Ok(ring)
    }

    /// Effective address of the `struct printk_ringbuffer`.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Effective address of the `struct prb_desc` array.
    #[must_use]
    pub const fn descs(&self) -> u64 {
        self.header.descs
    }

    /// Effective address of the `struct printk_info` array.
    #[must_use]
    pub const fn infos(&self) -> u64 {
        self.header.infos
    }

    /// Effective address of the text buffer.
    #[must_use]
    pub const fn data(&self) -> u64 {
        self.header.data
    }

    /// Size of the text buffer in bytes.
    #[must_use]
    pub const fn data_size(&self) -> u64 {
        32 << self.header.count_bits
    }

    /// How many descriptors and infos there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        1 << self.header.count_bits
    }

    /// Who says how it is laid out.
    #[must_use]
    pub const fn source(&self) -> LayoutSource {
        self.source
    }

    /// Whether nothing had been printed when the ring was opened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.empty
    }

    /// Check that ids and descriptors agree, beyond what opening checks:
    /// for finding rings in a sea of other data.
    ///
    /// # Errors
    /// [`Error::Malformed`] says what does not agree.
    pub fn vouch(&self, view: &View<'_>) -> Result<(), Error> {
        let marks = self.marks(view)?;
        self.check_marks(&marks).map_err(|what| malformed(self.address, what))?;
        let head = self.desc(view, marks.head_id)?;
        // A writer that was stopped between taking the id and noting it in
        // the descriptor leaves the id of one round before, or nothing.
        if head.id != marks.head_id && !self.awaits(&head, marks.head_id) {
            return Err(malformed(self.address, "newest descriptor has another id"));
        }
        Ok(())
    }

    /// Whether what was written so far bears out that it is laid out like
    /// this: ids and numbers that go with their places, texts that fit their
    /// blocks, infos of a size that is known. A ring that holds nothing yet
    /// has little to say against it.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Replaced`].
    pub fn is_borne_out(&self, view: &View<'_>) -> Result<bool, Error> {
        let marks = self.marks(view)?;
        if self.vouch(view).is_err() {
            return Ok(false);
        }
        if self.empty {
            return Ok(true);
        }
        let form = self.scheme(view, &marks)?.form;
        if self.info.is_none() && !form.is_known() {
            return Ok(false);
        }
        let (descs, infos) = self.probe(view)?;
        let (descs, infos) = (Bytes::new(&descs, self.arch), Bytes::new(&infos, self.arch));
        let (words, mask) = (self.words(), self.count() - 1);
        let (mut right, mut wrong) = (0, 0);
        for place in 0..PROBED.min(self.count()) {
            let Some(desc) = self.parse_desc(descs, place as usize) else { continue };
            let depth = words.id_minus(marks.head_id, desc.id);
            let unused = desc.id == 0 && desc.state == 0;
            if unused || depth >= self.count() || !matches!(desc.state, COMMITTED | FINALIZED) {
                // Of one round before, or on its way: in its place all the same.
                wrong += usize::from(desc.id & mask != place && !unused);
                continue;
            }
            let fits = form.info(infos, place as usize * form.stride).is_some_and(|info| {
                let room = words.minus(desc.next, desc.begin).saturating_sub(words.size);
                let is_empty = desc.begin & desc.next & 1 == 1;
                let has_text = (1..=room).contains(&(info.text_len as u64));
                info.seq & mask == place && (is_empty || has_text)
            });
            right += usize::from(desc.id & mask == place && fits);
            wrong += usize::from(desc.id & mask != place || !fits);
        }
        Ok(right >= wrong)
    }

    /// How far the kernel has come, without reading any record: two short
    /// reads. It differs from an earlier one when records were added, or the
    /// newest was completed or taken up again.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Replaced`].
    pub fn progress(&self, view: &View<'_>) -> Result<Progress, Error> {
        let marks = self.marks(view)?;
        let words = self.words();
        let state = self.desc(view, marks.head_id)?.state;
        let next = words.id_minus(words.id_plus(marks.head_id, 1), self.origin(&marks));
        Ok(Progress::new(next, [marks.head_id, marks.tail_id, marks.head_lpos, state]))
    }

    /// All that the ring holds.
    ///
    /// Where descriptors are damaged, text is looked for by id and shown as
    /// [`State::Salvaged`]; if nothing but such text is found, the log's
    /// format is [`Format::Salvage`].
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Replaced`] when the header changed in a
    /// way that printing does not change it.
    pub fn read(&self, view: &View<'_>) -> Result<Log, Error> {
        self.read_from(view, 0)
    }

    /// The entries with sequence number `seq` and later; only what is needed
    /// for them is read.
    ///
    /// # Errors
    /// As [`Ring::read`].
    pub fn read_from(&self, view: &View<'_>, seq: u64) -> Result<Log, Error> {
        let marks = self.marks(view)?;
        if self.check_marks(&marks).is_err() {
            return self.salvage_from(view, seq);
        }
        let mut log = Log { format: Format::Ringbuffer, entries: Vec::new() };
        if self.holds_nothing(view, &marks)? {
            return Ok(log);
        }
        let scheme = self.scheme(view, &marks)?;
        let Some(window) = self.window(&marks, &scheme, seq) else { return Ok(log) };
        log.entries = {
            let mut reader = Reader::new(self, view, marks, scheme, seq);
            reader.run(window)?;
            reader.entries
        };
        self.repair(view, &marks, &scheme, &mut log)?;
        Ok(log)
    }

    /// The readable text of the ring's blocks in the order of their ids,
    /// without looking at any descriptor.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn salvage(&self, view: &View<'_>) -> Result<Log, Error> {
        self.salvage_from(view, 0)
    }

    fn salvage_from(&self, view: &View<'_>, seq: u64) -> Result<Log, Error> {
        let mut log = salvage::text_ring(view, self.header.data, self.data_size())?;
        log.entries.retain(|entry| match entry {
            Entry::Record(record) => record.seq >= seq,
            Entry::Lost { .. } => true,
        });
        Ok(log)
    }

    fn words(&self) -> Words {
        Words::of(self.arch.word)
    }

    #[inline]
    fn parse_desc(&self, array: Bytes<'_>, place: usize) -> Option<Desc> {
        Desc::parse(array, self.words(), &self.desc, place)
    }

    /// The header's marks now; its other fields must be what they were.
    fn marks(&self, view: &View<'_>) -> Result<Marks, Error> {
        let raw = read_header(view, self.address, &self.head)?;
        let bytes = Bytes::new(&raw, self.arch);
        let now = Header::parse(bytes, &self.head).ok_or(Error::Replaced)?;
        if (Header { marks: self.header.marks, ..now }) != self.header {
            return Err(Error::Replaced);
        }
        Ok(now.marks)
    }

    /// The descriptor in the place of `id`, whatever it holds.
    fn desc(&self, view: &View<'_>, id: u64) -> Result<Desc, Error> {
        let size = self.desc.size;
        let mut raw = Vec::new();
        let at = self.header.descs + (id & (self.count() - 1)) * size as u64;
        fetch(view, at, size, &mut raw)?;
        self.parse_desc(Bytes::new(&raw, self.arch), 0)
            .ok_or_else(|| malformed(self.address, "descriptor is cut off"))
    }

    /// Whether the ring is as it was set up: the one descriptor in use is
    /// `DESC0`, which holds no record. Its state may not tell: a reset lays
    /// the kernel's image anew, and the descriptors may come last.
    fn holds_nothing(&self, view: &View<'_>, marks: &Marks) -> Result<bool, Error> {
        let first = self.words().id_plus(marks.head_id, 1);
        Ok(marks.head_id == marks.tail_id
            && (self.origins().contains(&first)
                || self.desc(view, marks.head_id)?.state == REUSABLE))
    }

    /// Whether `desc` may be what a writer finds that has just taken `id`:
    /// never used, or left by the record of one round before.
    fn awaits(&self, desc: &Desc, id: u64) -> bool {
        let before = self.words().id_minus(id, self.count());
        desc.id == before || (desc.id == 0 && desc.state == 0)
    }

    fn check_marks(&self, marks: &Marks) -> Result<(), &'static str> {
        let words = self.words();
        if marks.head_id > words.id_mask || marks.tail_id > words.id_mask {
            return Err("newest or oldest id has state bits");
        }
        if words.id_minus(marks.head_id, marks.tail_id) >= self.count() {
            return Err("newest id is further from the oldest than the ring has places");
        }
        Ok(())
    }

    /// The ids that record 0 may have.
    ///
    /// `DESC0_ID` is the id before. It is `DESC_ID(-(_DESCS_COUNT + 1))`,
    /// and `_DESCS_COUNT` is `1U << bits` up to 6.12, so that on 64-bit the
    /// negation stays within 32 bits, and `1UL << bits` in 7.2.
    fn origins(&self) -> [u64; 2] {
        let wide = self.words().id_minus(0, self.count());
        match self.arch.word {
            Word::W64 => [(1 << 32) - self.count(), wide],
            Word::W32 => [wide, wide],
        }
    }

    /// The id of record 0, told from the ids in use: those that begin just
    /// below 2^32 rise from there, all others began just below 2^62 and may
    /// have passed 0. Wrong only after 2^32 records of a new kernel.
    fn origin(&self, marks: &Marks) -> u64 {
        let [narrow, wide] = self.origins();
        let next = self.words().id_plus(marks.head_id, 1);
        if (narrow..1 << 61).contains(&next) { narrow } else { wide }
    }

    /// Tell the form of infos and the numbering from some of the ring's
    /// places: `info.seq` counts in step with the descriptor's id.
    fn scheme(&self, view: &View<'_>, marks: &Marks) -> Result<Scheme, Error> {
        let words = self.words();
        let (descs, infos) = self.probe(view)?;
        let descs = Bytes::new(&descs, self.arch);
        let infos = Bytes::new(&infos, self.arch);
        let by_rule = words.id_minus(marks.head_id, self.origin(marks));
        let hinted = self.hinted();
        // The forms known, then any that a future kernel may have.
        let known = [InfoForm::PLAIN, InfoForm::EXECUTION_CTX];
        let forms: Vec<InfoForm> = match hinted {
            Some(form) => vec![form],
            None => known.into_iter().chain((96..=256).step_by(8).map(InfoForm::of)).collect(),
        };
        let default = forms.first().copied().unwrap_or(InfoForm::PLAIN);
        let mut best = (0, default, by_rule);
        for (nth, form) in forms.into_iter().enumerate() {
            if nth >= known.len() && best.0 > 0 {
                break;
            }
            let votes = self.votes(marks, descs, infos, &form);
            let lawful = votes.iter().filter(|&&seq| seq & words.id_mask == by_rule).count();
            let (score, head_seq) = match votes.iter().find(|&&seq| seq & words.id_mask == by_rule)
            {
                Some(&seq) => (lawful + PROBED as usize, seq),
                // A numbering that nobody foresaw needs more than one witness.
                None => most_frequent(votes).filter(|(count, _)| *count > 1).unwrap_or_default(),
            };
            if score > best.0 {
                best = (score, form, head_seq);
            }
        }
        let (score, form, head_seq) = best;
        // One record, or none that can be used: place 0 is the same in all
        // forms, but what it holds is not.
        let form = match (score, hinted) {
            (0, None) if names_a_task(infos) => InfoForm::EXECUTION_CTX,
            _ => form,
        };
        Ok(Scheme { form, head_seq })
    }

    /// The form of infos that is known beforehand.
    fn hinted(&self) -> Option<InfoForm> {
        let stride = self.hints.info_stride.filter(|stride| (24..=LARGEST).contains(stride));
        self.info.or(stride.map(InfoForm::of))
    }

    /// The first places of the ring: their descriptors and their infos.
    fn probe(&self, view: &View<'_>) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let probed = PROBED.min(self.count()) as usize;
        let (mut descs, mut infos) = (Vec::new(), Vec::new());
        fetch(view, self.header.descs, probed * self.desc.size, &mut descs)?;
        let shortest = self.info.unwrap_or(InfoForm::PLAIN).stride;
        let longest = self.hinted().map_or(256, |form| form.stride);
        // The longest form first; an array at the very end of RAM can only
        // be of a shorter one.
        let at = self.header.infos;
        fetch(view, at, probed * longest, &mut infos)
            .or_else(|_| fetch(view, at, probed * shortest, &mut infos))?;
        Ok((descs, infos))
    }

    /// What each probed place says the newest sequence number is, if infos
    /// are of that form. Place 0 is the same at every stride: no vote.
    fn votes(
        &self,
        marks: &Marks,
        descs: Bytes<'_>,
        infos: Bytes<'_>,
        form: &InfoForm,
    ) -> Vec<u64> {
        let words = self.words();
        let mask = self.count() - 1;
        (1..PROBED.min(self.count()))
            .filter_map(|place| {
                let desc = self.parse_desc(descs, place as usize)?;
                let seq = form.seq(infos, place as usize * form.stride)?;
                let used = seq != 0 && seq & mask == place && desc.id & mask == place;
                let depth = words.id_minus(marks.head_id, desc.id);
                (used && depth < 2 * self.count()).then(|| seq.wrapping_add(depth))
            })
            .collect()
    }

    /// Which ids hold the records from `seq` on; `None` if there are none.
    fn window(&self, marks: &Marks, scheme: &Scheme, seq: u64) -> Option<Window> {
        let words = self.words();
        if seq > scheme.head_seq {
            return None;
        }
        // The oldest id may be that of DESC0, which comes before record 0.
        let depth = words.id_minus(marks.head_id, marks.tail_id).min(scheme.head_seq);
        let depth = depth.min(scheme.head_seq - seq);
        Some(Window {
            first: words.id_minus(marks.head_id, depth),
            count: depth + 1,
            seq: scheme.head_seq - depth,
        })
    }

    /// Put text found by its block's id in the place of corrupt records.
    fn repair(
        &self,
        view: &View<'_>,
        marks: &Marks,
        scheme: &Scheme,
        log: &mut Log,
    ) -> Result<(), Error> {
        let words = self.words();
        let Some((low, high)) = corrupt_span(&log.entries) else { return Ok(()) };
        // All that is newest of a ring that is damaged all over.
        let low = low.max(high.saturating_sub(MOST_REPAIRED));
        let span = (high - low).saturating_add(1).min(self.count());
        let mut text = Vec::new();
        fetch(view, self.header.data, self.data_size() as usize, &mut text)?;
        // Older ones too: where their blocks begin, others end.
        let blocks = salvage::blocks(Bytes::new(&text, self.arch), |id| {
            let depth = words.id_minus(marks.head_id, id);
            if depth < 2 * self.count() { scheme.head_seq.checked_sub(depth) } else { None }
        });
        let blocks = salvage::distinct(blocks.filter(|block| block.seq >= low));
        let mut infos = Vec::new();
        let ring = (self.count(), scheme.form.stride as u64);
        let base = words.id_minus(marks.head_id, scheme.head_seq.saturating_sub(low));
        fetch_ring(view, self.header.infos, ring, (base, span), &mut infos)?;
        let infos = Bytes::new(&infos, self.arch);

        let mut entries = Vec::with_capacity(log.entries.len());
        for entry in log.entries.drain(..) {
            let Entry::Lost { seq, count, why: Loss::Corrupt } = entry else {
                entries.push(entry);
                continue;
            };
            let end = seq.saturating_add(count.min(self.count()));
            let first = seq.max(low).min(end);
            push_lost(&mut entries, seq, first - seq, Loss::Corrupt);
            for seq in first..end {
                let block = blocks
                    .binary_search_by_key(&seq, |block| block.seq)
                    .ok()
                    .and_then(|place| blocks.get(place));
                let at = (seq.wrapping_sub(low) as usize).saturating_mul(scheme.form.stride);
                let info = scheme.form.info(infos, at).filter(|info| info.seq == seq);
                match block.and_then(|block| block.record(info.as_ref())) {
                    Some(record) => entries.push(Entry::Record(record)),
                    None => push_lost(&mut entries, seq, 1, Loss::Corrupt),
                }
            }
        }
        log.entries = entries;
        let salvaged = log.records().filter(|record| record.state == State::Salvaged).count();
        if salvaged > 0 && salvaged == log.records().count() {
            log.format = Format::Salvage;
        }
        Ok(())
    }
}

/// Whether the first info holds a task's name where `comm` is with
/// `CONFIG_PRINTK_EXECUTION_CTX`; at 24, before it, is the second caller id,
/// where a form without would have the subsystem's first letters.
fn names_a_task(infos: Bytes<'_>) -> bool {
    let is_text = |byte: &u8| byte.is_ascii_graphic();
    infos.slice(28, 2).is_some_and(|comm| comm.iter().all(is_text))
        && !infos.slice(24, 4).is_some_and(|id| id.iter().all(is_text))
}

/// The number most of `votes` are, and how many.
fn most_frequent(mut votes: Vec<u64>) -> Option<(usize, u64)> {
    votes.sort_unstable();
    votes
        .chunk_by(|a, b| a == b)
        .filter_map(|same| Some((same.len(), *same.first()?)))
        .max_by_key(|(count, _)| *count)
}

/// The lowest and the highest sequence number of corrupt records.
fn corrupt_span(entries: &[Entry]) -> Option<(u64, u64)> {
    entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Lost { seq, count, why: Loss::Corrupt } => {
                Some((*seq, seq.saturating_add(count.saturating_sub(1))))
            }
            _ => None,
        })
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

fn malformed(address: u64, what: &'static str) -> Error {
    Error::Malformed { format: Format::Ringbuffer, address, what }
}

fn read_header(view: &View<'_>, prb: u64, form: &HeadForm) -> Result<Vec<u8>, Error> {
    let mut raw = Vec::new();
    fetch(view, prb, form.size, &mut raw)?;
    Ok(raw)
}

/// What must hold of the fields that never change.
fn check_geometry(
    view: &View<'_>,
    header: &Header,
    desc: usize,
    info: usize,
) -> Result<(), &'static str> {
    if !COUNT_BITS.contains(&header.count_bits) {
        return Err("number of descriptors is out of range");
    }
    let words = Words::of(view.arch().word);
    let count = 1_u64 << header.count_bits;
    let arrays = [
        (header.descs, desc as u64, words.size),
        // setup_log_buf() asks memblock for LOG_ALIGN, a word, of them all.
        (header.infos, info as u64, words.size),
        (header.data, 32, words.size),
    ];
    for (address, size, align) in arrays {
        if address == 0 || address % align != 0 {
            return Err("arrays are not where arrays can be");
        }
        if view.real(address, count * size).is_none() {
            return Err("arrays are not in RAM");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
