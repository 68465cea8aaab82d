//! The memory map, as `info mtree -f` prints it.

use std::ops::Range;

/// One piece of RAM: contiguous in the guest and in QEMU's own memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Real addresses.
    pub range: Range<u64>,
    /// QEMU's name of the memory, such as `ppc_spapr.ram`.
    pub name: String,
}

/// The RAM in the address space `memory`: ascending, not overlapping.
///
/// ROM, flash and device memory are left out: no kernel keeps its log there,
/// and reading a device can change it. Text that is no map gives no pieces.
#[must_use]
pub fn parse(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for view in text.split("FlatView #") {
        // A view's address spaces come before its ranges.
        if !view.lines().any(|line| line.trim_start().starts_with("AS \"memory\",")) {
            continue;
        }
        pieces.extend(view.lines().filter_map(piece));
    }
    pieces.sort_by_key(|piece| piece.range.start);
    pieces.dedup_by(|next, piece| next.range.start < piece.range.end);
    pieces
}

/// `START-LAST (prio N, KIND): NAME`, where it is RAM; numbers are
/// hexadecimal. Later versions append `@OFFSET` and the accelerator's name.
fn piece(line: &str) -> Option<Piece> {
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (properties, name) = rest.split_once("): ")?;
    let (_, kind) = properties.split_once(", ")?;
    // `nv-` marks memory that outlives the machine, such as an NVDIMM.
    if !matches!(kind.trim_start_matches("nv-"), "ram") {
        return None;
    }
    let (start, last) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(last, 16).ok()?.checked_add(1)?;
    let name = name.split(" @").next()?.trim();
    (start < end).then(|| Piece { range: start..end, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 7.2, pseries with 256 MiB and a DIMM.
    const PSERIES: &str = include_str!("testdata/mtree-pseries-dimm-7.2");
    /// QEMU 7.2, mac99.
    const MAC99: &str = include_str!("testdata/mtree-mac99-7.2");
    /// QEMU 7.2, no machine.
    const NONE: &str = include_str!("testdata/mtree-none-7.2");

    fn ranges(text: &str) -> Vec<(u64, u64, String)> {
        parse(text).into_iter().map(|p| (p.range.start, p.range.end, p.name)).collect()
    }

    #[test]
    fn ram_of_the_system_is_found_and_nothing_else() {
        assert_eq!(
            ranges(PSERIES),
            [
                (0, 0x1000_0000, "ppc_spapr.ram".to_owned()),
                (0x4000_0000, 0x5000_0000, "m1".to_owned())
            ]
        );
        assert_eq!(ranges(MAC99), [(0, 0x1000_0000, "ppc_core99.ram".to_owned())]);
        assert_eq!(ranges(NONE), []);
    }

    #[test]
    fn offsets_accelerators_and_odd_lines_do_no_harm() {
        let text = "FlatView #0\r\n AS \"memory\", root: system\r\n Root memory region: system\r\n  \
            0000000080000000-00000000bfffffff (prio 0, ram): a b @0000000040000000 KVM\r\n  \
            0000000000000000-000000003fffffff (prio 0, nv-ram): n\r\n  \
            0000000000001000-0000000000001fff (prio 0, ram): overlaps\r\n  \
            00000000c0000000-00000000c0000fff (prio 1, ramd): device\r\n  \
            ffffffffffffff00-ffffffffffffffff (prio 0, ram): too far\r\n  \
            zz-1 (prio 0, ram): junk\r\n  9-1 (prio 0, ram): backwards\r\n";
        assert_eq!(
            ranges(text),
            [(0, 0x4000_0000, "n".to_owned()), (0x8000_0000, 0xc000_0000, "a b".to_owned())]
        );
        assert_eq!(ranges("unknown command: 'info mtree'"), []);
    }
}
