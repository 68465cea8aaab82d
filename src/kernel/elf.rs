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

mod tables;
#[cfg(test)]
mod tests;

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
use super::wanted::{Find, Finds, Home, Index, Kind};
use crate::arch::{Arch, Bytes, Endian, Word};
use tables::{RawSymbol, Sieve, StringReader};

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

/// How much of a section's name is kept, in bytes: no wanted one is longer,
/// and all of a table's may be one name.
const SECTION_NAME: usize = 64;

/// How many bytes of notes are looked at together: a kernel has some hundreds.
const MOST_NOTES: u64 = 1 << 20;

/// More symbols with wanted names than any kernel has.
const MOST_FOUND: usize = 1 << 12;

/// More symbols than any kernel has (an `allyesconfig` has about a million).
const MOST_SYMBOLS: u64 = 1 << 22;

/// More bytes of their names than any kernel has; the symbols are gone
/// through once for each [`STRINGS`] of them.
const MOST_STRINGS: u64 = 128 << 20;

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
        let mut notes: Vec<(u64, u64)> = Vec::new();
        for segment in header.program_headers(endian, &cache).map_err(malformed)? {
            if segment.p_type(endian) == elf::PT_LOAD {
                self.segments.push(Segment {
                    address: segment.p_vaddr(endian).into(),
                    offset: segment.p_offset(endian).into(),
                    size: segment.p_filesz(endian).into(),
                });
            }
            if segment.p_type(endian) == elf::PT_NOTE {
                notes.push((segment.p_offset(endian).into(), segment.p_filesz(endian).into()));
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
            let name = name.map(|name| name.get(..SECTION_NAME).unwrap_or(name));
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
            if kind == elf::SHT_NOTE {
                notes.push((section.sh_offset(endian).into(), size));
            }
        }
        self.build_id = self.find_build_id(&notes);
        Ok(())
    }

    /// The build id in one of these notes (offset, size).
    fn find_build_id(&self, notes: &[(u64, u64)]) -> Option<Vec<u8>> {
        let mut left = MOST_NOTES;
        notes.iter().find_map(|(offset, size)| {
            left = left.checked_sub(*size).filter(|_| *size > 0)?;
            let mut bytes = vec![0; *size as usize];
            let got = self.input.read_at(*offset, &mut bytes).unwrap_or_default();
            build_id(Bytes::new(bytes.get(..got)?, self.arch))
        })
    }

    /// `.symtab` and the string table it names.
    fn symbol_table(&self) -> Result<Option<(&Section, &Section)>, SourceError> {
        let found = self.sections.iter().find(|section| section.kind == elf::SHT_SYMTAB);
        let Some(symtab) = found else { return Ok(None) };
        let strtab = self.sections.get(symtab.link).filter(|table| table.kind == elf::SHT_STRTAB);
        let strtab = strtab.ok_or(SourceError::Malformed("no string table for its symbols"))?;
        if symtab.size / self.symbol_size() as u64 > MOST_SYMBOLS || strtab.size > MOST_STRINGS {
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

/// The build id among notes: each is the lengths of its name and of its
/// contents, its type, and both, padded to 4.
fn build_id(notes: Bytes<'_>) -> Option<Vec<u8>> {
    let mut at = 0;
    loop {
        let (name, contents) = (notes.u32(at)? as usize, notes.u32(at + 4)? as usize);
        let kind = notes.u32(at + 8)?;
        let name_at = at + 12;
        let contents_at = name_at + name.next_multiple_of(4);
        if kind == elf::NT_GNU_BUILD_ID.0 && notes.slice(name_at, name)? == b"GNU\0" {
            let id = notes.slice(contents_at, contents)?;
            return Some(id.to_vec()).filter(|id| (2..=64).contains(&id.len()));
        }
        at = contents_at + contents.next_multiple_of(4);
    }
}
