//! Small kernels made by hand, for tests and fuzzers only.

#![allow(missing_docs)]

use crate::arch::{Arch, Endian, Word};

/// An ELF file in the making: one loaded section of code, one of data, and
/// symbols.
pub struct Kernel {
    pub arch: Arch,
    /// Effective address of `.text`, at which `.rodata` follows.
    pub base: u64,
    pub text: Vec<u8>,
    pub rodata: Vec<u8>,
    /// Name, address, size, `st_info`, section number.
    symbols: Vec<(String, u64, u64, u8, u16)>,
    pub stripped: bool,
    /// One more section, not loaded.
    pub extra: Option<(&'static str, Vec<u8>)>,
}

pub const TEXT: u16 = 1;
pub const RODATA: u16 = 2;

impl Kernel {
    pub fn new(arch: Arch) -> Self {
        let base = match arch.word {
            Word::W32 => 0xc000_0000,
            Word::W64 => 0xc000_0000_0000_0000,
        };
        Self {
            arch,
            base,
            text: vec![0x60; 0x100],
            rodata: Vec::new(),
            symbols: Vec::new(),
            stripped: false,
            extra: None,
        }
    }

    /// The address at which the data so far ends.
    pub fn here(&self) -> u64 {
        self.base + (self.text.len() + self.rodata.len()) as u64
    }

    pub fn symbol(&mut self, name: &str, address: u64, size: u64, info: u8, section: u16) {
        self.symbols.push((name.to_owned(), address, size, info, section));
    }

    /// A static variable.
    pub fn local(&mut self, name: &str, address: u64) {
        self.symbol(name, address, 8, 1, RODATA);
    }

    /// What the following static variables are from.
    pub fn file(&mut self, name: &str) {
        self.symbol(name, 0, 0, 4, 0xfff1);
    }

    /// A global function.
    pub fn function(&mut self, name: &str, address: u64, size: u64) {
        self.symbol(name, address, size, 0x12, TEXT);
    }

    /// `linux_banner`, and what every kernel has.
    pub fn with_banner(mut self, text: &str) -> Self {
        let at = self.here();
        self.rodata.extend(text.as_bytes());
        self.rodata.extend(b"\n\0");
        self.symbol("linux_banner", at, text.len() as u64 + 2, 0x11, RODATA);
        self.symbol("_stext", self.base, 0, 0x10, TEXT);
        self
    }

    fn half(&self, out: &mut Vec<u8>, n: u16) {
        out.extend(match self.arch.endian {
            Endian::Little => n.to_le_bytes(),
            Endian::Big => n.to_be_bytes(),
        });
    }

    fn int(&self, out: &mut Vec<u8>, n: u32) {
        out.extend(match self.arch.endian {
            Endian::Little => n.to_le_bytes(),
            Endian::Big => n.to_be_bytes(),
        });
    }

    fn word(&self, out: &mut Vec<u8>, n: u64) {
        match (self.arch.word, self.arch.endian) {
            (Word::W32, _) => self.int(out, n as u32),
            (Word::W64, Endian::Little) => out.extend(n.to_le_bytes()),
            (Word::W64, Endian::Big) => out.extend(n.to_be_bytes()),
        }
    }

