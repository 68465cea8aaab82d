//! Memory that changes under its reader, as that of a guest that runs does.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::{Line, RingWriter, Sheet, VariableWriter};
use crate::guest::{Memory, ReadError};

/// Writes records of some format into a sheet.
pub trait Writer {
    /// Store one as the kernel does.
    fn store(&mut self, line: &Line);
    /// The memory so far.
    fn sheet(&self) -> &Sheet;
}

impl Writer for RingWriter {
    fn store(&mut self, line: &Line) {
        self.print(line);
    }

    fn sheet(&self) -> &Sheet {
        &self.sheet
    }
}

impl Writer for VariableWriter {
    fn store(&mut self, line: &Line) {
        self.print(line);
    }

    fn sheet(&self) -> &Sheet {
        &self.sheet
    }
}

/// Memory of a guest that runs: before some reads, the kernel prints.
#[derive(Debug)]
pub struct Running<W> {
    /// What wrote it.
    pub writer: RefCell<W>,
    /// All that was printed so far.
    pub lines: RefCell<Vec<Line>>,
    /// How many reads there were.
    pub reads: Cell<usize>,
    ram: Vec<Range<u64>>,
    /// The record of a number.
    line: fn(u64) -> Line,
    /// How many records it prints before a read.
    pace: fn(usize) -> usize,
}

impl<W: Writer> Running<W> {
    /// A guest that has printed the first `count` lines.
    pub fn new(mut writer: W, count: u64, line: fn(u64) -> Line, pace: fn(usize) -> usize) -> Self {
        let lines: Vec<Line> = (0..count).map(line).collect();
        for line in &lines {
            writer.store(line);
        }
        Self {
            ram: writer.sheet().image().ram().to_vec(),
            writer: RefCell::new(writer),
            lines: RefCell::new(lines),
            reads: Cell::new(0),
            line,
            pace,
        }
    }
}

impl<W: Writer> Memory for Running<W> {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let nth = self.reads.replace(self.reads.get() + 1);
        let mut writer = self.writer.borrow_mut();
        let mut lines = self.lines.borrow_mut();
        for _ in 0..(self.pace)(nth) {
            let new = (self.line)(lines.len() as u64);
            writer.store(&new);
            lines.push(new);
        }
        let sheet = writer.sheet();
        let start = (real - sheet.base) as usize;
        buf.copy_from_slice(&sheet.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}
