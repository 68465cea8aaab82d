//! Where fuzzers begin: small true images of what each decoder reads.

use qemu_logbuf::arch::Arch;
use qemu_logbuf::guest::dump::craft as dumps;
use qemu_logbuf::kernel::testing::{ERAS, Kernel, Table};
use qemu_logbuf::printk::craft::{
    ByteWriter, Line, RingPlan, RingWriter, VariablePlan, VariableWriter, btf,
};

use super::memory::{ARCHS, BASES};

const BANNER: &str = "Linux version 6.1.0 (a@b) (gcc 12) #1 SMP Thu";

/// A target's name and an input for it.
pub type Seed = (&'static str, Vec<u8>);

/// All of them.
///
/// # Panics
/// Never, unless the writers of images are broken.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for arch in &ARCHS[..3] {
        logs(*arch, &mut seeds);
        kernels(*arch, &mut seeds);
    }
    for arch in ARCHS {
        seeds.push(("dump", dumps::core(arch, &[(0x1000, b"abcdef"), (0x9000, b"xyz")], false)));
        seeds.push(("dump", dumps::core(arch, &[(0x1000, b"abcdef"), (0x9000, b"xyz")], true)));
        for how in [dumps::How::Plain, dumps::How::Zlib, dumps::How::Snappy, dumps::How::Zstd] {
            let kdump = dumps::kdump(arch, how, false);
            seeds.push(("dump", dumps::flatten(&kdump, true)));
            seeds.push(("dump", kdump));
        }
    }
    for magic in [
        &b"\x1f\x8b\x08"[..],
        b"\xfd7zXZ\0",
        b"\x5d\0\0",
        b"\x02\x21\x4c\x18",
        b"\x04\x22\x4d\x18",
        b"\x28\xb5\x2f\xfd",
    ] {
        seeds.push(("unpack", [magic, &[0; 40]].concat()));
        seeds.push(("kernel", [&[0x48; 64], magic, &[0; 40]].concat()));
    }
    seeds.push(("unpack", dumps::hex(dumps::ZSTD)));
    let map = format!(
        "c000000000000000 T _stext\nc00000000000f000 T start_kernel\n{}",
        "c000000000010000 d prb\nc000000000010008 D linux_banner\n"
    );
    seeds.push(("system_map", map.into_bytes()));
    seeds.push(("monitor", SESSION.as_bytes().to_vec()));
    seeds
}

/// The eight bytes that an input of memory begins with.
fn head(arch: Arch, base: u64, hint: u16, offset: u32) -> Vec<u8> {
    let arch = ARCHS.iter().position(|other| *other == arch).unwrap_or_default();
    let base = BASES.iter().position(|other| *other == base).unwrap_or_default();
    [&[arch as u8, base as u8], &hint.to_le_bytes()[..], &offset.to_le_bytes()].concat()
}

fn logs(arch: Arch, seeds: &mut Vec<Seed>) {
    let number = ARCHS.iter().position(|other| *other == arch).unwrap_or_default() as u8;
    for (six_words, future) in [(false, false), (true, true)] {
        let plan = RingPlan { arch, six_words, future, ..RingPlan::SMALL };
        seeds.push(("btf", [&[number][..], &btf(plan)].concat()));
    }
    let lines = ["random: crng init done", "a\x1b[2Jb", "two\nlines", "", "caf\u{e9}\u{202e}x"];
    for (rounds, six_words) in [(1, true), (30, false)] {
        let plan = RingPlan { arch, six_words, ..RingPlan::SMALL };
        let mut ring = RingWriter::new(plan);
        for text in lines.iter().cycle().take(lines.len() * rounds) {
            ring.print(&Line::new(*text));
        }
        ring.commit(&Line::new("still open"));
        let input =
            |hint, offset| [head(arch, plan.base, hint, offset), ring.sheet.bytes.clone()].concat();
        seeds.push(("ringbuffer", input(88, ring.prb_at() as u32)));
        seeds.push(("ringbuffer", input(0, ring.prb_at() as u32)));
        seeds.push(("salvage", input(0, ring.data_at() as u32)));
        seeds.push(("scan", input(0, 0)));
        seeds.push(("stack", input(0x8040, 0x100)));
    }
    let plan = VariablePlan { arch, ..VariablePlan::SMALL };
    let mut log = VariableWriter::new(plan);
    let mut bytes = ByteWriter::new(arch, 4096, false);
    for text in lines.iter().cycle().take(90) {
        log.print(&Line::new(*text));
        bytes.emit(format!("<4>[    1.000000] {text}\n").as_bytes());
    }
    let (_, offset) = log.buffer();
    let log = log.sheet;
    seeds.push((
        "variable",
        [head(arch, plan.base, log.number(32, 4) as u16, offset as u32), log.bytes.clone()]
            .concat(),
    ));
    seeds.push(("scan", [head(arch, plan.base, 0, 0), log.bytes].concat()));
    let bytes = bytes.sheet;
    seeds.push(("bytes", [head(arch, bytes.base, 0, 0x800), bytes.bytes.clone()].concat()));
    seeds.push(("scan", [head(arch, bytes.base, 0, 0), bytes.bytes].concat()));
}

fn kernels(arch: Arch, seeds: &mut Vec<Seed>) {
    let mut made = Kernel::new(arch).with_banner(BANNER);
    made.function("start_kernel", made.base + 0x10, 0x20);
    made.file("kernel/printk/printk.c");
    made.local("prb", made.base + 0x40);
    seeds.push(("elf", made.build()));
    for era in ERAS {
        let mut made = Kernel::new(arch).with_banner(BANNER);
        made.rodata.resize(made.rodata.len().next_multiple_of(8), 0);
        let banner = made.base + made.text.len() as u64;
        let mut table = Table::sample(arch, made.base, banner);
        // As small as it may be and still be believed.
        table.symbols.retain(|(_, _, name)| !name.ends_with(['1', '2', '4', '5', '7', '8']));
        let table = table.encode(arch, era, made.here());
        let bare = [made.text.clone(), made.rodata.clone(), table.clone()].concat();
        seeds.push(("kallsyms", [head(arch, 0, 0, 0x20), bare.clone()].concat()));
        if era == ERAS[0] {
            made.rodata.extend(table);
            made.stripped = true;
            seeds.push(("kernel", made.build()));
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&0x2705_1956_u32.to_be_bytes());
            header[12..16].copy_from_slice(&(bare.len() as u32).to_be_bytes());
            header[30] = 2;
            seeds.push(("kernel", [header, bare].concat()));
        }
    }
}

/// What QEMU 7.2 says, in the order in which it is asked.
const SESSION: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}
{"return": {}, "id": 1}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}
{"return": {"status": "running", "singlestep": false, "running": true}, "id": 2}
{"return": [{"thread-id": 7, "cpu-index": 0}], "id": 3}
{"return": "FlatView #0\r\n Root memory region: system\r\n  0000000000000000-000000001fffffff (prio 0, ram): ppc_spapr.ram\r\n", "id": 4}
{"return": "CPU#0\r\nNIP c000000000000100   LR 0000000000000000 CTR 0000000000000000 XER 0000000000000000 CPU#0\r\nMSR 8000000000001000 HID0 0000000000000000  HF 6c000004 iidx 3 didx 3\r\nGPR00 0000000000000000 0000000000000001 0000000000000000 0000000000000000\r\n", "id": 5}
{"return": "Host virtual address for 0x0 (ppc_spapr.ram) is 0x7f0000000000\r\n", "id": 6}
{"return": [{"frontend-open": true, "filename": "mux", "label": "compat_monitor0"}], "id": 7}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}
"#;
