//! Unpacking what kernels are packed with.
//!
//! Every output is bounded: a few hundred bytes can unpack to gigabytes.

#![deny(clippy::indexing_slicing)]

use std::io::{self, BufRead, Read};

use lzma_rust2::filter::bcj::BcjReader;
use lzma_rust2::{Lzma2Reader, LzmaReader};

use super::error::SourceError;

/// The largest kernel there is, in bytes: an `allyesconfig` has about 150 MB.
pub const LARGEST: usize = 256 << 20;

/// The largest dictionary of xz and lzma, in KiB; `xz -9` uses 64 MiB.
const DICTIONARY_KIB: u32 = 96 << 10;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `gzip`: what a zImage has unless configured otherwise.
    Gzip,
    /// `xz`, plain or with the Power filter.
    Xz,
    /// `lzma`, the format before xz.
    Lzma,
    /// `lz4`, its frames or the kernel's legacy format.
    Lz4,
    /// `zstd`.
    Zstd,
    /// `bzip2`, which is recognised only.
    Bzip2,
    /// `lzop`, which is recognised only.
    Lzo,
}

const MAGICS: &[(&[u8], Packing)] = &[
    (b"\x1f\x8b\x08", Packing::Gzip),
    (b"\xfd7zXZ\0", Packing::Xz),
    (b"\x5d\0\0", Packing::Lzma),
    (LZ4_LEGACY, Packing::Lz4),
    (b"\x04\x22\x4d\x18", Packing::Lz4),
    (b"\x28\xb5\x2f\xfd", Packing::Zstd),
    (b"BZh", Packing::Bzip2),
    (b"\x89LZO", Packing::Lzo),
];

const LZ4_LEGACY: &[u8] = b"\x02\x21\x4c\x18";

impl Packing {
    /// How something that begins with `bytes` is packed.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, packing)| *packing)
    }

    /// Where in `bytes` something packed may begin: those with magics long
    /// enough not to be everywhere.
    pub fn places(bytes: &[u8]) -> impl Iterator<Item = usize> {
        let magics =
            MAGICS.iter().filter(|(magic, packing)| magic.len() >= 4 || *packing == Self::Gzip);
        magics.flat_map(|(magic, _)| memchr::memmem::find_iter(bytes, magic))
    }

    /// Unpack `packed`, which begins with the magic. What follows the packed
    /// bytes is ignored: kernels have their size there.
    ///
    /// # Errors
    /// [`SourceError::TooLarge`] beyond [`LARGEST`], [`SourceError::Packing`]
    /// where there is no way to unpack it here, else as the bytes are damaged
    /// or reading fails.
    pub fn unpack(self, packed: impl Read) -> Result<Vec<u8>, SourceError> {
        let mut out = Vec::new();
        self.unpack_into(packed, LARGEST, &mut out).map(|()| out)
    }

    /// The same into `out`, which is empty, and at most `largest` bytes; what
    /// was unpacked before an error is there too.
    pub(super) fn unpack_into(
        self,
        packed: impl Read,
        largest: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let mut packed = io::BufReader::with_capacity(1 << 16, packed);
        match self {
            Self::Gzip => bounded(flate2::bufread::GzDecoder::new(packed), largest, out),
            Self::Xz => xz(&mut packed, largest, out),
            Self::Lzma => {
                bounded(LzmaReader::new_mem_limit(packed, DICTIONARY_KIB, None)?, largest, out)
            }
            Self::Lz4 if packed.fill_buf()?.starts_with(LZ4_LEGACY) => {
                lz4_legacy(&mut packed, largest, out)
            }
            Self::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(packed), largest, out),
            Self::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(packed);
                let decoder = decoder.map_err(|_| SourceError::Malformed("its zstd frame"))?;
                bounded(decoder, largest, out)
            }
            Self::Bzip2 => Err(SourceError::Packing("bzip2")),
            Self::Lzo => Err(SourceError::Packing("lzo")),
        }
    }
}

fn bounded(unpacked: impl Read, largest: usize, out: &mut Vec<u8>) -> Result<(), SourceError> {
    unpacked.take(largest as u64 + 1).read_to_end(out).map_err(damaged)?;
    if out.len() > largest { Err(SourceError::TooLarge) } else { Ok(()) }
}

