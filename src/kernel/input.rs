//! The bytes of a kernel file, read by offset.
//!
//! A file is kept open rather than named: `make` may replace it while the
//! guest hangs, and the symbols wanted are those of the kernel that was
//! started.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a kernel: an open file, or what was unpacked from one.
#[derive(Clone, Debug)]
pub enum Input {
    /// An open file and its length in bytes when it was opened.
    File(Arc<File>, u64),
    /// Bytes in memory.
    Bytes(Arc<Vec<u8>>),
}

impl Input {
    /// Open the file at `path`.
    ///
    /// # Errors
    /// As the host fails; a directory or another thing without a length is
    /// refused here.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Asked before opening: that would wait for a pipe's other end, and
        // what is read from one (`-kernel /dev/fd/63`) is lost to QEMU.
        if !std::fs::metadata(path)?.is_file() {
            return Err(not_a_file());
        }
        Self::from_file(File::open(path)?)
    }

    /// An already open file.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn from_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(not_a_file());
        }
        Ok(Self::File(Arc::new(file), metadata.len()))
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::File(_, len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Read up to `buf.len()` bytes at `offset`; fewer only at the end.
    ///
    /// # Errors
    /// As the host fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let got = match self {
                Self::File(file, _) => match file.read_at(rest, at) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other?,
                },
                Self::Bytes(bytes) => {
                    let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                    let from = from.unwrap_or_default();
                    let n = from.len().min(rest.len());
                    rest.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    n
                }
            };
            if got == 0 {
                break;
            }
            done += got;
        }
        Ok(done)
    }

    /// Fill `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the bytes end before, else as the host fails.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.read_at(offset, buf)? < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The bytes as a stream from `offset` on, at most `len` of them. It has
    /// a place of its own: readers of one file don't disturb each other.
    #[must_use]
    pub fn stream(&self, offset: u64, len: u64) -> Stream {
        let end = offset.saturating_add(len).min(self.len());
        Stream { input: self.clone(), start: offset, at: offset, end }
    }
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// A part of an [`Input`] as a stream.
#[derive(Clone, Debug)]
pub struct Stream {
    input: Input,
    start: u64,
    at: u64,
    end: u64,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = left.min(buf.len());
        let got = self.input.read_at(self.at, buf.get_mut(..n).unwrap_or_default())?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(n) => self.start.checked_add(n),
            SeekFrom::End(n) => self.end.checked_add_signed(n),
            SeekFrom::Current(n) => self.at.checked_add_signed(n),
        };
        self.at = at.filter(|at| *at >= self.start).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at - self.start)
    }
}
