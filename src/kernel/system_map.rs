//! `System.map`: the kernel's symbols as `nm` lists them.
//!
//! Lines of `ADDRESS TYPE NAME`, the address in hexadecimal of 16 digits for
//! a 64-bit kernel and 8 for a 32-bit one, ascending.

#![deny(clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use super::error::SourceError;
use super::functions::{Builder, Functions};
use super::input::Input;
use super::names::{Names, Source};
use super::resolve::{Nearest, Place, Resolve};
use super::types::KernelTypes;
use super::wanted::{Finds, Index, is_code};
use crate::arch::Arch;

/// How much of the file is in memory at a time, in bytes.
const PIECE: usize = 1 << 16;

/// A `System.map`, open.
#[derive(Clone, Debug)]
pub struct SystemMap {
    input: Input,
    path: PathBuf,
}

impl SystemMap {
    /// Open the file at `path`. It stays open, and it is this one that is
    /// read from then on.
    ///
    /// # Errors
    /// [`SourceError::StubMap`] for the note that Debian ships in its place,
    /// [`SourceError::NotAMap`] where the first line is none of a map's.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::parse(Input::open(path)?, path.to_owned())
    }

    /// The same of any bytes; `path` is what they are called in reports.
    ///
    /// # Errors
    /// As [`SystemMap::open`].
    pub fn parse(input: Input, path: PathBuf) -> Result<Self, SourceError> {
        let mut head = [0; 256];
        let got = input.read_at(0, &mut head)?;
        let head = head.get(..got).unwrap_or_default();
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        // Debian, since 2011: "ffffffffffffffff B The real System.map is in
        // the linux-image-<version>-dbg package".
        if memchr::memmem::find(line, b"real System.map").is_some() {
            return Err(SourceError::StubMap);
        }
        Line::parse(line).ok_or(SourceError::NotAMap)?;
        Ok(Self { input, path })
    }

    /// What it is called in reports.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names that lead to the log.
    ///
    /// [`Names::arch`] is known for a 32-bit kernel (Linux runs there in big
    /// endian only) and for a 64-bit one of ELFv1, told by the dots before
    /// its functions; else a 64-bit kernel may be of either byte order.
    ///
    /// # Errors
    /// [`SourceError::NotLinux`] where none of the names is there,
    /// [`SourceError::NotAMap`] where a line makes no sense.
    pub fn names(&self) -> Result<Names, SourceError> {
        let index = Index::new();
        let mut finds = Finds::default();
        let (mut digits, mut dots) = (0, 0_u32);
        self.each_line(|line| {
            digits = digits.max(line.digits);
            dots += u32::from(is_code(line.kind) && line.has_dot());
            finds.offer(&index, line.address, line.kind, line.name);
        })?;
        let symbols = finds.settle();
        if !symbols.contains_key("_stext") && !symbols.contains_key("linux_banner") {
            return Err(SourceError::NotLinux);
        }
        let arch = match digits {
            ..=8 => Some(Arch::PPC32),
            _ if dots > SOME_DOTS => Some(Arch::PPC64),
            _ => None,
        };
        let source = Source::SystemMap(self.path.clone());
        Ok(Names { source, arch, banner: None, symbols, types: KernelTypes::default() })
    }

    /// The functions, to name addresses in code.
    ///
    /// # Errors
    /// As [`SystemMap::names`].
    pub fn functions(&self) -> Result<Functions, SourceError> {
        let mut builder = Builder::new(None);
        self.each_line(|line| {
            if is_code(line.kind) {
                builder.push(line.address, 0, line.kind == b'T', line.name);
            }
        })?;
        Ok(builder.finish())
    }

    fn each_line(&self, mut each: impl FnMut(Line<'_>)) -> Result<(), SourceError> {
        let mut buf = vec![0; PIECE];
        let (mut offset, mut held) = (0_u64, 0);
        loop {
            let got = self.input.read_at(offset, buf.get_mut(held..).unwrap_or_default())?;
            offset += got as u64;
            let bytes = buf.get(..held + got).unwrap_or_default();
            let whole = match memchr::memrchr(b'\n', bytes) {
                Some(last) => last + 1,
                None if got == 0 => bytes.len(),
                None => return Err(SourceError::NotAMap),
            };
            let lines = bytes.get(..whole).unwrap_or_default();
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                // An undefined weak symbol has no address.
                if !line.starts_with(b" ") {
                    each(Line::parse(line).ok_or(SourceError::NotAMap)?);
                }
            }
            if got == 0 {
                return Ok(());
            }
            held = bytes.len() - whole;
            buf.copy_within(whole..whole + held, 0);
        }
    }
}

