//! The types of a kernel that is made to order, as pahole writes them down.

use super::{RingPlan, Sheet};
use crate::arch::Arch;

/// The BTF of such a kernel, as far as it is about the ring: pahole's.
#[must_use]
pub fn btf(plan: RingPlan) -> Vec<u8> {
    let w = plan.arch.word.bytes();
    let [head, desc, info] = plan.unknown();
    let mut types = BtfWriter::new(plan.arch);
    let int = |types: &mut BtfWriter, size: usize| types.add("int", 1, 0, size, &[8 * size as u32]);
    let (byte, half, number) = (int(&mut types, 1), int(&mut types, 2), int(&mut types, 4));
    let (long, wide) = (int(&mut types, w), int(&mut types, 8));
    let flags = types.add("u8", 8, 0, byte as usize, &[]);
    let pointer = types.add("", 2, 0, byte as usize, &[]);
    let mut array = |count: u32| types.add("", 3, 0, 0, &[byte, number, count]);
    let (names, name, none) = (array(16), array(48), array(0));
    let at = |words: usize| 8 * (words * w) as u32;
    let counter = types.members("", w, &[("counter", long, 0, 0)]);
    let counter = types.add("atomic_long_t", 8, 0, counter as usize, &[]);
    let lpos = [("begin", long, 0, 0), ("next", long, at(1), 0)];
    let lpos = types.members("prb_data_blk_lpos", 2 * w, &lpos);
    types.members("prb_data_block", w, &[("id", long, 0, 0), ("data", none, at(1), 0)]);
    let past = 8 * desc as u32;
    let fields = [("state_var", counter, past, 0), ("text_blk_lpos", lpos, past + at(1), 0)];
    types.members("prb_desc", 3 * w + desc, &fields);
    let device = [("subsystem", names, 0, 0), ("device", name, 128, 0)];
    let device = types.members("dev_printk_info", 64, &device);
    let past = 8 * info as u32;
    let dev_info = if plan.info_stride == 112 { 44 } else { 24 };
    let fields = [
        ("seq", wide, past, 0),
        ("ts_nsec", wide, past + 64, 0),
        ("text_len", half, past + 128, 0),
        ("facility", byte, past + 144, 0),
        ("flags", flags, past + 152, 5),
        ("level", flags, past + 157, 3),
        ("caller_id", number, past + 160, 0),
        ("dev_info", device, past + 8 * dev_info, 0),
    ];
    types.members("printk_info", plan.info_stride, &fields);
    let words = if plan.six_words { 6 } else { 5 };
    let ring = [
        ("count_bits", number, 0, 0),
        ("descs", pointer, at(1), 0),
        ("infos", pointer, at(2), 0),
        ("head_id", counter, at(3), 0),
        ("tail_id", counter, at(4), 0),
    ];
    let ring = types.members("prb_desc_ring", words * w, &ring);
    let text = [
        ("size_bits", number, 0, 0),
        ("data", pointer, at(1), 0),
        ("head_lpos", counter, at(2), 0),
        ("tail_lpos", counter, at(3), 0),
    ];
    let text = types.members("prb_data_ring", 4 * w, &text);
    let past = 8 * head as u32;
    let fields = [("desc_ring", ring, past, 0), ("text_data_ring", text, past + at(words), 0)];
    types.members("printk_ringbuffer", head + (words + 5) * w, &fields);
    types.finish()
}

/// Writes BTF, type by type.
struct BtfWriter {
    arch: Arch,
    types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl BtfWriter {
    const fn new(arch: Arch) -> Self {
        Self { arch, types: Vec::new(), strings: Vec::new(), count: 0 }
    }

    fn string(&mut self, text: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A type of that kind; returns its number.
    fn add(&mut self, name: &str, kind: u32, count: u32, size: usize, rest: &[u32]) -> u32 {
        let name = self.string(name);
        let flag = u32::from(kind == 4) << 31;
        self.types.extend([name, flag | kind << 24 | count, size as u32]);
        self.types.extend(rest);
        self.count += 1;
        self.count
    }

    /// A structure: each member's name, type, first bit, and number of bits
    /// where it is a bit field.
    fn members(&mut self, name: &str, size: usize, members: &[(&str, u32, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (name, number, bit, bits) in members {
            rest.extend([self.string(name), *number, bits << 24 | bit]);
        }
        self.add(name, 4, members.len() as u32, size, &rest)
    }

    fn finish(self) -> Vec<u8> {
        let types = 4 * self.types.len();
        let mut sheet = Sheet::new(self.arch, 0, 24 + types);
        sheet.put_number(0, 0xeb9f, 2);
        sheet.put_number(2, 1, 1);
        let header = [24, 0, types, types, self.strings.len()];
        let header = header.into_iter().map(|number| number as u64);
        let all = header.chain(self.types.iter().map(|number| u64::from(*number)));
        for (nth, number) in all.enumerate() {
            sheet.put_number(4 + 4 * nth, number, 4);
        }
        [sheet.bytes, self.strings].concat()
    }
}
