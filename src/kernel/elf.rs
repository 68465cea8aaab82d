//! A kernel's ELF file: its symbols, its banner, its build id.
//!
//! A `vmlinux` with debug information is half a gigabyte or more, of which a
//! few megabytes matter. Only headers, `.symtab`, `.strtab` and a few bytes
//! at `linux_banner` are read, the tables in pieces through one buffer, so
//! that neither time nor memory depends on the size of the rest.
//!
//! Headers are parsed by `object`; the two tables are streamed here, since
//! its symbol table wants both in memory whole.

#![deny(clippy::indexing_slicing)]

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::banner;
use super::error::SourceError;
use super::functions::{Builder, Functions};
use super::input::Input;
use super::names::{Names, Source, Symbol};
use super::wanted::{Find, Finds, Home, Index, Kind, key};
use crate::arch::{Arch, Bytes, Endian, Word};

/// How much of a table is in memory at a time, in bytes.
const PIECE: usize = 1 << 17;

/// More section or program headers than any kernel has (ELF's own limit for
/// 16-bit section numbers).
const MOST_HEADERS: usize = 0x1_0000;

/// How much of the string table is in memory at a time, in bytes: all of it
/// but for the largest kernels (the stock Debian ones have 2 to 4 MB), for
/// which the symbols are then gone through once for each part.
const STRINGS: usize = 8 << 20;

/// What static symbols of `kernel/printk/printk.c` (`kernel/printk.c` before
/// 3.11) follow in a symbol table.
const PRINTK_C: &[u8] = b"printk.c\0";

/// More symbols with wanted names than any kernel has.
const MOST_FOUND: usize = 1 << 12;

/// More symbols than any kernel has (an `allyesconfig` has about a million).
const MOST_SYMBOLS: u64 = 1 << 24;

/// A section that lies in the file.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name, as far as it can be read.
    pub name: Vec<u8>,
    /// Effective address, 0 where it is not loaded.
    pub address: u64,
    /// Where its contents are in the file, in bytes.
    pub offset: u64,
    /// Length of the contents in the file, in bytes; 0 for `.bss`.
    pub size: u64,
    kind: elf::SectionType,
    flags: elf::SectionFlags,
    link: usize,
}

/// A part of the file that is loaded.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Effective address.
    pub address: u64,
    /// Where its contents are in the file, in bytes.
    pub offset: u64,
    /// Length of the contents in the file, in bytes.
    pub size: u64,
}

/// An ELF file for Power, its headers read.
#[derive(Clone, Debug)]
pub struct Elf {
    input: Input,
    path: PathBuf,
    arch: Arch,
    sections: Vec<Section>,
    segments: Vec<Segment>,
    build_id: Option<Vec<u8>>,
}

