//! Decompression of LZO1X, as pages of a kdump-compressed dump may be in.
//!
//! Written from the description of the stream in the kernel's
//! Documentation/staging/lzo.rst (instructions, states and distances carry
//! its names). The version with run lengths (`lzo-rle`) is not in use for
//! dumps.

/// Fill `out` from a compressed stream, or `None` where the stream is
/// damaged or holds another number of bytes.
pub(super) fn decompress(stream: &[u8], out: &mut [u8]) -> Option<()> {
    let mut lzo = Lzo { stream, out, at: 0 };
    lzo.run()?;
    (lzo.at == lzo.out.len()).then_some(())
}

struct Lzo<'a> {
    stream: &'a [u8],
    out: &'a mut [u8],
    at: usize,
}

/// Literals copied since the last match: 0 to 3 after one, or a run of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Few(u8),
    Run,
}

impl Lzo<'_> {
    fn run(&mut self) -> Option<()> {
        let mut state = State::Few(0);
        // The first byte may say that literals begin the stream.
        if let Some((&first, rest)) = self.stream.split_first()
            && first > 17
        {
            self.stream = rest;
            let len = first - 17;
            self.literals(len.into())?;
            state = if len < 4 { State::Few(len) } else { State::Run };
        }
        loop {
            let byte = self.byte()?;
            let code = usize::from(byte);
            let (len, distance, few) = match (byte, state) {
                (0..=15, State::Few(0)) => {
                    let len = 3 + self.length(code, 15)?;
                    self.literals(len)?;
                    state = State::Run;
                    continue;
                }
                (0..=15, _) => {
                    let high = usize::from(self.byte()?);
                    let (len, least) = if state == State::Run { (3, 2049) } else { (2, 1) };
                    (len, (high << 2) + (code >> 2) + least, byte & 3)
                }
                (16..=31, _) => {
                    let len = 2 + self.length(code & 7, 7)?;
                    let word = self.word()?;
                    let distance = 16384 + ((code & 8) << 11) + (word >> 2);
                    if distance == 16384 {
                        // The end; nothing may follow.
                        return self.stream.is_empty().then_some(());
                    }
                    (len, distance, (word & 3) as u8)
                }
                (32..=63, _) => {
                    let len = 2 + self.length(code & 31, 31)?;
                    let word = self.word()?;
                    (len, (word >> 2) + 1, (word & 3) as u8)
                }
                (64..=127, _) => {
                    let high = usize::from(self.byte()?);
                    (3 + ((code >> 5) & 1), (high << 3) + ((code >> 2) & 7) + 1, byte & 3)
                }
                (128..=255, _) => {
                    let high = usize::from(self.byte()?);
                    (5 + ((code >> 5) & 3), (high << 3) + ((code >> 2) & 7) + 1, byte & 3)
                }
            };
            self.matched(len, distance)?;
            self.literals(few.into())?;
            state = State::Few(few);
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.stream.split_first()?;
        self.stream = rest;
        Some(byte)
    }

    fn word(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) | usize::from(self.byte()?) << 8)
    }

    /// A length that did not fit its instruction goes on in further bytes.
    fn length(&mut self, in_code: usize, most: usize) -> Option<usize> {
        if in_code != 0 {
            return Some(in_code);
        }
        let mut len = most;
        loop {
            match self.byte()? {
                0 => len = len.checked_add(255)?,
                last => return len.checked_add(last.into()),
            }
        }
    }

    fn literals(&mut self, len: usize) -> Option<()> {
        let (literals, rest) = self.stream.split_at_checked(len)?;
        let end = self.at.checked_add(len)?;
        self.out.get_mut(self.at..end)?.copy_from_slice(literals);
        self.at = end;
        self.stream = rest;
        Some(())
    }

    /// Repeat what was written `distance` bytes ago; it may overlap itself.
    fn matched(&mut self, len: usize, distance: usize) -> Option<()> {
        let from = self.at.checked_sub(distance)?;
        let end = self.at.checked_add(len)?;
        let out = self.out.get_mut(from..end)?;
        // Doubling the stretch that is known keeps the copies few.
        let mut known = distance;
        while known < out.len() {
            let more = known.min(out.len() - known);
            out.copy_within(..more, known);
            known += more;
        }
        self.at = end;
        Some(())
    }
}
