//! Reading pieces of rings into buffers that are used again.
//!
//! Every read may cost a round trip to QEMU's monitor, so a stretch of a
//! ring is fetched in one read, or in two where it runs over the end.

#![deny(clippy::indexing_slicing)]

use crate::guest::{ReadError, View};

/// Make `buf` the `len` bytes at effective address `address`.
///
/// The length is checked against RAM before anything is allocated.
pub(super) fn fetch(
    view: &View<'_>,
    address: u64,
    len: usize,
    buf: &mut Vec<u8>,
) -> Result<(), ReadError> {
    check(view, address, len as u64)?;
    buf.resize(len, 0);
    view.read(address, buf)
}

/// Make `buf` the `count` elements of `size` bytes from element `first` of
/// the ring of `places` elements at `address`; `count` is at most `places`.
pub(super) fn fetch_ring(
    view: &View<'_>,
    address: u64,
    (places, size): (u64, u64),
    (first, count): (u64, u64),
    buf: &mut Vec<u8>,
) -> Result<(), ReadError> {
    debug_assert!(places.is_power_of_two() && count <= places);
    check(view, address, places.saturating_mul(size))?;
    let first = first & (places - 1);
    let count = count.min(places);
    let straight = count.min(places - first);
    // Both products are at most `places * size`, which is RAM.
    buf.resize((count * size) as usize, 0);
    let (head, rest) = buf.split_at_mut((straight * size) as usize);
    view.read(address + first * size, head)?;
    if !rest.is_empty() {
        view.read(address, rest)?;
    }
    Ok(())
}

/// How many records are held of a log of `size` bytes: more than kernels put
/// there, whose records have a header or prefix and some words of text. Each
/// takes a hundred bytes of ours, however short it is.
pub(super) fn most_records(size: usize) -> usize {
    (size / 64).max(1 << 16)
}

fn check(view: &View<'_>, address: u64, len: u64) -> Result<(), ReadError> {
    let real = view.rule().real(address).ok_or(ReadError::Unmapped(address))?;
    match view.real(address, len) {
        Some(_) => Ok(()),
        None => Err(ReadError::NotRam { address: real, len }),
    }
}
