//! The few names of a kernel that lead to its log, from whatever source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::types::KernelTypes;
use crate::arch::Arch;
use crate::guest::AddressRule;

/// Where a kernel's names were taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The symbol table of an ELF file.
    Elf(PathBuf),
    /// A `System.map`.
    SystemMap(PathBuf),
    /// kallsyms inside a kernel image file.
    ImageKallsyms(PathBuf),
    /// kallsyms in guest memory.
    GuestKallsyms,
    /// No names: structures recognised in guest memory.
    Scan,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(path) => write!(f, "symbols of {}", path.display()),
            Self::SystemMap(path) => write!(f, "{}", path.display()),
            Self::ImageKallsyms(path) => write!(f, "kallsyms of {}", path.display()),
            Self::GuestKallsyms => f.write_str("kallsyms in guest memory"),
            Self::Scan => f.write_str("a scan of guest memory"),
        }
    }
}

/// One symbol of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Effective address, as linked.
    pub address: u64,
    /// Size in bytes; 0 where the source gives none.
    pub size: u64,
}

/// The symbols that a log can be found by; sources keep these and no others.
/// The first 20 are `kernel/printk/printk.c`'s.
pub const WANTED: &[&str] = &[
    // Every format: 5.10+ (prb), 3.5-5.9 (log_first_idx ..), before (log_end ..).
    "prb",
    "printk_rb_static",
    "printk_rb_dynamic",
    "_printk_rb_static_descs",
    "_printk_rb_static_infos",
    "__log_buf",
    "log_buf",
    "log_buf_len",
    "log_first_seq",
    "log_first_idx",
    "log_next_seq",
    "log_next_idx",
    "cont",
    "log_start",
    "log_end",
    "logged_chars",
    "con_start",
    // Consoles: whether one is registered, and what it has printed.
    "console_list",
    "console_drivers",
    "console_seq",
    // Identity and address rule.
    "linux_banner",
    "_stext",
    "_text",
    "_end",
    "memstart_addr",
    "kernstart_addr",
    "kernstart_virt_addr",
    // BTF, where the kernel carries it.
    "__start_BTF",
    "__stop_BTF",
];

/// How many of these are `printk.c`'s variables.
pub(super) const OF_PRINTK: usize = 20;

/// The names of one kernel.
#[derive(Clone, Debug)]
pub struct Names {
    /// Where they come from.
    pub source: Source,
    /// What the kernel was compiled for; `None` where the source does not say
    /// (System.map gives the word size only by its addresses).
    pub arch: Option<Arch>,
    /// `linux_banner`'s text without its newline, where the source holds it.
    pub banner: Option<Vec<u8>>,
    /// The [`WANTED`] symbols that exist. Where a name is ambiguous (`cont`,
    /// `log_buf`), the one of `kernel/printk`.
    pub symbols: BTreeMap<String, Symbol>,
    /// What its types are known by.
    pub types: KernelTypes,
}

impl Names {
    /// The effective address of a symbol, as linked.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).map(|symbol| symbol.address)
    }

    /// Whether a processor that is at `nip` is in the kernel, which runs
    /// `displacement` bytes above where it was linked to; `None` where its
    /// bounds are not known.
    #[must_use]
    pub fn holds(&self, rule: AddressRule, displacement: u64, nip: u64) -> Option<bool> {
        let real = |name| rule.real(self.address(name)?.checked_add(displacement)?);
        let start = real("_stext").or_else(|| real("_text"))?;
        // In real mode, which begins a kernel, the address is the real one.
        Some((start..real("_end")?).contains(&rule.real(nip).unwrap_or(nip)))
    }
}
