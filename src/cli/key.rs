//! The key that asks for the log, as the user writes it.

/// A key, or a prefix key and the key after it, as the bytes a terminal sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySequence {
    /// The key pressed first, where there are two.
    pub prefix: Option<u8>,
    /// The key that asks.
    pub key: u8,
}

/// What `--logbuf-key` may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyChoice {
    /// Beside QEMU's own keys where it has any on the terminal, otherwise
    /// `Ctrl-]` then `l`.
    #[default]
    Usual,
    /// No key at all.
    Off,
    /// This one.
    Sequence(KeySequence),
}

/// The keys that QEMU itself takes after its escape (char-mux.c,
/// `mux_proc_byte`, the same from 5.2 to 11.1).
pub const QEMU_KEYS: &[u8] = b"h?xsbct";

impl KeyChoice {
    /// Read `off`, `ctrl-t`, `^T`, `ctrl-] l`, `^a L` and the like.
    ///
    /// # Errors
    /// One sentence saying what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        let keys: Vec<&str> = text.split_whitespace().collect();
        let sequence = match keys.as_slice() {
            [key] => match control(key) {
                Some(key) => KeySequence { prefix: None, key },
                None => {
                    return Err(format!(
                        "'{key}' alone would be taken from the guest; use a control key such as ctrl-t"
                    ));
                }
            },
            [prefix, key] => {
                let prefix = control(prefix)
                    .ok_or_else(|| format!("'{prefix}' is not a control key such as ctrl-]"))?;
                let key = control(key)
                    .or_else(|| plain(key))
                    .ok_or_else(|| format!("'{key}' is not one key"))?;
                KeySequence { prefix: Some(prefix), key }
            }
            _ => return Err("a key is written like 'ctrl-] l', 'ctrl-t' or 'off'".to_owned()),
        };
        if sequence.prefix == Some(sequence.key) {
            return Err(
                "a prefix typed twice is how the prefix itself reaches the guest".to_owned()
            );
        }
        Ok(Self::Sequence(sequence))
    }
}

/// `ctrl-x`, `C-x`, `^x` as the byte a terminal sends for it.
fn control(text: &str) -> Option<u8> {
    let lower = text.to_ascii_lowercase();
    let letter = lower
        .strip_prefix("ctrl-")
        .or_else(|| lower.strip_prefix("ctrl+"))
        .or_else(|| lower.strip_prefix("c-"))
        .or_else(|| lower.strip_prefix('^'))?;
    match letter.as_bytes() {
        [letter @ (b'a'..=b'z' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(letter & 0x1f),
        _ => None,
    }
}

/// One printable ASCII character.
fn plain(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte @ b'!'..=b'~'] => Some(*byte),
        _ => None,
    }
}

/// The name of a key as the documentation writes it.
fn name(byte: u8) -> String {
    if byte < 0x20 {
        format!("Ctrl-{}", char::from(byte | 0x40).to_ascii_lowercase())
    } else {
        char::from(byte).to_string()
    }
}

impl std::fmt::Display for KeySequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(prefix) = self.prefix {
            write!(f, "{} ", name(prefix))?;
        }
        f.write_str(&name(self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(prefix: Option<u8>, key: u8) -> Result<KeyChoice, String> {
        Ok(KeyChoice::Sequence(KeySequence { prefix, key }))
    }

    #[test]
    fn keys_are_read_as_people_write_them() {
        assert_eq!(KeyChoice::parse("off"), Ok(KeyChoice::Off));
        assert_eq!(KeyChoice::parse("ctrl-t"), sequence(None, 0x14));
        assert_eq!(KeyChoice::parse("^] l"), sequence(Some(0x1d), b'l'));
        assert_eq!(KeyChoice::parse("C-a C-l"), sequence(Some(1), 0x0c));
        assert_eq!(KeyChoice::parse("Ctrl-A L"), sequence(Some(1), b'L'));
    }

    #[test]
    fn keys_that_would_take_something_common_are_refused() {
        for bad in ["l", "", "x l", "ctrl-a ctrl-a", "ctrl-a l l", "ctrl-é", "f1"] {
            assert!(KeyChoice::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_shown_as_it_is_pressed() {
        assert_eq!(KeySequence { prefix: Some(1), key: b'l' }.to_string(), "Ctrl-a l");
        assert_eq!(KeySequence { prefix: None, key: 0x1d }.to_string(), "Ctrl-]");
    }
}
