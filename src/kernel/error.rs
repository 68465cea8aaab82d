//! Why a file did not give a kernel's names.

use std::fmt;
use std::io;

use crate::arch::Arch;

/// Why a file did not give a kernel's names.
#[derive(Debug)]
pub enum SourceError {
    /// The file could not be opened or read.
    Io(io::Error),
    /// The file is of none of the kinds that can be read.
    Unknown,
    /// An ELF file for another processor; its `e_machine`.
    NotPower(u16),
    /// The file contradicts itself; what in it does.
    Malformed(&'static str),
    /// An ELF kernel without a symbol table. What could be learned without:
    /// enough to tell whether it is the guest's.
    NoSymbols {
        /// What it was compiled for.
        arch: Arch,
        /// Its banner, if one was found by its words.
        banner: Option<Vec<u8>>,
    },
    /// Symbols, but of no Linux kernel.
    NotLinux,
    /// Not the lines of a `System.map`.
    NotAMap,
    /// The one line Debian ships in place of a `System.map`.
    StubMap,
    /// An unpacked kernel that holds no kallsyms.
    NoKallsyms {
        /// Its banner, if one was found by its words.
        banner: Option<Vec<u8>>,
    },
    /// A packed kernel, in a way that cannot be unpacked; its name.
    Packing(&'static str),
    /// Unpacked, it would be larger than any kernel.
    TooLarge,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => f.write_str(&crate::sys::reason(error)),
            Self::Unknown => f.write_str("neither an ELF file, a System.map nor a packed kernel"),
            Self::NotPower(machine) => {
                write!(f, "an ELF file for another processor (machine {machine}), not Power")
            }
            Self::Malformed(what) => write!(f, "damaged: {what}"),
            Self::NoSymbols { .. } => f.write_str("has no symbols (stripped)"),
            Self::NotLinux => f.write_str("has symbols, but is no Linux kernel"),
            Self::NotAMap => f.write_str("not a System.map"),
            Self::StubMap => f.write_str(
                "a stub in place of the System.map; \
                 the real one is in the distribution's debug package (linux-image-...-dbg)",
            ),
            Self::NoKallsyms { .. } => f.write_str("holds no symbols (no kallsyms)"),
            Self::Packing(name) => write!(f, "packed with {name}, which cannot be unpacked here"),
            Self::TooLarge => f.write_str("unpacks to more than 256 MiB"),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Malformed("the file ends too early"),
            _ => Self::Io(error),
        }
    }
}
