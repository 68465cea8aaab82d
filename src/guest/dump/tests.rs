//! Crafted dumps of every kind, real ones where they are at hand, and damage.

use std::io::Write as _;

use proptest::prelude::*;

use super::craft::*;
use super::*;
use crate::arch::Arch;

fn held(bytes: &[u8]) -> Result<Dump, Error> {
    of_bytes(bytes.to_vec(), None)
}

fn bytes_at(dump: &Dump, real: u64, len: usize) -> Option<Vec<u8>> {
    let mut buf = vec![0; len];
    dump.read(real, &mut buf).ok().map(|()| buf)
}

#[test]
fn cores_of_every_class_and_order_are_read_by_real_address() {
    for arch in ARCHS {
        for many in [false, true] {
            let file = core(arch, &[(0x1000, b"abcdef"), (0x9000, b"xyz"), (0x1006, b"gh")], many);
            let dump = held(&file).unwrap();
            assert_eq!(dump.kind(), Kind::Elf);
            assert_eq!(dump.ram(), [0x1000..0x1008, 0x9000..0x9003]);
            assert_eq!(bytes_at(&dump, 0x1004, 4).unwrap(), b"efgh");
            assert_eq!(bytes_at(&dump, 0x9001, 2).unwrap(), b"yz");
            for (real, len) in [(0xfff, 2), (0x1007, 2), (0x9003, 1), (u64::MAX, 2)] {
                assert_eq!(bytes_at(&dump, real, len), None);
            }
        }
    }
}

#[test]
fn mappings_that_show_the_same_ram_are_one() {
    let pieces: [(u64, &[u8]); 4] =
        [(0x2000, b"cdef"), (0x1ffe, b"abcd"), (0x2001, b"d"), (0x1ffe, b"ab")];
    let dump = held(&core(Arch::PPC64, &pieces, false)).unwrap();
    assert_eq!(dump.ram(), [0x1ffe..0x2004]);
    assert_eq!(bytes_at(&dump, 0x1ffe, 6).unwrap(), b"abcdef");
}

#[test]
fn a_core_cut_short_gives_what_is_there() {
    let file = core(Arch::PPC64, &[(0, b"abcdef"), (0x9000, b"xyz")], false);
    let dump = held(&file[..file.len() - 5]).unwrap();
    assert_eq!(dump.ram(), [0..4]);
    assert!(held(&file[..80]).is_err());
}

#[test]
fn other_files_are_refused_in_words() {
    let mut kernel = core(Arch::PPC64, &[(0, b"x")], false);
    kernel[17] = 2;
    let mut x86 = core(Arch::PPC64LE, &[(0, b"x")], false);
    x86[18] = 62;
    for (file, words) in [
        (&kernel[..], "it is an ELF file, but no core dump"),
        (&x86, "it is a dump of a machine that is no Power"),
        (b"\x1f\x8b\x08", "it is compressed by gzip; unpack it first"),
        (b"", "it is empty"),
        (b"KDUMP   ", "its header is cut short"),
        (b"makedumpfile\0\0\0\0", "its header is cut short"),
    ] {
        assert_eq!(held(file).unwrap_err().to_string(), words);
    }
    assert!(open(Path::new("/"), None).is_err());
}

#[test]
fn plain_bytes_begin_where_they_are_said_to() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\x7fELF and more").unwrap();
    let dump = open(file.path(), Some(0x4000_0000)).unwrap();
    assert_eq!((dump.kind(), dump.ram()), (Kind::Raw, &[0x4000_0000..0x4000_000d][..]));
    assert_eq!(bytes_at(&dump, 0x4000_0009, 4).unwrap(), b"more");
    assert_eq!(bytes_at(&dump, 0x4000_000a, 4), None);
    assert!(matches!(open(file.path(), Some(u64::MAX - 3)), Err(Error::Other(_))));
}

fn is_some_ram(dump: &Dump) {
    let page = PAGE as u64;
    assert_eq!(dump.ram(), [3 * page..6 * page, 9 * page..10 * page]);
    for (number, bytes) in some_ram() {
        assert_eq!(bytes_at(dump, number * page, PAGE).unwrap(), bytes, "{number}");
    }
    let across = bytes_at(dump, 4 * page - 3, 6 + PAGE).unwrap();
    assert_eq!(across[3..3 + PAGE], [0; PAGE]);
    assert_eq!(bytes_at(dump, 6 * page - 1, 2), None);
}

#[test]
fn compressed_pages_of_every_kind_are_unpacked() {
    for arch in ARCHS {
        for how in [How::Plain, How::Zlib, How::Snappy, How::Zstd] {
            for one_bitmap in [false, true] {
                let file = kdump(arch, how, one_bitmap);
                let dump = held(&file).unwrap();
                assert_eq!(dump.kind(), Kind::Kdump);
                is_some_ram(&dump);
                for reversed in [false, true] {
                    let dump = held(&flatten(&file, reversed)).unwrap();
                    assert_eq!(dump.kind(), Kind::KdumpFlattened);
                    is_some_ram(&dump);
                }
            }
        }
    }
}

