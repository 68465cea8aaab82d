//! A file as bytes at offsets, so that a file within a file looks the same.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;

/// Bytes at offsets.
pub(super) trait Source {
    /// Fill `buf` from `offset`; all or nothing.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error>;

    /// How many bytes there are.
    fn size(&self) -> u64;
}

/// A file on the host.
pub(super) struct Plain {
    file: File,
    size: u64,
}

impl Plain {
    pub(super) fn new(file: File) -> Result<Self, Error> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Source for Plain {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        // pread() takes a signed offset.
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A file that is at hand as bytes.
impl Source for Vec<u8> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let piece = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(piece.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// `len` bytes from `offset`, if there are so many.
pub(super) fn bytes(source: &dyn Source, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    // Checked before anything is allocated.
    if offset.checked_add(len).is_none_or(|end| end > source.size()) {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let mut buf = vec![0; usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?];
    source.read_at(offset, &mut buf)?;
    Ok(buf)
}
