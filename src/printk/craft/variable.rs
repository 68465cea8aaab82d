//! The variable records of 3.5 to 5.9, from their writer's side
//! (kernel/printk/printk.c, `log_store()`).

use super::{BUFFER, LOG_BUF, LOG_BUF_LEN, Line, Sheet};
use crate::arch::Arch;
use crate::printk::variable::VariableSymbols;

/// Which kernel writes variable records (3.5 to 5.9).
#[derive(Clone, Copy, Debug)]
pub struct VariablePlan {
    /// Word size and byte order.
    pub arch: Arch,
    /// Real address of the image.
    pub base: u64,
    /// `sizeof(struct printk_log)`: 16; with `caller_id` 20 or 24.
    pub header: usize,
    /// `LOG_ALIGN`: 4 or 8.
    pub align: usize,
    /// `log_buf_len`.
    pub size: usize,
    /// The form of `struct cont`.
    pub cont: ContForm,
}

/// The forms of `struct cont`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContForm {
    /// 3.5: `buf[1024]`, `len`, `cons`, `owner`.
    First,
    /// Up to 4.9: the same behind `buf[992]`.
    Early,
    /// 4.10: `len`, `owner`.
    Middle,
    /// 5.1: `len`, `caller_id`.
    Late,
    /// 5.1 with `CONFIG_PRINTK_CALLER`: the same behind `buf[976]`.
    LateCaller,
}

impl VariablePlan {
    /// 4.19 ppc64le, small.
    pub const SMALL: Self = Self {
        arch: Arch::PPC64LE,
        base: 0x0100_0000,
        header: 16,
        align: 4,
        size: 4096,
        cont: ContForm::Middle,
    };
}

/// Writes variable records as the kernel does.
#[derive(Clone, Debug)]
pub struct VariableWriter {
    plan: VariablePlan,
    /// The memory so far.
    pub sheet: Sheet,
}

/// Where the variables are.
const FIRST_SEQ: usize = 16;
const NEXT_SEQ: usize = 24;
const FIRST_IDX: usize = 32;
const NEXT_IDX: usize = 36;
const CONT: usize = 0x100;

impl VariableWriter {
    /// An empty log.
    #[must_use]
    pub fn new(plan: VariablePlan) -> Self {
        let mut sheet = Sheet::new(plan.arch, plan.base, BUFFER + plan.size + 64);
        let buffer = sheet.address(BUFFER);
        sheet.put_word(LOG_BUF, buffer);
        sheet.put_number(LOG_BUF_LEN, plan.size as u64, 4);
        Self { plan, sheet }
    }

    /// Effective address and offset of the buffer.
    #[must_use]
    pub fn buffer(&self) -> (u64, usize) {
        (self.sheet.address(BUFFER), BUFFER)
    }

    /// Effective addresses of the variables.
    #[must_use]
    pub fn symbols(&self) -> VariableSymbols {
        let at = |offset| self.sheet.address(offset);
        VariableSymbols {
            log_buf: at(LOG_BUF),
            log_buf_len: at(LOG_BUF_LEN),
            first_seq: at(FIRST_SEQ),
            first_idx: at(FIRST_IDX),
            next_seq: at(NEXT_SEQ),
            next_idx: at(NEXT_IDX),
            cont: Some(at(CONT)),
        }
    }

    /// Sequence number of the oldest record.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.sheet.number(FIRST_SEQ, 8)
    }

    /// Offset in the buffer where the next record goes.
    #[must_use]
    pub fn next_idx(&self) -> usize {
        self.sheet.number(NEXT_IDX, 4) as usize
    }

    /// `log_store()`. Returns the offset of the record in the buffer.
    pub fn print(&mut self, line: &Line) -> usize {
        let dict = line.device.as_ref().map_or_else(Vec::new, |(subsystem, device)| {
            [&b"SUBSYSTEM="[..], subsystem, b"\0DEVICE=", device].concat()
        });
        let used = self.plan.header + line.text.len() + dict.len();
        let size = used.next_multiple_of(self.plan.align);
        while self.first_seq() < self.sheet.number(NEXT_SEQ, 8) && !self.has_space(size) {
            let first = self.after(self.sheet.number(FIRST_IDX, 4) as usize);
            self.sheet.put_number(FIRST_IDX, first as u64, 4);
            let seq = self.first_seq() + 1;
            self.sheet.put_number(FIRST_SEQ, seq, 8);
        }
        let mut idx = self.next_idx();
        if idx + size + self.plan.header > self.plan.size {
            let header = vec![0; self.plan.header];
            self.sheet.put(BUFFER + idx, &header);
            idx = 0;
        }
        let at = BUFFER + idx;
        let flags = self.sheet.flags(line.flags, line.level);
        let sheet = &mut self.sheet;
        sheet.put_number(at, line.ts_nsec, 8);
        sheet.put_number(at + 8, size as u64, 2);
        sheet.put_number(at + 10, line.text.len() as u64, 2);
        sheet.put_number(at + 12, dict.len() as u64, 2);
        sheet.put(at + 14, &[line.facility, flags]);
        if self.plan.header > 16 {
            sheet.put_number(at + 16, u64::from(line.caller_id), 4);
        }
        sheet.put(at + self.plan.header, &line.text);
        sheet.put(at + self.plan.header + line.text.len(), &dict);
        sheet.put(at + used, &[0; 8][..size - used]);
        sheet.put_number(NEXT_IDX, (idx + size) as u64, 4);
        let seq = sheet.number(NEXT_SEQ, 8) + 1;
        sheet.put_number(NEXT_SEQ, seq, 8);
        idx
    }

    /// Leave a line open in `cont`; an empty one is as after its end.
    pub fn open(&mut self, line: &Line) {
        let w = self.plan.arch.word.bytes();
        let task = self.sheet.address(0x40);
        let sheet = &mut self.sheet;
        sheet.put(CONT, &line.text);
        let (end, owner) = match self.plan.cont {
            ContForm::First => (1024, Some(2)),
            ContForm::Early => (992, Some(2)),
            ContForm::Middle => (992, Some(1)),
            ContForm::Late => (992, None),
            ContForm::LateCaller => (976, None),
        };
        sheet.put_word(CONT + end, line.text.len() as u64);
        let time = match owner {
            Some(nth) => {
                sheet.put_word(CONT + end + nth * w, task);
                end + (nth + 1) * w
            }
            None => {
                sheet.put_number(CONT + end + w, u64::from(line.caller_id), 4);
                end + w + 4
            }
        };
        let time = CONT + time.next_multiple_of(8);
        sheet.put_number(time, line.ts_nsec, 8);
        sheet.put(time + 8, &[line.level, line.facility]);
        sheet.put_number(time + 12, u64::from(line.flags), 4);
    }

    /// `logbuf_has_space()`.
    fn has_space(&self, size: usize) -> bool {
        let (first, next) = (self.sheet.number(FIRST_IDX, 4) as usize, self.next_idx());
        let free = if next > first { (self.plan.size - next).max(first) } else { first - next };
        free >= size + self.plan.header
    }

    /// `log_next()`.
    fn after(&self, idx: usize) -> usize {
        let len = |idx: usize| self.sheet.number(BUFFER + idx + 8, 2) as usize;
        if len(idx) == 0 { len(0) } else { idx + len(idx) }
    }
}