fn damaged(error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            SourceError::Malformed("its packed kernel")
        }
        _ => error.into(),
    }
}

/// What `lz4 -l` makes, in which kernels are packed: blocks of 8 MiB, each
/// after its packed size. The end is the end of the file, but a kernel's
/// build appends the unpacked size (`size_append` of scripts/Makefile.lib):
/// one more number, which no block follows. `lz4_flex` takes it for one.
fn lz4_legacy(
    packed: &mut impl BufRead,
    largest: usize,
    out: &mut Vec<u8>,
) -> Result<(), SourceError> {
    const BLOCK: usize = 8 << 20;
    let malformed = SourceError::Malformed("its lz4 blocks");
    let mut block = Vec::new();
    let mut unpacked = vec![0; BLOCK];
    skip(packed, LZ4_LEGACY.len() as u64)?;
    loop {
        let mut size = Vec::new();
        packed.take(4).read_to_end(&mut size)?;
        let Ok(size) = <[u8; 4]>::try_from(size) else { return Ok(()) };
        let size = u64::from(u32::from_le_bytes(size));
        if size > BLOCK as u64 * 2 || packed.fill_buf()?.is_empty() {
            return if out.is_empty() { Err(malformed) } else { Ok(()) };
        }
        block.clear();
        packed.take(size).read_to_end(&mut block)?;
        match lz4_flex::block::decompress_into(&block, &mut unpacked) {
            Ok(length) => out.extend(unpacked.get(..length).unwrap_or_default()),
            Err(_) => return Err(malformed),
        }
        if out.len() > largest {
            return Err(SourceError::TooLarge);
        }
    }
}

const XZ: SourceError = SourceError::Malformed("its xz container");

/// The xz container (version 1.2.1 of "The .xz File Format"): a stream header
/// and blocks of LZMA2, of which a large kernel has several since xz 5.6
/// packs with several threads. Checksums are not verified: a kernel whose
/// banner equals the guest's is good enough.
fn xz(packed: &mut impl Read, largest: usize, out: &mut Vec<u8>) -> Result<(), SourceError> {
    let mut header = [0; 12];
    packed.read_exact(&mut header)?;
    let check = match header {
        [_, _, _, _, _, _, 0, check, ..] => match check {
            0 => 0,
            1..=3 => 4,
            4..=6 => 8,
            7..=9 => 16,
            10..=12 => 32,
            13..=15 => 64,
            _ => return Err(XZ),
        },
        _ => return Err(XZ),
    };
    while let Some(filters) = block_header(packed)? {
        let mut counted = Counted { inner: &mut *packed, count: 0 };
        let lzma2 =
            Lzma2Reader::new_mem_limit(&mut counted, filters.dictionary, DICTIONARY_KIB, None)?;
        let room = (largest + 1 - out.len()) as u64;
        match filters.power {
            true => BcjReader::new_ppc(lzma2, 0).take(room).read_to_end(out),
            false => lzma2.take(room).read_to_end(out),
        }
        .map_err(damaged)?;
        if out.len() > largest {
            return Err(SourceError::TooLarge);
        }
        let padding = counted.count.next_multiple_of(4) - counted.count;
        skip(packed, padding + check)?;
    }
    Ok(())
}

struct Filters {
    dictionary: u32,
    /// Branches were made absolute (`xz --powerpc`, `scripts/xz_wrap.sh`).
    power: bool,
}

