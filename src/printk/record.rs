//! What the kernel's log consists of, whatever buffer format held it.

/// Where a record came from, when the kernel noted it (`printk_info.caller_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A task, by its thread id.
    Task(u32),
    /// A CPU, in interrupt or early context, by its number.
    Cpu(u32),
}

impl Caller {
    /// The high bit of `caller_id` tells a CPU from a task (5.1,
    /// commit 15ff2069cb7f "printk: Add caller information to printk() output.").
    #[must_use]
    pub const fn from_id(id: u32) -> Self {
        if id & 0x8000_0000 == 0 { Self::Task(id) } else { Self::Cpu(id & 0x7fff_ffff) }
    }
}

/// The device a `dev_printk()` record speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `SUBSYSTEM=`, such as `pci`.
    pub subsystem: Vec<u8>,
    /// `DEVICE=`, such as `+pci:0000:00:00.0` or `b8:0`.
    pub device: Vec<u8>,
}

/// How far a record had come when memory was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Complete: no writer will touch it again.
    Complete,
    /// Readable, but still open to a `pr_cont()` that extends it.
    Open,
    /// Reserved by a writer that has not said it is done: the text may be
    /// partial. A kernel hung inside `printk()` leaves one of these.
    InProgress,
    /// Recovered from text blocks whose descriptor was damaged.
    Salvaged,
}

/// One message of the kernel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Sequence number, counted from boot; 0 is the first.
    pub seq: u64,
    /// Nanoseconds since boot; 0 for records from before the clock runs.
    /// `None` where the format keeps no time of its own.
    pub ts_nsec: Option<u64>,
    /// Severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Syslog facility, 0 for the kernel itself.
    pub facility: u8,
    /// The record continues the line before it.
    pub continues: bool,
    /// Who printed it, where the format says.
    pub caller: Option<Caller>,
    /// The device it is about.
    pub device: Option<Box<Device>>,
    /// The message as the guest holds it: any bytes, without the closing
    /// newline; may hold newlines within.
    pub text: Vec<u8>,
    /// How far it had come.
    pub state: State,
}

/// Why records are missing at some place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Newer records took their place in the ring.
    Overwritten,
    /// The kernel itself had no room for their text.
    NoText,
    /// A descriptor or text block contradicts itself.
    Corrupt,
    /// Reserved, and no text was stored yet.
    Reserved,
    /// Older than as many records as are held: no kernel writes so many into
    /// so little memory, and each takes more of ours than of the guest's.
    TooMany,
}

/// A place of the log: a record, or what is known of those missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// `count` records, the first of which has sequence number `seq`.
    Lost {
        /// Sequence number of the first one missing.
        seq: u64,
        /// How many.
        count: u64,
        /// Why.
        why: Loss,
    },
}

/// The formats a kernel's log has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Before 3.5: a ring of bytes with literal `<N>` prefixes.
    Bytes,
    /// 3.5 to 5.9: `struct log`, later `struct printk_log`, of variable length.
    VariableRecords,
    /// 5.10 and later: descriptors, infos and text blocks, without locks.
    Ringbuffer,
    /// Text recovered without a format.
    Salvage,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "byte ring",
            Self::VariableRecords => "variable records",
            Self::Ringbuffer => "printk ringbuffer",
            Self::Salvage => "salvaged text",
        })
    }
}

/// A kernel's log, oldest entry first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The format it was read from.
    pub format: Format,
    /// Its entries, by ascending sequence number.
    pub entries: Vec<Entry>,
}

impl Log {
    /// The records alone.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Record(record) => Some(record),
            Entry::Lost { .. } => None,
        })
    }

    /// The sequence number to read on from later: of the first entry that
    /// may still change, or else the one after the last. `None` for an empty
    /// log: read on from where this one was read.
    #[must_use]
    pub fn resume(&self) -> Option<u64> {
        let unfinished = self.entries.iter().find_map(|entry| match entry {
            Entry::Record(Record { seq, state: State::Open | State::InProgress, .. })
            | Entry::Lost { seq, why: Loss::Reserved, .. } => Some(*seq),
            _ => None,
        });
        unfinished.or_else(|| match self.entries.last()? {
            Entry::Record(record) => Some(record.seq.saturating_add(1)),
            Entry::Lost { seq, count, .. } => Some(seq.saturating_add(*count)),
        })
    }

    /// How many records are known to be missing.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match entry {
                Entry::Record(_) => 0,
                Entry::Lost { count, .. } => *count,
            })
            .fold(0, u64::saturating_add)
    }
}

/// Add lost records to the entry before, if that is the same kind of loss.
pub(super) fn push_lost(entries: &mut Vec<Entry>, seq: u64, count: u64, why: Loss) {
    if count == 0 {
        return;
    }
    if let Some(Entry::Lost { seq: before, count: so_far, why: same }) = entries.last_mut()
        && *same == why
        && before.checked_add(*so_far) == Some(seq)
    {
        *so_far = so_far.saturating_add(count);
        return;
    }
    entries.push(Entry::Lost { seq, count, why });
}
