//! makedumpfile's kdump-compressed format, of pages each compressed alone.
//!
//! | block | what |
//! |---|---|
//! | 0 | `struct disk_dump_header` |
//! | 1 | `struct kdump_sub_header`, `sub_hdr_size` blocks with its notes |
//! | then | bitmap of the pages there were |
//! | then | bitmap of the pages that were dumped |
//! | then | a `struct page_desc` for each of those, and their bytes |
//!
//! Numbers are in the guest's byte order when QEMU writes it (dump/dump.c,
//! include/sysemu/dump.h), in the host's when makedumpfile does; the size of
//! a block is the guest kernel's page size (64 or 4 KiB on ppc64).

use std::cell::RefCell;
use std::io::{Error as IoError, ErrorKind};
use std::ops::Range;

use crate::arch::{Arch, Bytes, Endian, Word};
use crate::guest::{Memory, ReadError};

use super::file::{self, Source};
use super::{Error, lzo};

/// What such a file begins with.
pub(super) const SIGNATURE: &[u8] = b"KDUMP   ";

/// `sizeof(struct page_desc)`: `off_t offset; u32 size, flags; u64 page_flags`.
const DESC: u64 = 24;

/// Flags of a page: how it is compressed. The last came with makedumpfile
/// 1.7.0.
const ZLIB: u32 = 0x1;
const LZO: u32 = 0x2;
const SNAPPY: u32 = 0x4;
const ZSTD: u32 = 0x20;

/// Bytes of one bitmap believed: 512 GiB of 4 KiB pages.
const MAX_BITMAP: u64 = 16 << 20;

/// Ranges of RAM kept apart; beyond, holes are taken for RAM that was not
/// dumped, so that a bitmap of lies does not slow every look at the ranges.
const MAX_RANGES: usize = 1024;

/// Pages kept after decompression.
const KEPT: usize = 32;

/// RAM in pages.
pub(super) struct Pages {
    source: Box<dyn Source>,
    endian: Endian,
    /// A power of two.
    page: u64,
    dumped: Bitmap,
    /// Where the page descriptors are.
    descs: u64,
    ram: Vec<Range<u64>>,
    cache: RefCell<Cache>,
}

#[derive(Default)]
struct Cache {
    pages: Vec<(u64, Vec<u8>)>,
    oldest: usize,
}

/// The fields of `struct disk_dump_header` that matter.
struct Header {
    arch: Arch,
    version: u32,
    page: u64,
    sub_blocks: u64,
    bitmap_blocks: u64,
    max_mapnr: u64,
}

impl Header {
    /// Both byte orders and word sizes are tried; it must make sense in one.
    fn parse(raw: &[u8]) -> Option<Self> {
        let words = [Word::W64, Word::W32];
        let kinds = words
            .into_iter()
            .flat_map(|word| [Endian::Little, Endian::Big].map(|endian| Arch { word, endian }));
        kinds.filter_map(|arch| Self::parse_as(raw, arch)).next()
    }

    fn parse_as(raw: &[u8], arch: Arch) -> Option<Self> {
        let raw = Bytes::new(raw, arch);
        // signature[8], header_version, utsname of 6 * 65 bytes, and a struct
        // timeval where it is aligned to; then status.
        let after = match arch.word {
            Word::W64 => 428,
            Word::W32 => 416,
        };
        let field = |index: usize| raw.u32(after + 4 * index).map(u64::from);
        let header = Self {
            arch,
            version: raw.u32(8)?,
            page: field(0)?,
            sub_blocks: field(1)?,
            bitmap_blocks: field(2)?,
            max_mapnr: field(3)?,
        };
        let makes_sense = (1..=64).contains(&header.version)
            && header.page.is_power_of_two()
            && (512..=1 << 20).contains(&header.page)
            && (1..=1 << 20).contains(&header.sub_blocks)
            && header.bitmap_blocks > 0;
        makes_sense.then_some(header)
    }
}

