//! Dumps made to order: what QEMU and makedumpfile write, for tests and
//! fuzzers only.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, missing_docs)]

use std::io::Write as _;

use crate::arch::{Arch, Endian, Word};

/// Numbers in some order and size, one after another.
struct Writer {
    arch: Arch,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(arch: Arch) -> Self {
        Self { arch, bytes: Vec::new() }
    }

    fn put(&mut self, value: u64, size: usize) -> &mut Self {
        match self.arch.endian {
            Endian::Little => self.bytes.extend_from_slice(&value.to_le_bytes()[..size]),
            Endian::Big => self.bytes.extend_from_slice(&value.to_be_bytes()[8 - size..]),
        }
        self
    }

    fn u16(&mut self, value: u64) -> &mut Self {
        self.put(value, 2)
    }

    fn u32(&mut self, value: u64) -> &mut Self {
        self.put(value, 4)
    }

    fn word(&mut self, value: u64) -> &mut Self {
        self.put(value, self.arch.word.bytes())
    }

    fn zeros_to(&mut self, len: usize) -> &mut Self {
        self.bytes.resize(len, 0);
        self
    }
}

pub const ARCHS: [Arch; 4] =
    [Arch::PPC64LE, Arch::PPC64, Arch::PPC32, Arch { word: Word::W32, endian: Endian::Little }];

/// An ELF core with segments of (address, bytes).
pub fn core(arch: Arch, segments: &[(u64, &[u8])], many: bool) -> Vec<u8> {
    let wide = arch.word == Word::W64;
    let (head, entry) = if wide { (64, 56) } else { (52, 32) };
    let mut file = Writer::new(arch);
    file.bytes.extend_from_slice(b"\x7fELF");
    file.bytes.push(if wide { 2 } else { 1 });
    file.bytes.push(if arch.endian == Endian::Little { 1 } else { 2 });
    file.zeros_to(16).u16(4).u16(if wide { 21 } else { 20 }).u32(1);
    let count = segments.len() as u64 + 1;
    let section = head + count * entry;
    file.word(0).word(head).word(if many { section } else { 0 }).u32(0);
    file.u16(head).u16(entry).u16(if many { 0xffff } else { count }).u16(64).u16(0).u16(0);
    assert_eq!(file.bytes.len() as u64, head);
    // PT_NOTE, of nothing.
    file.u32(4).zeros_to((head + entry) as usize);
    let mut offset = section + if many { 64 } else { 0 };
    for (address, bytes) in segments {
        let len = bytes.len() as u64;
        match wide {
            true => file.u32(1).u32(0).word(offset).word(0),
            false => file.u32(1).word(offset).word(0),
        };
        file.word(*address).word(len).word(len);
        if !wide {
            file.u32(0);
        }
        file.word(0);
        offset += len;
    }
    if many {
        let at = file.bytes.len();
        file.zeros_to(at + if wide { 44 } else { 28 }).u32(count).zeros_to(at + 64);
    }
    for (_, bytes) in segments {
        file.bytes.extend_from_slice(bytes);
    }
    file.bytes
}

#[derive(Clone, Copy, Debug)]
pub enum How {
    Plain,
    Zlib,
    Snappy,
    Zstd,
}

fn compress(how: How, page: &[u8]) -> (u64, Vec<u8>) {
    match how {
        How::Plain => (0, page.to_vec()),
        How::Zlib => {
            let mut stream =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            stream.write_all(page).unwrap();
            (1, stream.finish().unwrap())
        }
        How::Snappy => (4, snap::raw::Encoder::new().compress_vec(page).unwrap()),
        How::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            (0x20, ruzstd::encoding::compress_to_vec(page, level))
        }
    }
}

pub const PAGE: usize = 4096;

/// Pages 3, 4, 5 and 9 of some RAM, of which 4 is zero and left out.
pub fn some_ram() -> Vec<(u64, Vec<u8>)> {
    let page = |n: u8| {
        (0..PAGE).map(|at| if at % 7 == 0 { n } else { (at / 64) as u8 }).collect::<Vec<u8>>()
    };
    vec![(3, page(3)), (4, vec![0; PAGE]), (5, page(5)), (9, page(9))]
}

pub fn kdump(arch: Arch, how: How, one_bitmap: bool) -> Vec<u8> {
    let wide = arch.word == Word::W64;
    let ram = some_ram();
    let mut file = Writer::new(arch);
    file.bytes.extend_from_slice(b"KDUMP   ");
    let status = if wide { 424 } else { 412 };
    file.u32(6).zeros_to(status).u32(0).u32(PAGE as u64).u32(1);
    file.u32(if one_bitmap { 1 } else { 2 }).u32(10).zeros_to(PAGE);
    file.zeros_to(PAGE + 96).put(if wide { 10 } else { 0 }, 8).zeros_to(2 * PAGE);
    let there = 1u64 << 3 | 1 << 4 | 1 << 5 | 1 << 9;
    let dumped = if one_bitmap { there } else { there & !(1 << 4) };
    file.bytes.extend_from_slice(&there.to_le_bytes());
    file.zeros_to(3 * PAGE);
    if !one_bitmap {
        file.bytes.extend_from_slice(&dumped.to_le_bytes());
        file.zeros_to(4 * PAGE);
    }
    let pages: Vec<_> = ram
        .iter()
        .filter(|(number, _)| dumped >> number & 1 == 1)
        .map(|(_, page)| compress(how, page))
        .collect();
    let mut offset = (file.bytes.len() + 24 * pages.len()) as u64;
    for (flags, bytes) in &pages {
        file.put(offset, 8).u32(bytes.len() as u64).u32(*flags).put(0, 8);
        offset += bytes.len() as u64;
    }
    for (_, bytes) in pages {
        file.bytes.extend_from_slice(&bytes);
    }
    file.bytes
}

