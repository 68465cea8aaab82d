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
use super::resolve::{Nearest, Place, Resolve};
use super::types::KernelTypes;
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
const PRINTK_C: &[u8] = b"printk.c";

/// Larger than any kernel's `.shstrtab`, in bytes.
const MOST_SECTION_NAMES: u64 = 1 << 20;

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
        let source = Source::Elf(self.path.clone());
        Ok(Names { source, arch: Some(self.arch), banner, symbols, types: self.types() })
    }

    /// The types it carries (`.BTF`).
    pub(super) fn types(&self) -> KernelTypes {
        let part = |section: &Section| {
            let end = section.offset.saturating_add(section.size);
            KernelTypes::in_file(&self.input, section.offset..end)
        };
        self.section(b".BTF").map(part).unwrap_or_default()
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
        self.each_piece(symtab, |piece| {
            let symbols = piece.chunks_exact(self.symbol_size());
            let symbols = symbols.filter_map(|entry| RawSymbol::decode(entry, self.arch));
            code.extend(
                symbols
                    .filter(|symbol| self.is_code(symbol))
                    .map(|symbol| (symbol.name, symbol.address, symbol.size, symbol.is_global())),
            );
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
        let cache = ReadCache::new(self.input.stream(0, u64::MAX));
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
        let sections = header.section_headers(endian, &cache).map_err(malformed)?;
        let names = header.shstrndx(endian, &cache).ok();
        let names = names.and_then(|names| sections.get(names as usize)).and_then(|section| {
            // Fetched in one piece: `object` would fetch each name alone.
            let size: u64 = section.sh_size(endian).into();
            (size <= MOST_SECTION_NAMES).then(|| section.data(endian, &cache).ok()).flatten()
        });
        for section in sections {
            let name = names.unwrap_or_default().get(section.sh_name(endian) as usize..);
            let name = name.and_then(|name| name.split(|byte| *byte == 0).next());
            let kind = section.sh_type(endian);
            let size = if kind == elf::SHT_NOBITS { 0 } else { section.sh_size(endian).into() };
            self.sections.push(Section {
                name: name.unwrap_or_default().to_vec(),
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

    /// The entries of `.symtab`, some thousands at a time.
    fn each_piece(&self, symtab: &Section, mut each: impl FnMut(&[u8])) -> Result<(), SourceError> {
        let size = self.symbol_size();
        let mut buf = vec![0; PIECE / size * size];
        let mut offset = 0;
        while offset < symtab.size {
            let left = usize::try_from(symtab.size - offset).unwrap_or(usize::MAX);
            let piece = buf.len().min(left / size * size);
            let Some(piece) = buf.get_mut(..piece).filter(|piece| !piece.is_empty()) else { break };
            self.input.read_exact_at(symtab.offset.saturating_add(offset), piece)?;
            each(piece);
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
            strings.resize(left, 0);
            self.input.read_exact_at(strtab.offset.saturating_add(start), &mut strings)?;
            // A string across two parts belongs to the second.
            let whole = match start + (left as u64) < strtab.size {
                true => memchr::memrchr(0, &strings).filter(|end| *end > 0).unwrap_or(left),
                false => left,
            };
            strings.truncate(whole);
            strings.resize(whole + 8, 0);
            let (mut number, mut file) = (0, 0);
            let mut hits = Vec::new();
            self.each_piece(symtab, |piece| {
                hits.clear();
                let sieve = Sieve { index: &index, strings: &strings, start };
                sieve.sift(piece, self.arch, &mut hits);
                for hit in &hits {
                    let entry = piece.get(hit * self.symbol_size()..).unwrap_or_default();
                    let Some(symbol) = RawSymbol::decode(entry, self.arch) else { continue };
                    let name = sieve.name(symbol.name);
                    if symbol.kind() == elf::STT_FILE {
                        file = number + hit + 1;
                        if name == Some(PRINTK_C) {
                            printk.push(file);
                        }
                        continue;
                    }
                    let real = symbol.section != 0 && symbol.kind() != elf::STT_SECTION;
                    let name = name.filter(|_| real && found.len() < MOST_FOUND);
                    if let Some(name) = name.and_then(|name| index.number(name)) {
                        found.push((name, file, symbol));
                    }
                }
                number += piece.len() / self.symbol_size();
            })?;
            start += whole as u64;
        }
        let mut finds = Finds::default();
        for (name, file, symbol) in found {
            let function = symbol.kind() == elf::STT_FUNC || self.is_descriptor(&symbol);
            let kind = if function { Kind::Text } else { Kind::Data };
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

    /// One string of a table, if it is of a length that names have
    /// (`KSYM_NAME_LEN` is 512).
    fn string(&self, table: &Section, offset: u32) -> Result<Option<Vec<u8>>, SourceError> {
        let mut buf = [0; 512];
        let offset = u64::from(offset);
        let left = usize::try_from(table.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let buf = buf.get_mut(..left.min(512)).unwrap_or_default();
        self.input.read_exact_at(table.offset.saturating_add(offset), buf)?;
        let end = memchr::memchr(0, buf);
        Ok(end.and_then(|end| buf.get(..end)).map(<[u8]>::to_vec))
    }

    /// Whether a symbol is a function's descriptor (ELFv1). Those of static
    /// functions may have no type: `con_start` of tty/vt.c is one.
    fn is_descriptor(&self, symbol: &RawSymbol) -> bool {
        let section = self.sections.get(usize::from(symbol.section));
        section.is_some_and(|section| section.name == b".opd")
    }

    fn is_code(&self, symbol: &RawSymbol) -> bool {
        let section = self.sections.get(usize::from(symbol.section));
        section.is_some_and(|section| section.flags.contains(elf::SHF_EXECINSTR))
            && symbol.section != 0
            && !matches!(symbol.kind(), elf::STT_SECTION | elf::STT_FILE | elf::STT_OBJECT)
    }
}

impl Resolve for Elf {
    fn resolve(&self, addresses: &[u64]) -> Result<Vec<Option<Place>>, SourceError> {
        let Some((symtab, strtab)) = self.symbol_table()? else {
            return Err(SourceError::NoSymbols { arch: self.arch, banner: None });
        };
        let mut nearest = Nearest::new(addresses);
        let highest = addresses.iter().copied().max().unwrap_or_default();
        self.each_piece(symtab, |piece| {
            let symbols = piece.chunks_exact(self.symbol_size());
            for symbol in symbols.filter_map(|entry| RawSymbol::decode(entry, self.arch)) {
                if symbol.address <= highest && self.is_code(&symbol) {
                    let name = || (symbol.name, symbol.is_global());
                    nearest.offer(symbol.address, symbol.size, name);
                }
            }
        })?;
        nearest.settle(Some(self.arch), |(name, global)| {
            Ok(self.string(strtab, *name)?.map(|name| (*global, name)))
        })
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
    /// The entry that `bytes` begin with.
    #[inline]
    fn decode(bytes: &[u8], arch: Arch) -> Option<Self> {
        let bytes = Bytes::new(bytes, arch);
        let name = bytes.u32(0)?;
        Some(match arch.word {
            Word::W64 => Self {
                name,
                info: bytes.u8(4)?,
                section: bytes.u16(6)?,
                address: bytes.u64(8)?,
                size: bytes.u64(16)?,
            },
            Word::W32 => Self {
                name,
                info: bytes.u8(12)?,
                section: bytes.u16(14)?,
                address: bytes.u32(4)?.into(),
                size: bytes.u32(8)?.into(),
            },
        })
    }

    const fn kind(&self) -> elf::SymbolType {
        elf::SymbolType(self.info & 0xf)
    }

    const fn is_global(&self) -> bool {
        self.info >> 4 != elf::STB_LOCAL.0
    }
}

/// Picks out of a piece of `.symtab` the few entries worth a closer look.
struct Sieve<'a> {
    index: &'a Index,
    /// A part of the string table, with at least eight more bytes behind it.
    strings: &'a [u8],
    /// The offset of that part in the string table.
    start: u64,
}

impl Sieve<'_> {
    /// The numbers in `piece` of the files' symbols and of those that may
    /// have a wanted name.
    fn sift(&self, piece: &[u8], arch: Arch, hits: &mut Vec<usize>) {
        // A loop for each kind of file, so that the choice is not made anew
        // for every symbol.
        match (arch.word, arch.endian) {
            (Word::W64, Endian::Little) => self.sift_as::<24, 4>(piece, u32::from_le_bytes, hits),
            (Word::W64, Endian::Big) => self.sift_as::<24, 4>(piece, u32::from_be_bytes, hits),
            (Word::W32, Endian::Little) => self.sift_as::<16, 12>(piece, u32::from_le_bytes, hits),
            (Word::W32, Endian::Big) => self.sift_as::<16, 12>(piece, u32::from_be_bytes, hits),
        }
    }

    /// `SIZE` is an entry's, `INFO` where in it `st_info` is. Most of the
    /// time goes into waiting for the strings, so nothing else is done here
    /// that would keep the processor from fetching several at once.
    #[inline(always)]
    fn sift_as<const SIZE: usize, const INFO: usize>(
        &self,
        piece: &[u8],
        number: impl Fn([u8; 4]) -> u32,
        hits: &mut Vec<usize>,
    ) {
        for (n, entry) in piece.chunks_exact(SIZE).enumerate() {
            let (Some(name), Some(info)) = (entry.first_chunk(), entry.get(INFO)) else { continue };
            let at = u64::from(number(*name)).wrapping_sub(self.start) as usize;
            let first = self.strings.get(at..).and_then(|string| string.first_chunk());
            let wanted = first.is_some_and(|first| self.index.maybe(key(*first)));
            if wanted || info & 0xf == elf::STT_FILE.0 {
                hits.push(n);
            }
        }
    }

    /// The string at `offset` of the table, if it lies in this part.
    fn name(&self, offset: u32) -> Option<&[u8]> {
        let at = usize::try_from(u64::from(offset).checked_sub(self.start)?).ok()?;
        let string = self.strings.get(at..)?;
        string.get(..memchr::memchr(0, string)?)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::Kernel;
    use super::*;

    const BANNER: &str = "Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";
    const ARCHES: [Arch; 3] = [Arch::PPC64LE, Arch::PPC64, Arch::PPC32];

    fn parsed(bytes: Vec<u8>) -> Result<Elf, SourceError> {
        Elf::parse(Input::Bytes(Arc::new(bytes)), PathBuf::from("vmlinux"))
    }

    fn kernel(arch: Arch) -> Kernel {
        let mut kernel = Kernel::new(arch);
        let base = kernel.base;
        kernel.file("verifier.c");
        kernel.local("log_buf", base + 0x8000);
        kernel.local("cont", base + 0x8008);
        kernel.file("printk.c");
        kernel.local("prb", base + 0x140);
        kernel.local("log_buf", base + 0x148);
        kernel.function("start_kernel", base + 0x40, 0x20);
        kernel.symbol("cont", base + 0x50, 8, 0x12, 1);
        kernel.with_banner(BANNER)
    }

    #[test]
    fn names_banner_and_functions_of_every_word_size_and_byte_order() {
        for arch in ARCHES {
            let kernel = kernel(arch);
            let elf = parsed(kernel.build()).expect("an ELF file");
            assert_eq!(elf.arch(), arch);
            let names = elf.names().expect("names");
            assert_eq!(names.arch, Some(arch));
            assert_eq!(names.banner.as_deref(), Some(BANNER.as_bytes()));
            assert_eq!(names.address("prb"), Some(kernel.base + 0x140));
            assert_eq!(names.address("_stext"), Some(kernel.base));
            let functions = elf.functions().expect("functions");
            assert_eq!(functions.resolve(kernel.base + 0x44), Some(("start_kernel", 4)));
            let places = elf.resolve(&[kernel.base + 0x44]).expect("places");
            assert_eq!(places, [Some(("start_kernel".to_owned(), 4))]);
        }
    }

    #[test]
    fn of_a_static_name_that_is_used_twice_printks_is_taken() {
        let names = parsed(kernel(Arch::PPC64LE).build()).and_then(|elf| elf.names());
        let names = names.expect("names");
        assert_eq!(names.address("log_buf"), Some(0xc000_0000_0000_0148));
        assert_eq!(names.address("cont"), None, "the verifier's, and a function");
    }

    #[test]
    fn a_stripped_kernel_still_says_who_it_is() {
        for arch in ARCHES {
            let mut kernel = kernel(arch);
            kernel.stripped = true;
            let elf = parsed(kernel.build()).expect("an ELF file");
            match elf.names() {
                Err(SourceError::NoSymbols { arch: found, banner }) => {
                    assert_eq!(found, arch);
                    assert_eq!(banner.as_deref(), Some(BANNER.as_bytes()));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_program_that_is_no_kernel_is_told() {
        let mut program = Kernel::new(Arch::PPC64LE);
        program.function("main", program.base, 8);
        let names = parsed(program.build()).and_then(|elf| elf.names());
        assert!(matches!(names, Err(SourceError::NotLinux)));
    }

    #[test]
    fn other_files_are_told() {
        assert!(matches!(parsed(Vec::new()), Err(SourceError::Unknown)));
        assert!(matches!(parsed(vec![0x1f; 99]), Err(SourceError::Unknown)));
        let mut x86 = kernel(Arch::PPC64LE).build();
        x86.splice(18..20, [62, 0]);
        assert!(matches!(parsed(x86), Err(SourceError::NotPower(62))));
    }

    #[test]
    fn a_string_table_larger_than_a_part_is_gone_through_in_parts() {
        let mut kernel = Kernel::new(Arch::PPC64).with_banner(BANNER);
        let base = kernel.base;
        let long = "x".repeat(60_000);
        for n in 0..200 {
            kernel.function(&format!("{long}{n}"), base + n, 1);
        }
        // The file's name in one part, its variable in another.
        kernel.file("printk.c");
        for n in 200..300 {
            kernel.local(&format!("{long}{n}"), base + n);
        }
        kernel.local("prb", base + 0x140);
        let names = parsed(kernel.build()).and_then(|elf| elf.names()).expect("names");
        assert_eq!(names.address("prb"), Some(base + 0x140));
        assert_eq!(names.banner.as_deref(), Some(BANNER.as_bytes()));
    }

    #[test]
    fn the_file_may_be_replaced_after_it_was_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmlinux");
        std::fs::write(&path, kernel(Arch::PPC64LE).build()).expect("written");
        let elf = Elf::open(&path).expect("an ELF file");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, b"half of the next").expect("written");
        assert!(elf.names().is_ok());
    }

    fn try_all(bytes: Vec<u8>) {
        if let Ok(elf) = parsed(bytes) {
            let _ = elf.names();
            let _ = elf.functions();
            let _ = elf.resolve(&[0, 0xc000_0044, 0xc000_0000_0000_0044, u64::MAX]);
            let _ = elf.banner();
        }
    }

    #[test]
    fn no_truncation_makes_it_panic() {
        for arch in ARCHES {
            let whole = kernel(arch).build();
            for length in 0..whole.len() {
                try_all(whole.iter().copied().take(length).collect());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_damage_makes_it_panic(
            arch in 0..3_usize,
            changes in proptest::collection::vec((0..0x800_usize, 0..=255_u8), 0..12),
        ) {
            let mut bytes = kernel(ARCHES.get(arch).copied().unwrap_or(Arch::PPC32)).build();
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes.splice(at..=at, [value]);
            }
            try_all(bytes);
        }
    }
}
