//! Guest bytes made harmless to a terminal.
//!
//! A guest chooses every byte of its log, and a report is shown in the
//! user's terminal: whatever could move the cursor, answer back or reorder
//! what is read is shown as `\xNN`, byte by byte, as dmesg(1) shows it. Text
//! that is harmless is passed on as it is, a backslash included, so what a
//! guest printed as the four characters `\x1b` looks the same as an escape
//! it sent; JSON tells the two apart.
//!
//! Lines are not this module's business: a newline is one more control
//! character here, and who formats splits the text at newlines first.

use std::ffi::OsString;

/// How many bytes are looked at together, so that the compiler can use
/// vector instructions.
const BLOCK: usize = 32;

/// Whether the byte is ASCII and harmless: what can be printed, and tab.
///
/// Tab stays because dmesg keeps it, kernels align tables with it, and all
/// it does in a terminal is move to the right within the line.
const fn is_plain_byte(byte: u8) -> bool {
    // Not short-circuited: branches would keep it from being vectorised.
    (byte.wrapping_sub(b' ') <= b'~' - b' ') | (byte == b'\t')
}

/// Whether the text is shown as it is in any terminal: nothing but printable
/// ASCII and tabs.
#[must_use]
pub fn is_plain(text: &[u8]) -> bool {
    let mut blocks = text.chunks_exact(BLOCK);
    blocks.by_ref().all(|block| block.iter().fold(true, |all, &byte| all & is_plain_byte(byte)))
        && blocks.remainder().iter().all(|&byte| is_plain_byte(byte))
}

/// Appends `text` with everything harmful as `\xNN`.
///
/// With `unicode`, valid UTF-8 passes but for controls and what cannot be
/// seen. Without it no byte above ASCII passes: in an 8-bit locale the
/// second byte of an innocent `é` may be a control character.
pub fn push(out: &mut Vec<u8>, text: &[u8], unicode: bool) {
    if is_plain(text) {
        out.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        push_valid(out, chunk.valid(), unicode);
        push_escaped(out, chunk.invalid());
    }
}

/// `text` as [`push`] appends it.
#[must_use]
pub fn clean(text: &[u8], unicode: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    push(&mut out, text, unicode);
    out
}

fn push_valid(out: &mut Vec<u8>, text: &str, unicode: bool) {
    let mut rest = text;
    while let Some((at, bad)) = rest.char_indices().find(|&(_, c)| !is_shown(c, unicode)) {
        let (good, tail) = rest.split_at(at);
        let (bad, tail) = tail.split_at(bad.len_utf8());
        out.extend_from_slice(good.as_bytes());
        push_escaped(out, bad.as_bytes());
        rest = tail;
    }
    out.extend_from_slice(rest.as_bytes());
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.extend_from_slice(&[b'\\', b'x', hex_digit(byte >> 4), hex_digit(byte & 15)]);
    }
}

/// The lower-case hexadecimal digit of a number below 16.
pub(super) const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

fn is_shown(c: char, unicode: bool) -> bool {
    match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() => is_plain_byte(byte),
        _ => unicode && !c.is_control() && !is_unseen(c),
    }
}

/// Characters that show nothing themselves, or turn the order of others:
/// Unicode's `Default_Ignorable_Code_Point`, the line and paragraph
/// separators, and the interlinear marks.
const fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Whether the locale's characters are UTF-8: the first of `LC_ALL`,
/// `LC_CTYPE` and `LANG` that is set and not empty decides, as setlocale(3)
/// has it.
pub fn wants_unicode(env: impl Fn(&str) -> Option<OsString>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(env)
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_string_lossy().to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8]) -> String {
        String::from_utf8(clean(text, true)).expect("output is UTF-8")
    }

    #[test]
    fn plain_text_and_tabs_pass_unchanged() {
        let text = b"Memory: 489408K/524288K available\t(~!) \\x1b";
        assert_eq!(clean(text, true), text);
        assert_eq!(clean(text, false), text);
    }

    #[test]
    fn controls_are_shown_as_their_bytes() {
        assert_eq!(shown(b"\x1b[31mred\x07\r\n\0\x7f"), r"\x1b[31mred\x07\x0d\x0a\x00\x7f");
        // C1: CSI as one character, and as one byte of an 8-bit terminal.
        assert_eq!(shown("a\u{9b}31m".as_bytes()), r"a\xc2\x9b31m");
        assert_eq!(shown(b"a\x9b31m"), r"a\x9b31m");
    }

    #[test]
    fn invalid_utf8_is_shown_and_valid_utf8_passes() {
        assert_eq!(shown(b"caf\xc3\xa9 \xff\xc3"), "café \\xff\\xc3");
        assert_eq!(shown("→ 電源 ✓".as_bytes()), "→ 電源 ✓");
    }

    #[test]
    fn what_cannot_be_seen_or_reorders_is_shown() {
        assert_eq!(shown("a\u{202e}b".as_bytes()), r"a\xe2\x80\xaeb");
        assert_eq!(shown("\u{feff}\u{200b}\u{2028}\u{e0041}".as_bytes()), {
            r"\xef\xbb\xbf\xe2\x80\x8b\xe2\x80\xa8\xf3\xa0\x81\x81"
        });
    }

    #[test]
    fn outside_utf8_locales_only_ascii_passes() {
        assert_eq!(clean("é\t~".as_bytes(), false), b"\\xc3\\xa9\t~");
    }

    #[test]
    fn a_harmful_byte_is_found_wherever_it_is() {
        for at in 0..100 {
            let mut text = vec![b'a'; 100];
            text[at] = 0x1b;
            assert!(!is_plain(&text), "at {at}");
        }
        assert!(is_plain(&[b'a'; 100]));
    }

    #[test]
    fn the_locale_decides_in_posix_order() {
        let locale = |vars: &'static [(&str, &str)]| {
            wants_unicode(move |name| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            })
        };
        assert!(locale(&[("LANG", "en_GB.UTF-8")]));
        assert!(locale(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!locale(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(!locale(&[]));
    }
}