pub fn flatten(bytes: &[u8], reversed: bool) -> Vec<u8> {
    let mut file = Writer::new(Arch::PPC64);
    file.bytes.extend_from_slice(b"makedumpfile\0\0\0\0");
    file.put(1, 8).put(1, 8).zeros_to(4096);
    // A header that is written again later.
    file.put(0, 8).put(100, 8).bytes.extend_from_slice(&[0xaa; 100]);
    let mut pieces: Vec<_> = bytes.chunks(1000).enumerate().collect();
    if reversed {
        pieces.reverse();
    }
    for (index, piece) in pieces {
        file.put(index as u64 * 1000, 8).put(piece.len() as u64, 8);
        file.bytes.extend_from_slice(piece);
    }
    file.put(u64::MAX, 8).put(u64::MAX, 8);
    file.bytes
}

pub fn hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The tests' `lzo_page()` by `lzo1x_1_compress()` of liblzo2 2.10, which QEMU and
/// makedumpfile use.
pub const LZO_1: &str = "\
    002054686520717569636b2062726f776e20666f78206a756d7073206f76657220746865206c617a\
    7920646f672c2073617973206802056b65726e656c2e002005000020438c01200524022000000000\
    d194002000000000005cdc152000000000d194292000000000000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000fab4131000000000000000000000000000000000000000000000000000000000000000000000\
    000000000031102100632500004a00006f0000940000b90000de00000300002800004d0000720000\
    970000bc0000e100000600002b00005000007500009a0000bf0000e400000900002e000053000078\
    00009d0000c20000e700000c00003100005600007b0000a00000c50000ea00000f00003400005900\
    007e0000a30000100000000000000000000000000000000000000000000000000000000000000000\
    000000000000b59a9561622804002000000000000000000000000000000000000000000000000000\
    00000000000000000000a68c9a0e0000000000000000000000000000000000200000003100000172\
    696e672000000031480d200000000000000000000000000000000000000000000000000000000000\
    000000000000bf380d002054686520717569636b2062726f776e20666f78206a756d7073206f7665\
    7220746865206c617a7920646f672c2073617973206802046b65726e656c2e200000000000000000\
    0000000000000000000000000048e48f0c000000000000000000000000000000110000\
";

/// The same by `lzo1x_999_compress()`, which knows all instructions.
pub const LZO_999: &str = "\
    3154686520717569636b2062726f776e20666f78206a756d7073206f766572207458030b6c617a79\
    20646f672c207361797389026b0806026e656c2e002005000020438c012000000000f70000200000\
    0000005cdc152000000000000000e600002000000000000000e600002000000000000000e6000020\
    00000000000000e600002000000000000000e600002000000000000000e600002000000000000000\
    e600002000000000000000e60000200000ad00001000000000000000fe10212000000000000000e6\
    00002000000000000000e600002000000000000000e6000020000000000000f801002509004a0900\
    6f0900940900b90900de09000309002809004d0900720900970900bc0900e109000609002b090050\
    09007509009a0900bf0900e4090009080021559c5309007809009d0900c20900e709000c09003109\
    005609007b0900a00900c50900ea09000f09003409005909007e0900a32000000000000000e6c821\
    2000000000000000e600002000000000000000e600002000000000000000e6000020000000000000\
    7f020061622804002000000000000000e62c202000000000000000e600002000000000000000e600\
    002000000000000000e6000020000000000000e900000172696e672000000000000000e60c202000\
    000000000000e600002000000000000000e600002000000000000000e6000020000000000000f100\
    001800000000000000fe00712000000000000000e60000200000000000840000110000\
";

/// The same by `ZSTD_compress()` of libzstd 1.5.4.
pub const ZSTD: &str = "\
    28b52ffd6000ff150600b20b242c604fd21a041e2068e06904897e4a45c1d5a3fe278d5934826abf\
    d1bc810633da0f086097119c2c210fd895145f264c3b8246ee386285096e196591398638e181593e\
    3964ce0e3f0bbcb2c92057377c70c02a97fc719b6183014e99648fd90b177c346b6a2b734bda1cd5\
    81a843b8b089eb6c409a5bd2e6daca60475d585415c761143769b0165d46025361dc921e020c009d\
    35c4193d3838802fff06709c83313bf0c7bc0b006f10e70861bc250b608fbaf6ca3f44043f8433a4\
    c03f000a\
";