impl Pages {
    pub(super) fn open(source: Box<dyn Source>) -> Result<Self, Error> {
        const SHORT: Error = Error::Damaged("header is cut short");
        let raw = file::bytes(&*source, 0, 464).or(Err(SHORT))?;
        if !raw.starts_with(SIGNATURE) {
            return Err(Error::Other("no kdump-compressed dump after all"));
        }
        let header = Header::parse(&raw).ok_or(Error::Damaged("header makes no sense"))?;
        let page = header.page;
        // max_mapnr is too narrow for large machines; the sub header has it
        // again since version 6. (32-bit ones need no more.)
        let mut pages = header.max_mapnr;
        if header.version >= 6 && header.arch.word == Word::W64 {
            let sub = file::bytes(&*source, page, 104).or(Err(SHORT))?;
            match Bytes::new(&sub, header.arch).u64(96) {
                Some(0) | None => {}
                Some(wide) => pages = wide,
            }
        }
        let bitmaps = (1 + header.sub_blocks) * page;
        let all = header.bitmap_blocks * page;
        // One bitmap, as early writers had it, or two.
        let both = pages.div_ceil(8).div_ceil(page) < header.bitmap_blocks;
        let len = if both { all / 2 } else { all };
        if len > MAX_BITMAP {
            return Err(Error::Damaged("bitmap is too long"));
        }
        const CUT: Error = Error::Damaged("bitmap is cut short");
        let there = Bitmap::new(file::bytes(&*source, bitmaps, len).or(Err(CUT))?, pages);
        let dumped = match both {
            true => Bitmap::new(file::bytes(&*source, bitmaps + len, len).or(Err(CUT))?, pages),
            false => there.clone(),
        };
        let mut ram = there.runs(page);
        if ram.is_empty() {
            ram = dumped.runs(page);
        }
        if ram.is_empty() {
            return Err(Error::Damaged("bitmap names no page"));
        }
        let descs = bitmaps + all;
        let endian = header.arch.endian;
        Ok(Self { source, endian, page, dumped, descs, ram, cache: RefCell::default() })
    }

    /// A page's bytes. One that was there but not dumped reads as zeros: it
    /// was left out for being zero, or as of no use to anyone.
    fn load(&self, number: u64) -> Result<Vec<u8>, IoError> {
        let len = self.page as usize;
        let Some(index) = self.dumped.rank(number) else { return Ok(vec![0; len]) };
        let raw = file::bytes(&*self.source, self.descs + index * DESC, DESC)?;
        let raw = Bytes::new(&raw, Arch { word: Word::W64, endian: self.endian });
        let (Some(offset), Some(size), Some(flags)) = (raw.u64(0), raw.u32(8), raw.u32(12)) else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        // No writer keeps a page that grew by compression.
        if u64::from(size) > self.page {
            return Err(damaged());
        }
        let bytes = file::bytes(&*self.source, offset, size.into())?;
        let mut page = vec![0; len];
        let whole = match flags & (ZLIB | LZO | SNAPPY | ZSTD) {
            0 if bytes.len() == len => return Ok(bytes),
            ZLIB => inflate(&bytes, &mut page),
            LZO => lzo::decompress(&bytes, &mut page),
            SNAPPY => unsnap(&bytes, &mut page),
            ZSTD => unzstd(&bytes, &mut page),
            _ => None,
        };
        whole.map(|()| page).ok_or_else(damaged)
    }
}

fn damaged() -> IoError {
    IoError::new(ErrorKind::InvalidData, "a page of the dump is damaged")
}

/// Fill `page` from a zlib stream that holds as much.
fn inflate(bytes: &[u8], page: &mut [u8]) -> Option<()> {
    let mut stream = flate2::Decompress::new(true);
    let status = stream.decompress(bytes, page, flate2::FlushDecompress::Finish).ok()?;
    let whole = stream.total_out() == page.len() as u64;
    (whole && status == flate2::Status::StreamEnd).then_some(())
}

