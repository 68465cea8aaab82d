//! Makes a kernel hang: overwrites the first instruction of functions with
//! `b .`, a branch to itself.
//!
//! ```text
//! hang-kernel VMLINUX OUT [loop:]SYMBOL[+OFFSET]...
//! ```
//!
//! With `loop:` it is a loop of three instructions.
//!
//! With ELFv2 a function has two entries, the global one and, some
//! instructions later, the local one: both are overwritten. With ELFv1 a
//! function's symbol is its descriptor, which leads to the code.

use std::process::ExitCode;

use object::elf::{EM_PPC64, PF_X, PT_LOAD};
use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Endianness, FileKind, Object, ObjectSection, ObjectSymbol, SymbolFlags};

/// `b .`
const BRANCH_TO_SELF: &[u32] = &[0x4800_0000];

/// `1: nop; nop; b 1b`
const LOOP: &[u32] = &[0x6000_0000, 0x6000_0000, 0x4bff_fff8];

/// A branch to be written, as an offset into the file.
type Places = Vec<u64>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, symbols @ ..] = arguments.as_slice() else {
        eprintln!("usage: hang-kernel VMLINUX OUT SYMBOL[+OFFSET]...");
        return ExitCode::from(2);
    };
    match hang(from, to, symbols) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("hang-kernel: {why}");
            ExitCode::FAILURE
        }
    }
}

fn hang(from: &str, to: &str, symbols: &[String]) -> Result<(), String> {
    if symbols.is_empty() {
        return Err("name a function to hang in".to_owned());
    }
    let mut image = std::fs::read(from).map_err(|error| format!("{from}: {error}"))?;
    let kind = FileKind::parse(image.as_slice()).map_err(|error| format!("{from}: {error}"))?;
    for symbol in symbols {
        let (symbol, code) = match symbol.strip_prefix("loop:") {
            Some(symbol) => (symbol, LOOP),
            None => (symbol.as_str(), BRANCH_TO_SELF),
        };
        let (mut places, endian) = match kind {
            FileKind::Elf64 => entries::<object::elf::FileHeader64<Endianness>>(&image, symbol)?,
            FileKind::Elf32 => entries::<object::elf::FileHeader32<Endianness>>(&image, symbol)?,
            _ => return Err(format!("{from} is no ELF file")),
        };
        // One entry leads to the other.
        let first = places.len() - 1;
        places.drain(..if code.len() > 1 { first } else { 0 });
        for place in places {
            let at = usize::try_from(place).map_err(|error| error.to_string())?;
            let words = code.iter().flat_map(|word| match endian {
                Endianness::Little => word.to_le_bytes(),
                Endianness::Big => word.to_be_bytes(),
            });
            image
                .get_mut(at..at + 4 * code.len())
                .ok_or_else(|| format!("{from} ends before its code"))?
                .copy_from_slice(&words.collect::<Vec<u8>>());
        }
    }
    std::fs::write(to, image).map_err(|error| format!("{to}: {error}"))
}

/// Where in the file the entries of `NAME[+OFFSET]` are.
fn entries<Elf: FileHeader<Endian = Endianness>>(
    image: &[u8],
    wanted: &str,
) -> Result<(Places, Endianness), String> {
    let (name, offset) = match wanted.split_once('+') {
        Some((name, offset)) => (name, number(offset)?),
        None => (wanted, 0),
    };
    let elf = ElfFile::<Elf>::parse(image).map_err(|error| error.to_string())?;
    let endian = elf.endian();
    let code = format!(".{name}");
    let symbols = || elf.symbols().filter(|symbol| !symbol.is_undefined());
    let symbol = symbols()
        .find(|symbol| symbol.name() == Ok(&code))
        .or_else(|| symbols().find(|symbol| symbol.name() == Ok(name)))
        .ok_or_else(|| format!("no symbol {name}"))?;
    let mut address = symbol.address();
    let is_ppc64 = elf.elf_header().e_machine(endian) == EM_PPC64;
    let is_v1 = is_ppc64 && endian == Endianness::Big && elf.section_by_name(".opd").is_some();
    if is_v1 && symbol.name() == Ok(name) {
        // The descriptor's first doubleword is the code's address.
        let opd = elf.section_by_name(".opd").and_then(|opd| {
            let data = opd.data_range(address, 8).ok().flatten()?;
            Some(u64::from_be_bytes(data.try_into().ok()?))
        });
        address = opd.unwrap_or(address);
    }
    let mut addresses = vec![address + offset];
    if let SymbolFlags::Elf { st_other, .. } = symbol.flags()
        && is_ppc64
        && offset == 0
        && st_other.0 >> 5 > 1
    {
        // ELFv2: bits 5 to 7 are the logarithm of the distance to the local
        // entry point (PPC64_LOCAL_ENTRY_OFFSET).
        addresses.push(address + (1 << (st_other.0 >> 5)));
    }
    let places = addresses
        .into_iter()
        .map(|address| file_offset(&elf, address).ok_or_else(|| format!("{name} has no code")))
        .collect::<Result<Places, String>>()?;
    Ok((places, endian))
}

/// Where in the file an address of code is.
fn file_offset<Elf: FileHeader<Endian = Endianness>>(
    elf: &ElfFile<'_, Elf>,
    address: u64,
) -> Option<u64> {
    let endian = elf.endian();
    elf.elf_program_headers().iter().find_map(|segment| {
        let is_code = segment.p_type(endian) == PT_LOAD && segment.p_flags(endian).0 & PF_X.0 != 0;
        let start: u64 = segment.p_vaddr(endian).into();
        let skip = address.checked_sub(start)?;
        (is_code && skip + 4 <= segment.p_filesz(endian).into())
            .then(|| segment.p_offset(endian).into() + skip)
    })
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text}: {error}"))
}