impl Elf {
    /// Open the file at `path`. The file stays open, and it is this one that
    /// is read from then on, also if another takes its place.
    ///
    /// # Errors
    /// [`SourceError::Unknown`] where it is no ELF file,
    /// [`SourceError::NotPower`] where it is for another processor,
    /// [`SourceError::Malformed`] where its headers make no sense.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::parse(Input::open(path)?, path.to_owned())
    }

    /// The same of an open file; `path` is what it is called in reports.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn from_file(file: File, path: PathBuf) -> Result<Self, SourceError> {
        Self::parse(Input::from_file(file)?, path)
    }

    /// The same of any bytes.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn parse(input: Input, path: PathBuf) -> Result<Self, SourceError> {
        let mut ident = [0; 20];
        if input.read_at(0, &mut ident)? < ident.len() || !ident.starts_with(b"\x7fELF") {
            return Err(SourceError::Unknown);
        }
        let [_, _, _, _, class, data, ..] = ident;
        let word = match class {
            1 => Word::W32,
            2 => Word::W64,
            _ => return Err(SourceError::Malformed("neither 32- nor 64-bit")),
        };
        let endian = match data {
            1 => Endian::Little,
            2 => Endian::Big,
            _ => return Err(SourceError::Malformed("no byte order")),
        };
        let arch = Arch { word, endian };
        let machine = Bytes::new(&ident, arch).u16(18).unwrap_or_default();
        match elf::Machine(machine) {
            elf::EM_PPC | elf::EM_PPC64 => {}
            _ => return Err(SourceError::NotPower(machine)),
        }
        let mut this =
            Self { input, path, arch, sections: Vec::new(), segments: Vec::new(), build_id: None };
        match word {
            Word::W32 => this.headers::<elf::FileHeader32<Endianness>>()?,
            Word::W64 => this.headers::<elf::FileHeader64<Endianness>>()?,
        }
        Ok(this)
    }

    /// What it was compiled for.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// What it is called in reports.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GNU build id, where it has one.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// The parts of the file that are loaded.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The section of that name, if it has contents.
    #[must_use]
    pub fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.size > 0)
    }

    /// The bytes of the file.
    #[must_use]
    pub const fn input(&self) -> &Input {
        &self.input
    }

    /// Read the file's contents at an effective address: up to `buf.len()`
    /// bytes, fewer only where the section or segment ends. The number read.
    ///
    /// # Errors
    /// As the host fails; an address the file does not hold gives `Ok(0)`.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> Result<usize, SourceError> {
        let sections = self
            .sections
            .iter()
            .filter(|section| section.flags.contains(elf::SHF_ALLOC))
            .map(|section| (section.address, section.offset, section.size));
        let segments =
            self.segments.iter().map(|segment| (segment.address, segment.offset, segment.size));
        for (start, offset, size) in sections.chain(segments) {
            let Some(skip) = address.checked_sub(start).filter(|skip| *skip < size) else {
                continue;
            };
            let left = usize::try_from(size - skip).unwrap_or(usize::MAX).min(buf.len());
            let part = buf.get_mut(..left).unwrap_or_default();
            return Ok(self.input.read_at(offset.saturating_add(skip), part)?);
        }
        Ok(0)
    }

    /// The names that lead to the log.
    ///
    /// # Errors
    /// [`SourceError::NoSymbols`] where the file is stripped,
    /// [`SourceError::NotLinux`] where none of the names is there, else as
    /// reading fails.
    pub fn names(&self) -> Result<Names, SourceError> {
        let Some((symtab, strtab)) = self.symbol_table()? else {
            return Err(SourceError::NoSymbols { arch: self.arch, banner: self.banner()? });
        };
        let symbols = self.wanted(symtab, strtab)?.settle();
        let banner = match symbols.get("linux_banner") {
            Some(symbol) => self.banner_at(symbol.address)?,
            None if symbols.contains_key("__log_buf") || symbols.contains_key("prb") => None,
            None => return Err(SourceError::NotLinux),
        };
        Ok(Names { source: Source::Elf(self.path.clone()), arch: Some(self.arch), banner, symbols })
    }

    /// The functions, to name addresses in code.
    ///
    /// # Errors
    /// As [`Elf::names`].
    pub fn functions(&self) -> Result<Functions, SourceError> {
        let Some((symtab, strtab)) = self.symbol_table()? else {
            return Err(SourceError::NoSymbols { arch: self.arch, banner: None });
        };
        let mut code = Vec::new();
        self.each_symbol(symtab, |symbol| {
            if self.is_code(&symbol) {
                code.push((symbol.name, symbol.address, symbol.size, symbol.is_global()));
            }
        })?;
        // In the order of the string table, so that it too is read once and
        // in pieces.
        code.sort_unstable();
        let mut names = StringReader::new(self.input.clone(), strtab);
        let mut builder = Builder::new(Some(self.arch));
        for (name, address, size, global) in code {
            if let Some(name) = names.at(name)? {
                builder.push(address, size, global, name);
            }
        }
        Ok(builder.finish())
    }

    /// The banner, found by its words: for a stripped kernel, to compare it
    /// with the guest's. Reads the loaded part of the file.
    ///
    /// # Errors
    /// As the host fails.
    pub fn banner(&self) -> Result<Option<Vec<u8>>, SourceError> {
        for segment in &self.segments {
            let mut stream = self.input.stream(segment.offset, segment.size);
            if let Some(found) = banner::in_stream(&mut stream)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn banner_at(&self, address: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let mut buf = [0; banner::LONGEST];
        let got = self.read(address, &mut buf)?;
        Ok(banner::starting(buf.get(..got).unwrap_or_default()).map(<[u8]>::to_vec))
    }

    fn headers<H: FileHeader<Endian = Endianness>>(&mut self) -> Result<(), SourceError> {
        let malformed = |_| SourceError::Malformed("ELF headers");
        let file = BufReader::new(self.input.stream(0, u64::MAX));
        let cache = ReadCache::new(file);
        let header = H::parse(&cache).map_err(malformed)?;
        let endian = header.endian().map_err(malformed)?;
        let sections = header.shnum(endian, &cache).map_err(malformed)?;
        let segments = header.phnum(endian, &cache).map_err(malformed)?;
        if sections.max(segments) as usize > MOST_HEADERS {
            return Err(SourceError::Malformed("too many ELF headers"));
        }
        for segment in header.program_headers(endian, &cache).map_err(malformed)? {
            if segment.p_type(endian) == elf::PT_LOAD {
                self.segments.push(Segment {
                    address: segment.p_vaddr(endian).into(),
                    offset: segment.p_offset(endian).into(),
                    size: segment.p_filesz(endian).into(),
                });
            }
            if self.build_id.is_none() {
                let notes = segment.notes(endian, &cache).ok().flatten();
                self.build_id = notes.and_then(|notes| build_id(notes, endian));
            }
        }
        let table = header.sections(endian, &cache).map_err(malformed)?;
        for section in table.iter() {
            let kind = section.sh_type(endian);
            let size = if kind == elf::SHT_NOBITS { 0 } else { section.sh_size(endian).into() };
            self.sections.push(Section {
                name: table.section_name(endian, section).unwrap_or_default().to_vec(),
                address: section.sh_addr(endian).into(),
                offset: section.sh_offset(endian).into(),
                size,
                kind,
                flags: section.sh_flags(endian),
                link: section.sh_link(endian) as usize,
            });
            if self.build_id.is_none() {
                let notes = section.notes(endian, &cache).ok().flatten();
                self.build_id = notes.and_then(|notes| build_id(notes, endian));
            }
        }
        Ok(())
    }

    /// `.symtab` and the string table it names.
    fn symbol_table(&self) -> Result<Option<(&Section, &Section)>, SourceError> {
        let found = self.sections.iter().find(|section| section.kind == elf::SHT_SYMTAB);
        let Some(symtab) = found else { return Ok(None) };
        let strtab = self.sections.get(symtab.link).filter(|table| table.kind == elf::SHT_STRTAB);
        let strtab = strtab.ok_or(SourceError::Malformed("no string table for its symbols"))?;
        if symtab.size / self.symbol_size() as u64 > MOST_SYMBOLS {
            return Err(SourceError::Malformed("more symbols than any kernel has"));
        }
        Ok(Some((symtab, strtab)))
    }

    const fn symbol_size(&self) -> usize {
        match self.arch.word {
            Word::W32 => 16,
            Word::W64 => 24,
        }
    }

    /// Every symbol, in order.
    fn each_symbol(
        &self,
        symtab: &Section,
        mut each: impl FnMut(RawSymbol),
    ) -> Result<(), SourceError> {
        let size = self.symbol_size();
        let mut buf = vec![0; PIECE / size * size];
        let mut offset = 0;
        while offset < symtab.size {
            let left = usize::try_from(symtab.size - offset).unwrap_or(usize::MAX);
            let piece = buf.len().min(left / size * size);
            let Some(piece) = buf.get_mut(..piece).filter(|piece| !piece.is_empty()) else { break };
            self.input.read_exact_at(symtab.offset.saturating_add(offset), piece)?;
            // One loop for each kind of file: the choice is not made anew
            // for every symbol.
            match (self.arch.word, self.arch.endian) {
                (Word::W64, Endian::Little) => decode64(piece, &mut each, false),
                (Word::W64, Endian::Big) => decode64(piece, &mut each, true),
                (Word::W32, Endian::Little) => decode32(piece, &mut each, false),
                (Word::W32, Endian::Big) => decode32(piece, &mut each, true),
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// The symbols with wanted names.
    ///
    /// The string table is fetched, not searched: looking at the beginning
    /// of each symbol's name costs a fraction of finding where each string
    /// of the table ends.
    fn wanted(&self, symtab: &Section, strtab: &Section) -> Result<Finds, SourceError> {
        let index = Index::new();
        let mut found = Vec::new();
        // The number of printk.c's own symbol. A second part of a large
        // string table may name it after the symbols were seen.
        let mut printk = Vec::new();
        let length = usize::try_from(strtab.size).unwrap_or(usize::MAX).min(STRINGS);
        // The zeros behind end the last string and let every name, however
        // short, be looked at by eight bytes.
        let mut strings = vec![0; length + 8];
        let mut start = 0;
        while start < strtab.size {
            let left = usize::try_from(strtab.size - start).unwrap_or(usize::MAX).min(length);
            strings.truncate(left);
            self.input.read_exact_at(strtab.offset.saturating_add(start), &mut strings)?;
            strings.resize(left + 8, 0);
            let (mut number, mut file) = (0_u32, 0_u32);
            self.each_symbol(symtab, |symbol| {
                number += 1;
                let kind = symbol.kind();
                if kind == elf::STT_FILE {
                    file = number;
                }
                let name = u64::from(symbol.name).checked_sub(start).map(|at| at as usize);
                let name = name.and_then(|at| strings.get(at..)).unwrap_or_default();
                let Some(first) = name.first_chunk::<8>() else { return };
                if kind == elf::STT_FILE {
                    if name.starts_with(PRINTK_C) {
                        printk.push(number);
                    }
                } else if index.maybe(key(*first)) {
                    let end = memchr::memchr(0, name).unwrap_or_default();
                    let name = index.number(name.get(..end).unwrap_or_default());
                    let real = symbol.section != 0 && kind != elf::STT_SECTION;
                    if let Some(name) = name.filter(|_| real && found.len() < MOST_FOUND) {
                        found.push((name, file, symbol));
                    }
                }
            })?;
            // A string across two parts belongs to the second.
            let whole = match start + (left as u64) < strtab.size {
                true => memchr::memrchr(0, strings.get(..left).unwrap_or_default()),
                false => Some(left),
            };
            start += whole.filter(|whole| *whole > 0).unwrap_or(left) as u64;
        }
        let mut finds = Finds::default();
        for (name, file, symbol) in found {
            let kind = if symbol.kind() == elf::STT_FUNC { Kind::Text } else { Kind::Data };
            // Global symbols follow all local ones, and no file is theirs.
            let home = match (symbol.is_global() || file == 0, printk.contains(&file)) {
                (true, _) => Home::Unknown,
                (false, true) => Home::Printk,
                (false, false) => Home::Elsewhere,
            };
            let place = Symbol { address: symbol.address, size: symbol.size };
            finds.push(name, Find { symbol: place, kind, home, global: symbol.is_global() });
        }
        Ok(finds)
    }

    fn is_code(&self, symbol: &RawSymbol) -> bool {
        let section = self.sections.get(usize::from(symbol.section));
        section.is_some_and(|section| section.flags.contains(elf::SHF_EXECINSTR))
            && symbol.section != 0
            && !matches!(symbol.kind(), elf::STT_SECTION | elf::STT_FILE | elf::STT_OBJECT)
    }
}

fn build_id<H: FileHeader<Endian = Endianness>>(
    mut notes: object::read::elf::NoteIterator<'_, H>,
    endian: Endianness,
) -> Option<Vec<u8>> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc().to_vec()).filter(|id| (2..=64).contains(&id.len()));
        }
    }
    None
}