impl Resolve for SystemMap {
    fn resolve(&self, addresses: &[u64]) -> Result<Vec<Option<Place>>, SourceError> {
        let mut nearest = Nearest::new(addresses);
        let (mut number, mut dots) = (0_u32, 0_u32);
        self.each_line(|line| {
            if is_code(line.kind) {
                dots += u32::from(line.has_dot());
                let name = || (number, line.kind == b'T', line.name.to_vec());
                nearest.offer(line.address, 0, name);
                number += 1;
            }
        })?;
        // Without a dot in front of any, what a dot means is no question.
        let arch = (dots <= SOME_DOTS).then_some(Arch::PPC64LE);
        nearest.settle(arch, |(_, global, name)| Ok(Some((*global, name.clone()))))
    }
}

/// More functions with a dot in front than the handful of an ELFv2 kernel.
const SOME_DOTS: u32 = 100;

#[derive(Clone, Copy)]
struct Line<'a> {
    address: u64,
    digits: usize,
    kind: u8,
    name: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let digits = address.len();
        if !(8..=16).contains(&digits) || !address.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let &[kind] = kind else { return None };
        let address = u64::from_str_radix(std::str::from_utf8(address).ok()?, 16).ok()?;
        Some(Self { address, digits, kind, name }).filter(|line| !line.name.is_empty())
    }

    /// Whether its name is that of a function's code in ELFv1.
    const fn has_dot(&self) -> bool {
        matches!(self.name, [b'.', b'a'..=b'z' | b'_', ..])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn map(text: &str) -> Result<SystemMap, SourceError> {
        let input = Input::Bytes(Arc::new(text.as_bytes().to_vec()));
        SystemMap::parse(input, PathBuf::from("System.map"))
    }

    const TEXT: &str = "\
c000000000000000 T _stext
c000000000000000 T _text
c000000000010000 T start_kernel
c000000000010200 t helper
c000000000010300 T _etext
c000000001000000 D linux_banner
c000000002536920 d prb
c0000000025369e0 d log_buf
c000000002536a00 d log_buf_len
c000000002ffffff b log_buf
";

    #[test]
    fn names_and_functions_of_a_map() {
        let map = map(TEXT).expect("a map");
        let names = map.names().expect("names");
        assert_eq!(names.address("prb"), Some(0xc000_0000_0253_6920));
        assert_eq!(names.address("log_buf"), Some(0xc000_0000_0253_69e0));
        assert_eq!(names.arch, None);
        let functions = map.functions().expect("functions");
        assert_eq!(functions.resolve(0xc000_0000_0001_0204), Some(("helper", 4)));
        assert_eq!(functions.resolve(0xc000_0000_0001_0300), None);
        let places = map.resolve(&[0xc000_0000_0001_0300, 0xc000_0000_0001_0204]).expect("places");
        assert_eq!(places, [None, Some(("helper".to_owned(), 4))]);
    }

    #[test]
    fn eight_digits_are_a_32_bit_kernel() {
        let names = map("c0000000 T _stext\nc0500000 d prb\n").and_then(|map| map.names());
        assert_eq!(names.expect("names").arch, Some(Arch::PPC32));
    }

    #[test]
    fn dots_before_functions_are_elfv1() {
        let mut text = String::from("c000000000000000 T _stext\n");
        for n in 0..200 {
            text += &format!("c000000000{n:06x} T .function_{n}\n");
        }
        let map = map(&text).expect("a map");
        assert_eq!(map.names().expect("names").arch, Some(Arch::PPC64));
        let functions = map.functions().expect("functions");
        assert_eq!(functions.resolve(0xc000_0000_0000_0009), Some(("function_9", 0)));
    }

    #[test]
    fn debians_stub_and_other_files_are_refused_by_name() {
        let stub = "ffffffffffffffff B The real System.map is in the linux-image-x-dbg package\n";
        assert!(matches!(map(stub), Err(SourceError::StubMap)));
        assert!(matches!(map("hello, world\n"), Err(SourceError::NotAMap)));
        assert!(matches!(map(""), Err(SourceError::NotAMap)));
        let other = map("c000000000000000 T main\n").expect("lines of a map");
        assert!(matches!(other.names(), Err(SourceError::NotLinux)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(lines in proptest::collection::vec(".{0,80}", 0..40)) {
            let text = format!("c000000000000000 T _stext\n{}", lines.join("\n"));
            if let Ok(map) = map(&text) {
                let _ = map.names();
                let _ = map.functions();
            }
        }
    }

    #[test]
    fn a_map_larger_than_a_piece_is_read_whole() {
        let mut text = String::from(TEXT);
        for n in 0..20_000 {
            text += &format!("c0000000020{n:05x} d variable_with_some_name_{n}\n");
        }
        text += "c0000000030a1340 b __log_buf";
        let names = map(&text).and_then(|map| map.names()).expect("names");
        assert_eq!(names.address("__log_buf"), Some(0xc000_0000_030a_1340));
    }
}
