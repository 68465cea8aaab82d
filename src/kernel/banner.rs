//! `linux_banner`: the one line by which a kernel says which it is.
//!
//! `Linux version RELEASE (BUILDER@HOST) (COMPILER) #NUMBER OPTIONS DATE`,
//! the same form since 2.6; `init/version.c`. It is a string of the image's
//! read-only data, ended by a newline and a zero byte, and printed as one of
//! the first lines of the log.
//!
//! Since 6.1 (2df8220cc511 "kbuild: build init/built-in.a just once") an
//! image also holds a banner without number and date, `#` followed by a
//! space: what the real one replaced at the last link. It is no banner here.

#![deny(clippy::indexing_slicing)]

use std::io::{self, Read};

/// No banner is longer than this, in bytes. The longest parts, release
/// (`__NEW_UTS_LEN`) and version, have 64 each; the compiler is the rest.
pub const LONGEST: usize = 512;

/// How far into RAM a banner is looked for: kernels are loaded low, and the
/// highest known place is 0x20000000 (powernv).
pub const REACH: u64 = 0x2800_0000;

const BEGIN: &[u8] = b"Linux version ";

/// The banner that `bytes` begin with, without its newline.
///
/// ```
/// use qemu_logbuf::kernel::banner;
///
/// let memory = b"Linux version 6.1.0-1 (a@b) (gcc 12) #1 SMP Thu\n\0...";
/// assert_eq!(banner::starting(memory), Some(&memory[..47]));
/// assert_eq!(banner::release(&memory[..47]), Some("6.1.0-1"));
/// ```
#[must_use]
pub fn starting(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.get(..LONGEST.min(bytes.len()))?;
    let rest = bytes.strip_prefix(BEGIN)?;
    let end = rest.iter().position(|byte| !(0x20..0x7f).contains(byte))?;
    let rest = rest.get(..end)?;
    let release = rest.iter().position(|byte| *byte == b' ').filter(|length| *length > 0)?;
    let number = rest.get(memchr::memmem::find(rest, b") #")? + 3..)?;
    if !rest.get(release..)?.starts_with(b" (") || number.first().is_none_or(|n| *n == b' ') {
        return None;
    }
    bytes.get(..BEGIN.len() + end)
}

/// The release of a banner: "6.1.0-37-powerpc64le".
#[must_use]
pub fn release(banner: &[u8]) -> Option<&str> {
    let rest = banner.strip_prefix(BEGIN)?;
    let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    std::str::from_utf8(rest.get(..end)?).ok().filter(|release| !release.is_empty())
}

/// The banners in `bytes`: where each begins, and its text. One that the end
/// of `bytes` cuts off is not among them.
pub fn all_in(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    memchr::memmem::find_iter(bytes, BEGIN).filter_map(|at| Some((at, starting(bytes.get(at..)?)?)))
}

/// The first banner of a stream that is the variable and not the log's copy
/// of it: it ends in a newline.
///
/// # Errors
/// As the stream fails.
pub fn in_stream(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut buf = vec![0; LONGEST + (1 << 18)];
    let mut held = 0;
    loop {
        let got = stream.read(buf.get_mut(held..).unwrap_or_default())?;
        let bytes = buf.get(..held + got).unwrap_or_default();
        let found = all_in(bytes)
            .find(|(at, text)| bytes.get(at + text.len()) == Some(&b'\n'))
            .map(|(_, text)| text.to_vec());
        if found.is_some() || got == 0 {
            return Ok(found);
        }
        let end = bytes.len();
        let kept = end.min(LONGEST);
        buf.copy_within(end - kept..end, 0);
        held = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANNER: &[u8] =
        b"Linux version 6.1.0-37-powerpc64le (debian@x) (gcc-12 12.2.0) #1 SMP Debian 6.1.140-1";

    fn variable() -> Vec<u8> {
        [BANNER, b"\n\0"].concat()
    }

    #[test]
    fn a_banner_is_known_by_its_form() {
        assert_eq!(starting(&variable()), Some(BANNER));
        assert_eq!(release(BANNER), Some("6.1.0-37-powerpc64le"));
        assert_eq!(starting(b"Linux version %s (%s)\n\0"), None);
        assert_eq!(starting(b"Linux version 6.1 is out\n"), None);
        assert_eq!(starting(BANNER), None, "cut off");
        assert_eq!(starting(b"Linux version 6.1 (a@b) (gcc) # SMP\n"), None, "a placeholder");
        assert_eq!(starting(b"Linux version  (a) #1\n"), None);
    }

    #[test]
    fn the_variable_is_told_from_the_log() {
        let log = [BANNER, &[0; 8]].concat();
        assert_eq!(in_stream(&mut log.as_slice()).expect("read"), None);
        let both = [log, vec![7; 300_000], variable()].concat();
        assert_eq!(in_stream(&mut both.as_slice()).expect("read").as_deref(), Some(BANNER));
    }

    #[test]
    fn a_banner_across_two_pieces_is_found() {
        for before in ((1 << 18) - 20..(1 << 18) + 520).step_by(23) {
            let bytes = [vec![b'x'; before], variable()].concat();
            assert!(in_stream(&mut bytes.as_slice()).expect("read").is_some(), "{before}");
        }
    }
}