    fn symtab(&self) -> (Vec<u8>, Vec<u8>) {
        let wide = self.arch.word == Word::W64;
        let mut table = vec![0; if wide { 24 } else { 16 }];
        let mut strings = vec![0];
        for (name, address, size, info, section) in &self.symbols {
            self.int(&mut table, strings.len() as u32);
            strings.extend(name.as_bytes());
            strings.push(0);
            if wide {
                table.extend([*info, 0]);
                self.half(&mut table, *section);
            }
            self.word(&mut table, *address);
            self.word(&mut table, *size);
            if !wide {
                table.extend([*info, 0]);
                self.half(&mut table, *section);
            }
        }
        (table, strings)
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let wide = self.arch.word == Word::W64;
        let (ehsize, phsize, shsize) = if wide { (64, 56, 64) } else { (52, 32, 40) };
        let (symtab, strtab) = self.symtab();
        let data = self.base + self.text.len() as u64;
        /// Name, type, flags, address, contents, link.
        type Section<'a> = (&'a str, u32, u64, u64, &'a [u8], u32);
        let mut sections: Vec<Section<'_>> = vec![
            ("", 0, 0, 0, &[], 0),
            (".text", 1, 2 | 4, self.base, &self.text, 0),
            (".rodata", 1, 2, data, &self.rodata, 0),
        ];
        if let Some((name, contents)) = &self.extra {
            sections.push((name, 1, 0, 0, contents, 0));
        }
        if !self.stripped {
            let link = sections.len() as u32 + 1;
            sections.push((".symtab", 2, 0, 0, &symtab, link));
            sections.push((".strtab", 3, 0, 0, &strtab, 0));
        }
        let mut names = vec![0_u8];
        let mut name_at = Vec::new();
        for name in sections.iter().map(|section| section.0).chain([".shstrtab"]) {
            name_at.push(if name.is_empty() { 0 } else { names.len() as u32 });
            names.extend(name.as_bytes());
            names.push(0);
        }
        sections.push((".shstrtab", 3, 0, 0, &names, 0));

        let mut body = Vec::new();
        let start = ehsize + phsize;
        let offsets: Vec<u64> = sections
            .iter()
            .map(|section| {
                let at = start + body.len();
                body.extend(section.4);
                at as u64
            })
            .collect();
        let shoff = (start + body.len()) as u64;

        let mut out = b"\x7fELF".to_vec();
        out.push(if wide { 2 } else { 1 });
        out.push(if self.arch.endian == Endian::Little { 1 } else { 2 });
        out.push(1);
        out.resize(16, 0);
        self.half(&mut out, 2);
        self.half(&mut out, if wide { 21 } else { 20 });
        self.int(&mut out, 1);
        self.word(&mut out, self.base);
        self.word(&mut out, ehsize as u64);
        self.word(&mut out, shoff);
        self.int(&mut out, 0);
        for n in [ehsize, phsize, 1, shsize, sections.len(), sections.len() - 1] {
            self.half(&mut out, n as u16);
        }
        let loaded = (self.text.len() + self.rodata.len()) as u64;
        self.int(&mut out, 1);
        if wide {
            self.int(&mut out, 7);
        }
        for n in [start as u64, self.base, 0, loaded, loaded] {
            self.word(&mut out, n);
        }
        if !wide {
            self.int(&mut out, 7);
        }
        self.word(&mut out, 8);
        assert_eq!(out.len(), start);
        out.extend(&body);
        for (n, (_, kind, flags, address, contents, link)) in sections.iter().enumerate() {
            self.int(&mut out, name_at[n]);
            self.int(&mut out, *kind);
            self.word(&mut out, *flags);
            self.word(&mut out, *address);
            self.word(&mut out, offsets[n]);
            self.word(&mut out, contents.len() as u64);
            self.int(&mut out, *link);
            self.int(&mut out, 0);
            self.word(&mut out, 1);
            self.word(&mut out, 0);
        }
        out
    }
}

/// How kallsyms is laid out; the first release that does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    V2_6,
    V4_6,
    V4_20,
    /// With the order by name before the tokens, as 6.2 and 6.1.y.
    V6_2,
    V6_4,
    V7_0,
}

pub const ERAS: [Era; 6] = [Era::V2_6, Era::V4_6, Era::V4_20, Era::V6_2, Era::V6_4, Era::V7_0];

/// The symbols of a kernel, to be encoded as scripts/kallsyms.c does.
pub struct Table {
    /// Ascending addresses, type letters, names.
    pub symbols: Vec<(u64, u8, String)>,
}