/// The header of the next block; `None` where the index follows instead.
fn block_header(packed: &mut impl Read) -> Result<Option<Filters>, SourceError> {
    let mut size = [0];
    packed.read_exact(&mut size)?;
    let [size] = size;
    if size == 0 {
        return Ok(None);
    }
    let mut header = vec![0; usize::from(size) * 4 + 3];
    packed.read_exact(&mut header)?;
    let mut rest = header.iter().copied();
    let flags = rest.next().ok_or(XZ)?;
    for size in [0x40, 0x80] {
        if flags & size != 0 {
            number(&mut rest)?;
        }
    }
    let mut filters = Filters { dictionary: 0, power: false };
    for _ in 0..=flags & 3 {
        let (id, length) = (number(&mut rest)?, number(&mut rest)?);
        let properties: Vec<_> =
            rest.by_ref().take(usize::try_from(length).map_err(|_| XZ)?).collect();
        match (id, properties.as_slice()) {
            (0x21, [bits]) => filters.dictionary = dictionary(*bits)?,
            (0x05, _) => filters.power = true,
            _ => return Err(SourceError::Packing("xz of another processor's code")),
        }
    }
    if filters.dictionary == 0 { Err(XZ) } else { Ok(Some(filters)) }
}

/// A number of 7 bits a byte, the lowest first.
fn number(bytes: &mut impl Iterator<Item = u8>) -> Result<u64, SourceError> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = bytes.next().ok_or(XZ)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(XZ)
}

/// The size of LZMA2's dictionary, in bytes.
fn dictionary(bits: u8) -> Result<u32, SourceError> {
    match bits {
        ..40 => Ok((2 | u32::from(bits & 1)) << (bits / 2 + 11)),
        40 => Ok(u32::MAX),
        _ => Err(XZ),
    }
}

fn skip(from: &mut impl Read, count: u64) -> Result<(), SourceError> {
    let skipped = io::copy(&mut from.take(count), &mut io::sink())?;
    if skipped < count { Err(XZ) } else { Ok(()) }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.count += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some 300 KB that pack well, with calls for the Power filter to change.
    fn sample() -> Vec<u8> {
        (0..75_000_u32).flat_map(|n| [0x48, (n >> 8) as u8, n as u8, 1]).collect()
    }

    /// Pack with the tool itself, if it is here.
    fn packed(tool: &str, args: &[&str]) -> Option<Vec<u8>> {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut command = Command::new(tool);
        let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            println!("skipped: no {tool} here");
            return None;
        };
        let mut stdin = child.stdin.take()?;
        let writer = std::thread::spawn(move || stdin.write_all(&sample()));
        let out = child.wait_with_output().expect("it ends");
        writer.join().expect("joined").expect("written");
        Some(out.stdout)
    }

    #[test]
    fn what_the_tools_pack_is_unpacked() {
        for (tool, args, packing) in [
            ("gzip", &["-9"][..], Packing::Gzip),
            ("xz", &["--check=crc32", "-6"], Packing::Xz),
            ("xz", &["--check=sha256", "--powerpc", "--lzma2=dict=32MiB"], Packing::Xz),
            ("xz", &["--block-size=65536"], Packing::Xz),
            ("xz", &["--format=lzma", "-6"], Packing::Lzma),
            ("lz4", &["-l", "-9", "-", "-"], Packing::Lz4),
            ("lz4", &["-", "-"], Packing::Lz4),
            ("zstd", &["-q", "-c", "-19"], Packing::Zstd),
        ] {
            let Some(mut packed) = packed(tool, args) else { continue };
            assert_eq!(Packing::of(&packed), Some(packing), "{tool} {args:?}");
            packed.extend(b"size");
            let unpacked = packing.unpack(packed.as_slice());
            assert!(unpacked.is_ok_and(|bytes| bytes == sample()), "{tool} {args:?}");
            let most = sample().len() - 1;
            let short = packing.unpack_into(packed.as_slice(), most, &mut Vec::new());
            assert!(matches!(short, Err(SourceError::TooLarge)), "{tool} {args:?}");
            for length in (0..packed.len().min(2000)).step_by(97) {
                let _ = packing.unpack(packed.get(..length).unwrap_or_default());
            }
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_named() {
        let packing = Packing::of(b"BZh91AY").expect("known");
        let error = packing.unpack(&b"BZh91AY"[..]).expect_err("not unpacked");
        assert!(error.to_string().contains("bzip2"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            which in 0..MAGICS.len(),
            rest in proptest::collection::vec(0..=255_u8, 0..300),
        ) {
            let (magic, packing) = MAGICS.get(which).copied().unwrap_or((b"", Packing::Gzip));
            let _ = packing.unpack([magic, &rest].concat().as_slice());
        }
    }
}
