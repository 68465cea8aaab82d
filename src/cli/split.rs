//! Telling our words from QEMU's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// What every word of ours begins with. QEMU rejects such a word as an
/// invalid option, so no command line that works without us holds one.
const PREFIX: &[u8] = b"--logbuf-";

/// A command line, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Ours, in order.
    pub ours: Vec<OsString>,
    /// QEMU's, verbatim and in order.
    pub theirs: Vec<OsString>,
}

/// Sort the arguments (without `argv[0]`) into ours and QEMU's.
///
/// Our options take their value after an `=`, so each is one word and no
/// word of QEMU's needs to be understood to find them.
pub fn split(arguments: impl IntoIterator<Item = OsString>) -> Words {
    let mut words = Words::default();
    for argument in arguments {
        if argument.as_bytes().starts_with(PREFIX) {
            words.ours.push(argument);
        } else {
            words.theirs.push(argument);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    fn os(bytes: &[u8]) -> OsString {
        OsString::from_vec(bytes.to_vec())
    }

    #[test]
    fn our_words_are_found_anywhere_and_only_they() {
        let line =
            [&b"-nographic"[..], b"--logbuf-key=off", b"-append", b"--logbuf", b"\xff--logbuf-x"];
        let words = split(line.iter().map(|word| os(word)));
        assert_eq!(words.ours, [os(b"--logbuf-key=off")]);
        assert_eq!(
            words.theirs,
            [os(b"-nographic"), os(b"-append"), os(b"--logbuf"), os(b"\xff--logbuf-x")]
        );
    }

    proptest! {
        #[test]
        fn stripping_ours_from_a_mixed_line_gives_qemus_line_back(
            theirs in prop::collection::vec(prop::collection::vec(1u8..=255, 0..12), 0..12),
            ours in prop::collection::vec((0usize..16, prop::collection::vec(1u8..=255, 0..8)), 0..6),
        ) {
            let theirs: Vec<OsString> = theirs
                .into_iter()
                .filter(|word| !word.starts_with(PREFIX))
                .map(|word| os(&word))
                .collect();
            let mut line = theirs.clone();
            for (at, tail) in &ours {
                line.insert((*at).min(line.len()), os(&[PREFIX, &tail[..]].concat()));
            }
            let words = split(line);
            prop_assert_eq!(words.theirs, theirs);
            prop_assert_eq!(words.ours.len(), ours.len());
        }
    }
}