fn unsnap(bytes: &[u8], page: &mut [u8]) -> Option<()> {
    let len = snap::raw::Decoder::new().decompress(bytes, page).ok()?;
    (len == page.len()).then_some(())
}

fn unzstd(bytes: &[u8], page: &mut [u8]) -> Option<()> {
    let len = ruzstd::decoding::FrameDecoder::new().decode_all(bytes, page).ok()?;
    (len == page.len()).then_some(())
}

impl Memory for Pages {
    fn read(&self, real: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if !crate::guest::is_ram(&self.ram, real, buf.len() as u64) {
            return Err(ReadError::NotRam { address: real, len: buf.len() as u64 });
        }
        let mut cache = self.cache.borrow_mut();
        let cache = &mut *cache;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = real + done as u64;
            let number = at / self.page;
            let index = match cache.pages.iter().position(|(kept, _)| *kept == number) {
                Some(index) => index,
                None => cache.put(number, self.load(number)?),
            };
            let page = cache.pages.get(index).map(|(_, page)| page.as_slice()).unwrap_or_default();
            let page = page.get((at % self.page) as usize..).unwrap_or_default();
            let len = page.len().min(rest.len());
            if let (Some(rest), Some(page)) = (rest.get_mut(..len), page.get(..len)) {
                rest.copy_from_slice(page);
            }
            done += len.max(1);
        }
        Ok(())
    }

    fn ram(&self) -> &[Range<u64>] {
        &self.ram
    }
}

impl Cache {
    fn put(&mut self, number: u64, page: Vec<u8>) -> usize {
        let index = self.oldest;
        self.oldest = (index + 1) % KEPT;
        match self.pages.get_mut(index) {
            Some(slot) => *slot = (number, page),
            None => self.pages.push((number, page)),
        }
        index
    }
}

/// A bit for each page, lowest bit of each byte first.
#[derive(Clone)]
struct Bitmap {
    bytes: Vec<u8>,
    /// Bits that count.
    pages: u64,
    /// Set bits before each [`STEP`] bytes.
    ranks: Vec<u64>,
}

const STEP: usize = 512;

impl Bitmap {
    fn new(bytes: Vec<u8>, pages: u64) -> Self {
        let mut ranks = Vec::with_capacity(bytes.len() / STEP + 1);
        let mut rank = 0;
        for step in bytes.chunks(STEP) {
            ranks.push(rank);
            rank += ones(step);
        }
        let pages = pages.min(bytes.len() as u64 * 8);
        Self { bytes, pages, ranks }
    }

    fn byte(&self, page: u64) -> Option<u8> {
        self.bytes.get(usize::try_from(page / 8).ok()?).copied().filter(|_| page < self.pages)
    }

    /// How many pages are set before this one, if it is.
    fn rank(&self, page: u64) -> Option<u64> {
        let byte = self.byte(page)?;
        if byte >> (page % 8) & 1 == 0 {
            return None;
        }
        let at = (page / 8) as usize;
        let whole = self.bytes.get(at - at % STEP..at)?;
        let below = byte & ((1u16 << (page % 8)) - 1) as u8;
        Some(self.ranks.get(at / STEP)? + ones(whole) + u64::from(below.count_ones()))
    }

    /// Stretches of set pages, in bytes.
    fn runs(&self, page: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut number = 0;
        while number < self.pages {
            let Some(byte) = self.byte(number) else { break };
            if byte == 0 && number % 8 == 0 {
                number += 8;
                continue;
            }
            if byte >> (number % 8) & 1 == 1 {
                // No address is so high that this overflows: the bitmap's
                // length is bounded.
                let (start, end) = (number * page, (number + 1) * page);
                let full = runs.len() >= MAX_RANGES;
                match runs.last_mut() {
                    Some(last) if last.end == start || full => last.end = end,
                    _ => runs.push(start..end),
                }
            }
            number += 1;
        }
        runs
    }
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}
