//! Every loss that a log can have, done to the saved memory of a real guest,
//! and shown in its place among the records that are left.

use object::{Object, ObjectSymbol};

use super::attach::{hung_and_asked, report, soon};
use super::lab;

/// The ring of a saved ppc64le guest of 5.18 or later.
struct Saved {
    ram: Vec<u8>,
    descs: usize,
    text: usize,
    size: u64,
    head: usize,
}

impl Saved {
    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.ram[at..at + 8].try_into().expect("8 bytes"))
    }

    fn put(&mut self, at: usize, value: u64) {
        self.ram[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// The descriptor of a record, of which none was overwritten yet.
    fn desc(&self, seq: usize) -> usize {
        self.descs + 24 * seq
    }

    /// Where its text block begins.
    fn block(&self, seq: usize) -> usize {
        self.text + (self.word(self.desc(seq) + 8) % self.size) as usize
    }
}

#[test]
fn each_loss_is_shown_in_its_place() {
    let Some(hung) = lab::stock_hung_in("register_early_udbg_console") else { return };
    let (bare, live) = hung_and_asked(&hung);
    let file = bare.folder.path().join("ram").display().to_string();
    bare.monitor().pmemsave(0, 64 << 20, &file, soon()).expect("saved");
    let data = std::fs::read(&hung).expect("the kernel");
    let elf = object::File::parse(&*data).expect("an ELF file");
    let real = |name: &str| {
        let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(name)).expect(name);
        (symbol.address() & 0x0fff_ffff_ffff_ffff) as usize
    };
    let buffer = elf.symbols().find(|symbol| symbol.name() == Ok("__log_buf")).expect("__log_buf");
    let mut saved = Saved {
        size: buffer.size(),
        ram: std::fs::read(&file).expect("the memory"),
        descs: real("_printk_rb_static_descs"),
        text: real("__log_buf"),
        head: real("printk_rb_static"),
    };
    const REUSABLE: u64 = 3 << 62;
    const ID: u64 = u64::MAX >> 2;
    // As the kernel does it: the tail leaves two records behind.
    for seq in [0, 1] {
        let id = saved.word(saved.desc(seq)) & ID;
        saved.put(saved.desc(seq), REUSABLE | id);
    }
    let tail = saved.word(saved.desc(2));
    saved.put(saved.head + 32, tail & ID);
    let tail = saved.word(saved.desc(2) + 8);
    saved.put(saved.head + 48 + 24, tail);
    // FAILED_LPOS: there was no room for its text.
    let failed = saved.desc(3);
    saved.put(failed + 8, 1);
    saved.put(failed + 16, 1);
    // Reserved, the text already there.
    let reserved = saved.desc(5);
    saved.put(reserved, saved.word(reserved) & ID);
    // A block that is another's, and a descriptor that is nobody's.
    let block = saved.block(7);
    saved.put(block, 0x6c6c_6f6c_6c6f_6c20);
    let desc = saved.desc(9);
    saved.put(desc, 0xa5a5_a5a5_a5a5_a5a5);
    saved.put(desc + 8, 0xa5a5_a5a5_a5a5_a5a5);
    std::fs::write(&file, &saved.ram).expect("written");

    let mut expected = live;
    expected[9] += " (salvaged)";
    expected[7] = "[… 1 record damaged …]".into();
    expected[5] += " (in progress)";
    expected[3] = "[… 1 record lost: the kernel had no room for the text …]".into();
    expected.splice(..2, ["[… 2 records overwritten …]".to_owned()]);
    let vmlinux = format!("--logbuf-vmlinux={}", hung.display());
    for more in [None, Some(vmlinux)] {
        let words: Vec<String> =
            [format!("--logbuf-read={file}")].into_iter().chain(more).collect();
        let (text, status) = report(&words);
        assert_eq!(status, Some(0));
        let shown: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
        assert_eq!(shown, expected, "{words:?}: {text}");
    }
}