/// One entry of `.symtab`.
#[derive(Clone, Copy)]
struct RawSymbol {
    name: u32,
    info: u8,
    section: u16,
    address: u64,
    size: u64,
}

impl RawSymbol {
    const fn kind(&self) -> elf::SymbolType {
        elf::SymbolType(self.info & 0xf)
    }

    const fn is_global(&self) -> bool {
        self.info >> 4 != elf::STB_LOCAL.0
    }
}

macro_rules! number {
    ($kind:ty, $bytes:expr, $big:expr) => {
        if $big { <$kind>::from_be_bytes($bytes) } else { <$kind>::from_le_bytes($bytes) }
    };
}

#[inline(always)]
fn decode64(piece: &[u8], each: &mut impl FnMut(RawSymbol), big: bool) {
    for raw in piece.chunks_exact(24) {
        let Ok(raw) = <[u8; 24]>::try_from(raw) else { continue };
        let [a, b, c, d, info, _, e, f, ..] = raw;
        let (_, tail) = raw.split_at(8);
        let (address, size) = tail.split_at(8);
        let (Ok(address), Ok(size)) = (address.try_into(), size.try_into()) else { continue };
        each(RawSymbol {
            name: number!(u32, [a, b, c, d], big),
            info,
            section: number!(u16, [e, f], big),
            address: number!(u64, address, big),
            size: number!(u64, size, big),
        });
    }
}