impl Table {
    /// Some thousand symbols from `base` on, `prb` and `linux_banner` among
    /// them, and one whose name is longer than 128 bytes.
    pub fn sample(arch: Arch, base: u64, banner: u64) -> Self {
        let mut symbols = vec![(base, b'T', "_stext".to_owned()), (base, b'T', "_text".to_owned())];
        for n in 0..3000_u64 {
            let letter = if n % 3 == 0 { b'T' } else { b't' };
            symbols.push((base + 0x10 + n * 12, letter, format!("some_function_{n}")));
        }
        let first = match arch.word {
            Word::W64 => "early_setup",
            Word::W32 => "machine_init",
        };
        symbols.push((base + 0xf000, b'T', first.to_owned()));
        symbols.push((base + 0x10000, b'd', "prb".to_owned()));
        symbols.push((base + 0x10008, b'd', format!("long_{}", "name_of_rust_".repeat(14))));
        symbols.push((banner, b'D', "linux_banner".to_owned()));
        symbols.sort_by_key(|symbol| symbol.0);
        Self { symbols }
    }

    /// The bytes of all tables, which are to lie at effective address `at`.
    /// Digits and the characters of names stand for themselves, and the
    /// unused bytes below for the ends of names.
    pub fn encode(&self, arch: Arch, era: Era, at: u64) -> Vec<u8> {
        let kernel = Kernel::new(arch);
        let word = arch.word.bytes();
        let align = match era {
            // `.align 8` of a 64-bit kernel, `.align 4` of a 32-bit one: here
            // powers of two.
            Era::V2_6 | Era::V4_6 => 1 << word,
            Era::V4_20 | Era::V6_2 | Era::V6_4 => word,
            Era::V7_0 => 4,
        };
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        for (n, token) in tokens.iter_mut().enumerate() {
            let byte = n as u8;
            let used = byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
            if !used {
                *token = format!("t{n:x}x").into_bytes();
            }
        }
        tokens[1] = b"function_".to_vec();
        tokens[0xfe] = b"name_".to_vec();

        let (mut names, mut marks) = (Vec::new(), Vec::new());
        for (n, (_, letter, name)) in self.symbols.iter().enumerate() {
            if n % 256 == 0 {
                marks.push(names.len() as u64);
            }
            let text = [&[*letter], name.as_bytes()].concat();
            let text = String::from_utf8(text).expect("text");
            // One long name keeps its length, for two bytes of it.
            let packed: Vec<u8> = match name.len() {
                ..100 => text.replace("function_", "\u{1}").bytes().collect(),
                _ => text.into_bytes(),
            };
            match packed.len() {
                ..0x80 => names.push(packed.len() as u8),
                length => names.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]),
            }
            names.extend(packed);
        }

        let mut out = Vec::new();
        let base = self.symbols[0].0;
        let label = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(align), 0);
        let wide = matches!(era, Era::V2_6 | Era::V4_6);
        let number = |out: &mut Vec<u8>, n: u64| match wide {
            true => kernel.word(out, n),
            false => kernel.int(out, n as u32),
        };
        let offsets = |out: &mut Vec<u8>| {
            label(out);
            for (address, ..) in &self.symbols {
                let place = at + out.len() as u64;
                match era {
                    Era::V7_0 => kernel.int(out, address.wrapping_sub(place) as u32),
                    _ => kernel.int(out, (address - base) as u32),
                }
            }
            if era != Era::V7_0 {
                label(out);
                kernel.word(out, base);
            }
        };
        match era {
            Era::V2_6 => self.symbols.iter().for_each(|symbol| kernel.word(&mut out, symbol.0)),
            Era::V4_6 | Era::V4_20 | Era::V6_2 => offsets(&mut out),
            Era::V6_4 | Era::V7_0 => {}
        }
        label(&mut out);
        number(&mut out, self.symbols.len() as u64);
        label(&mut out);
        out.extend(&names);
        label(&mut out);
        marks.iter().for_each(|mark| number(&mut out, *mark));
        let order = |out: &mut Vec<u8>| {
            label(out);
            (0..self.symbols.len()).for_each(|n| out.extend(&(n as u32).to_be_bytes()[1..]));
        };
        if era == Era::V6_2 {
            order(&mut out);
        }
        label(&mut out);
        let start = out.len();
        let mut index = Vec::new();
        for token in &tokens {
            kernel.half(&mut index, (out.len() - start) as u16);
            out.extend(token);
            out.push(0);
        }
        label(&mut out);
        out.extend(&index);
        if matches!(era, Era::V6_4 | Era::V7_0) {
            offsets(&mut out);
            order(&mut out);
        }
        out
    }
}
