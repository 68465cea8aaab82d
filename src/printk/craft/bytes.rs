//! The byte ring of kernels before 3.5, from its writer's side
//! (kernel/printk.c, `emit_log_char()`).

use super::{BUFFER, LOG_BUF, LOG_BUF_LEN, Sheet};
use crate::arch::Arch;
use crate::printk::bytes::ByteSymbols;

/// Writes a byte ring as kernels before 3.5 do.
#[derive(Clone, Debug)]
pub struct ByteWriter {
    size: usize,
    long_end: bool,
    /// The memory so far.
    pub sheet: Sheet,
}

const LOG_END: usize = 16;
const LOGGED_CHARS: usize = 24;

impl ByteWriter {
    /// An empty ring of `size` bytes; `long_end` as up to 2.6.24.
    #[must_use]
    pub fn new(arch: Arch, size: usize, long_end: bool) -> Self {
        let mut sheet = Sheet::new(arch, 0x0040_0000, BUFFER + size + 64);
        let buffer = sheet.address(BUFFER);
        sheet.put_word(LOG_BUF, buffer);
        sheet.put_number(LOG_BUF_LEN, size as u64, 4);
        Self { size, long_end, sheet }
    }

    /// Effective addresses of the variables.
    #[must_use]
    pub fn symbols(&self) -> ByteSymbols {
        let at = |offset| self.sheet.address(offset);
        ByteSymbols {
            log_buf: at(LOG_BUF),
            log_buf_len: at(LOG_BUF_LEN),
            log_end: at(LOG_END),
            logged_chars: Some(at(LOGGED_CHARS)),
        }
    }

    /// Effective address of the buffer.
    #[must_use]
    pub fn buffer(&self) -> u64 {
        self.sheet.address(BUFFER)
    }

    /// How many characters were stored so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.sheet.number(LOG_END, self.end_size())
    }

    /// `emit_log_char()` for each.
    pub fn emit(&mut self, text: &[u8]) {
        let size = self.end_size();
        for byte in text {
            let end = self.end();
            let place = BUFFER + end as usize % self.size;
            self.sheet.put(place, &[*byte]);
            self.sheet.put_number(LOG_END, end + 1, size);
            let chars = self.sheet.number(LOGGED_CHARS, 4);
            self.sheet.put_number(LOGGED_CHARS, (chars + 1).min(self.size as u64), 4);
        }
    }

    fn end_size(&self) -> usize {
        if self.long_end { self.sheet.arch.word.bytes() } else { 4 }
    }
}