#[inline(always)]
fn decode32(piece: &[u8], each: &mut impl FnMut(RawSymbol), big: bool) {
    for raw in piece.chunks_exact(16) {
        let Ok(raw) = <[u8; 16]>::try_from(raw) else { continue };
        let [a, b, c, d, e, f, g, h, i, j, k, l, info, _, m, n] = raw;
        each(RawSymbol {
            name: number!(u32, [a, b, c, d], big),
            info,
            section: number!(u16, [m, n], big),
            address: number!(u32, [e, f, g, h], big).into(),
            size: number!(u32, [i, j, k, l], big).into(),
        });
    }
}

/// Strings of a table by ascending offset, read in pieces.
struct StringReader {
    input: Input,
    start: u64,
    size: u64,
    buf: Vec<u8>,
    /// The offset in the table of what `buf` holds.
    at: u64,
    held: usize,
}

impl StringReader {
    fn new(input: Input, table: &Section) -> Self {
        let (start, size) = (table.offset, table.size);
        Self { input, start, size, buf: vec![0; PIECE], at: 0, held: 0 }
    }

    /// The string at `offset`; `None` where there is none, or none of a sane
    /// length.
    fn at(&mut self, offset: u32) -> Result<Option<&[u8]>, SourceError> {
        let offset = u64::from(offset);
        if offset >= self.size {
            return Ok(None);
        }
        if self.end(offset).is_none() {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let piece = self.buf.len().min(left);
            let piece = self.buf.get_mut(..piece).unwrap_or_default();
            self.held = self.input.read_at(self.start.saturating_add(offset), piece)?;
            self.at = offset;
        }
        let Some(end) = self.end(offset) else { return Ok(None) };
        let from = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        Ok(self.buf.get(from..end))
    }

    /// Where in the buffer the string at `offset` ends.
    fn end(&self, offset: u64) -> Option<usize> {
        let from = usize::try_from(offset.checked_sub(self.at)?).ok()?;
        let held = self.buf.get(..self.held)?.get(from..)?;
        Some(from + memchr::memchr(0, held)?)
    }
}