#[test]
fn a_damaged_page_is_one_place_only() {
    let mut file = kdump(Arch::PPC64LE, How::Zlib, false);
    let at = 4 * PAGE + 3 * 24;
    file[at + 9] ^= 0xff;
    file[at + 10] ^= 0xff;
    let dump = held(&file).unwrap();
    let mut buf = [0; 8];
    let error = dump.read(3 * PAGE as u64, &mut buf).unwrap_err();
    assert_eq!(error.to_string(), "a page of the dump is damaged");
    assert!(dump.read(5 * PAGE as u64, &mut buf).is_ok());
}

/// A page with what makes each of LZO's instructions: runs, near and far
/// matches, single bytes between zeros.
fn lzo_page() -> Vec<u8> {
    let mut page = vec![0; 65536];
    let text = b"The quick brown fox jumps over the lazy dog, says the kernel.";
    for at in [0, 100, 1500, 20000, 60000] {
        page[at..at + text.len()].copy_from_slice(text);
    }
    for n in 0..40 {
        page[30000 + n * 3] = (n * 37) as u8;
    }
    page[40000..40012].copy_from_slice(b"abababababab");
    page[50000..50004].copy_from_slice(b"ring");
    page
}

#[test]
fn streams_of_the_original_libraries_are_unpacked() {
    for stream in [LZO_1, LZO_999] {
        let stream = hex(stream);
        let mut page = vec![0xee; 65536];
        lzo::decompress(&stream, &mut page).unwrap();
        assert!(page == lzo_page());
        // Neither a shorter page nor a longer one, nor a stream cut short.
        assert!(lzo::decompress(&stream, &mut page[..65535]).is_none());
        assert!(lzo::decompress(&stream, &mut vec![0; 65537]).is_none());
        for len in 0..stream.len() {
            assert!(lzo::decompress(&stream[..len], &mut page).is_none());
        }
    }
    let mut page = vec![0; 65536];
    let len = ruzstd::decoding::FrameDecoder::new().decode_all(&hex(ZSTD), &mut page).unwrap();
    assert!(len == 65536 && page == lzo_page());
}

fn read_all(dump: &Dump) {
    let mut buf = [0; 777];
    for range in dump.ram().iter().take(20) {
        let mut at = range.start;
        while at < range.end && at - range.start < 1 << 16 {
            let len = (range.end - at).min(777);
            let _ = dump.read(at, &mut buf[..len as usize]);
            at += len;
        }
    }
    let _ = dump.read(u64::MAX, &mut buf);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_dumps_do_no_harm(
        which in 0usize..16,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        near in proptest::collection::vec((0usize..600, any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        keep in any::<bool>(),
    ) {
        let arch = ARCHS[which % 4];
        let mut file = match which / 4 {
            0 => core(arch, &[(0x1000, &[7; 300]), (0x8000, &[8; 3000])], which % 2 == 0),
            1 => kdump(arch, How::Zlib, false),
            2 => kdump(arch, How::Snappy, true),
            _ => flatten(&kdump(arch, How::Zstd, false), which % 2 == 0),
        };
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        for (at, byte) in near {
            if at < file.len() {
                file[at] = byte;
            }
        }
        if !keep {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(dump) = held(&file) {
            read_all(&dump);
        }
    }

    #[test]
    fn damaged_streams_do_no_harm(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        random in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut stream = hex(LZO_999);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let mut page = vec![0; 65536];
        let _ = lzo::decompress(&stream, &mut page);
        let _ = lzo::decompress(&random, &mut page);
    }
}

/// Dumps of one paused guest each: NAME.raw by `pmemsave 0 SIZE NAME.raw`,
/// NAME.* by other means.
#[test]
fn real_dumps_hold_what_pmemsave_saw() {
    let Some(dir) = std::env::var_os("QEMU_LOGBUF_DUMPS") else {
        println!("skipped: QEMU_LOGBUF_DUMPS names no directory of dumps");
        return;
    };
    let mut files: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut seen = 0;
    for path in &files {
        let truth = path.with_extension("raw");
        if !truth.exists() || *path == truth || path.to_string_lossy().ends_with(".con") {
            continue;
        }
        let truth = open(&truth, Some(0)).unwrap();
        let dump = open(path, None).unwrap();
        let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for range in dump.ram() {
            for at in range.clone().step_by(1 << 20) {
                let len = (range.end - at).min(1 << 20) as usize;
                dump.read(at, &mut ours[..len]).unwrap();
                truth.read(at, &mut theirs[..len]).unwrap();
                assert!(ours[..len] == theirs[..len], "{} at {at:#x}", path.display());
            }
        }
        println!("{}: {} {:x?}", path.display(), dump.kind(), dump.ram());
        seen += 1;
    }
    assert!(seen > 0);
}
