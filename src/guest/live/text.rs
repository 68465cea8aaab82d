//! Bytes as the human monitor's `xp` prints them.

/// How many bytes are asked for at once: a reply of about 0.5 MB.
pub(super) const AT_ONCE: usize = 64 << 10;

/// A reply of so many bytes comes quickly.
pub(super) const QUICK: usize = 1 << 10;

/// The command that prints `len` bytes from the real address `real`. Bytes,
/// as words would come in the byte order that QEMU was built for.
pub(super) fn command(real: u64, len: usize) -> String {
    format!("xp /{len}xb {real:#x}")
}

/// The same from an effective address, as the monitor's processor translates
/// it.
pub(super) fn command_effective(effective: u64, len: usize) -> String {
    format!("x /{len}xb {effective:#x}")
}

/// Take the bytes from lines such as `0000000000000000: 0x48 0x00 ...`;
/// whether all were there.
pub(super) fn parse(text: &str, buf: &mut [u8]) -> bool {
    let values = text.lines().filter_map(|line| line.split_once(':')).flat_map(|(_, values)| {
        values.split_ascii_whitespace().map(|value| {
            value.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok())
        })
    });
    let mut places = buf.iter_mut();
    for value in values {
        match (value, places.next()) {
            (Some(value), Some(place)) => *place = value,
            _ => return false,
        }
    }
    places.next().is_none()
}

/// The beginning of a reply that was not bytes, as QEMU's own words.
pub(super) fn words(text: &str) -> String {
    text.lines().last().unwrap_or_default().chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_only_if_all_are_there() {
        let mut buf = [0; 10];
        let text = "0000000000000100: 0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07\r\n\
                    0000000000000108: 0x08 0xff\r\n";
        assert!(parse(text, &mut buf));
        assert_eq!(buf, [0, 1, 2, 3, 4, 5, 6, 7, 8, 255]);
        assert!(!parse(text, &mut [0; 9]));
        assert!(!parse(text, &mut [0; 11]));
        assert!(!parse("0000000000000100: Cannot access memory\r\n", &mut buf));
        assert!(!parse("00: 0x100", &mut [0]));
        assert!(parse("", &mut []));
    }
}
