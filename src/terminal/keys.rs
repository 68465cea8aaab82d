//! Finding our key among what the user types.
//!
//! Where QEMU has an escape key on this terminal and ours lies beside its
//! own, nothing is held back: QEMU gets every byte and swallows the pair it
//! does not know (char-mux.c, `mux_proc_byte`, 5.2 to 11.1), we only look on.
//! Elsewhere the prefix is held until the next byte tells whether it is ours.

use std::time::{Duration, Instant};

use crate::cli::{KeyChoice, KeySequence, QEMU_KEYS};
use crate::monitor::StdioUse;

/// How long a prefix is held back before it goes to the guest alone.
const HOLD: Duration = Duration::from_millis(700);

/// `Ctrl-]`: telnet's escape, unused by shells, editors and Linux consoles.
const CTRL_RIGHT_BRACKET: u8 = 0x1d;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The log, or what is new in it.
    Report,
    /// All of the log.
    All,
    /// Where each processor is.
    Where,
    /// To show records as they are printed, or no longer.
    Follow,
    /// QEMU's own help, with our keys beneath QEMU's.
    Help,
}

/// What the keys beside the chosen one mean, after the same prefix.
const BESIDE: [(u8, Action, &str); 3] = [
    (b'a', Action::All, "show all of it"),
    (b'w', Action::Where, "show where each CPU is"),
    (b'f', Action::Follow, "follow the log, or stop"),
];

/// The keys by which QEMU prints its help (char-mux.c, `mux_proc_byte`).
const QEMUS_HELP: [u8; 2] = [b'h', b'?'];

/// What is asked for by a key after the prefix, where `chosen` asks for the
/// log.
fn action(chosen: u8, key: u8) -> Option<Action> {
    if key == chosen {
        return Some(Action::Report);
    }
    BESIDE.iter().find(|(beside, ..)| *beside == key).map(|(_, action, _)| *action)
}

/// How our key is told from the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Manner {
    /// There is none.
    Off,
    /// QEMU's escape comes first: look on. `escaped` follows QEMU's state.
    LookOn { escape: u8, key: u8, escaped: bool },
    /// One key, ours alone.
    Take { key: u8 },
    /// A prefix that is held back, and since when.
    Hold { prefix: u8, key: u8, since: Option<Instant> },
}

/// The watch over what is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    choice: KeyChoice,
    escape: Option<u8>,
    manner: Manner,
}

impl Keys {
    /// Watch for the chosen key; `escape` is QEMU's own, where it is used.
    #[must_use]
    pub fn new(choice: KeyChoice, stdio: StdioUse, escape: Option<u8>) -> Self {
        let mut keys = Self { choice, escape, manner: Manner::Off };
        keys.manner = keys.manner_for(stdio);
        keys
    }

    /// Whether the chosen key is one that QEMU itself answers to.
    #[must_use]
    pub fn are_qemus(&self, stdio: StdioUse) -> bool {
        match self.manner {
            Manner::LookOn { key, .. } => QEMU_KEYS.contains(&key),
            // Without its escape QEMU has none of its keys.
            Manner::Take { key } => stdio == StdioUse::Mux && self.escape == Some(key),
            Manner::Off | Manner::Hold { .. } => false,
        }
    }

    /// QEMU itself said how it uses the terminal.
    pub fn learn(&mut self, stdio: StdioUse) {
        let manner = self.manner_for(stdio);
        if std::mem::discriminant(&manner) != std::mem::discriminant(&self.manner)
            && !matches!(self.manner, Manner::Hold { since: Some(_), .. })
        {
            self.manner = manner;
        }
    }

    fn manner_for(&self, stdio: StdioUse) -> Manner {
        let escape = self.escape.filter(|_| stdio == StdioUse::Mux);
        let sequence = match self.choice {
            KeyChoice::Off => return Manner::Off,
            KeyChoice::Sequence(sequence) => sequence,
            KeyChoice::Usual => {
                KeySequence { prefix: Some(escape.unwrap_or(CTRL_RIGHT_BRACKET)), key: b'l' }
            }
        };
        match (sequence.prefix, escape) {
            (Some(prefix), Some(escape)) if prefix == escape => {
                Manner::LookOn { escape, key: sequence.key, escaped: false }
            }
            (Some(prefix), _) => Manner::Hold { prefix, key: sequence.key, since: None },
            (None, _) => Manner::Take { key: sequence.key },
        }
    }

    /// The key as the user presses it, where there is one.
    #[must_use]
    pub fn sequence(&self) -> Option<KeySequence> {
        match self.manner {
            Manner::Off => None,
            Manner::LookOn { escape: prefix, key, .. } | Manner::Hold { prefix, key, .. } => {
                Some(KeySequence { prefix: Some(prefix), key })
            }
            Manner::Take { key } => Some(KeySequence { prefix: None, key }),
        }
    }

    /// The keys that ask for all of the log, where there are any.
    #[must_use]
    pub fn for_all(&self) -> Option<KeySequence> {
        let KeySequence { prefix, key } = self.sequence()?;
        let (all, ..) = BESIDE.iter().find(|(_, action, _)| *action == Action::All)?;
        (prefix.is_some() && key != *all).then_some(KeySequence { prefix, key: *all })
    }

    /// Our lines beneath QEMU's help, in its form (char-mux.c,
    /// `mux_print_help`, 5.2 to 11.1), where our keys lie beside QEMU's.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let Manner::LookOn { escape, key: chosen, .. } = self.manner else { return None };
        let control = |key: u8| format!("C-{}", char::from(key - 1 + b'a'));
        let prefix = match escape {
            1..26 => control(escape),
            _ => "Escape-Char".to_owned(),
        };
        let beside = BESIDE.iter().map(|(key, _, what)| (*key, *what));
        let keys = beside.filter(|(key, _)| *key != chosen);
        let lines =
            [(chosen, "show the kernel's log")].into_iter().chain(keys).map(|(key, what)| {
                let key = match key {
                    1..26 => control(key),
                    _ => char::from(key).to_string(),
                };
                format!("{prefix} {key}    {what} (qemu-logbuf)\n\r")
            });
        Some(lines.collect())
    }

    /// Pass `typed` on to `onward`, less what is ours; the actions asked for.
    pub fn feed(&mut self, typed: &[u8], now: Instant, onward: &mut Vec<u8>) -> Vec<Action> {
        let mut asked = Vec::new();
        for &byte in typed {
            match &mut self.manner {
                Manner::Off => onward.push(byte),
                Manner::LookOn { escape, key, escaped } => {
                    onward.push(byte);
                    if *escaped {
                        *escaped = false;
                        // The escape typed twice is the guest's, even as our key.
                        let help = QEMUS_HELP.contains(&byte).then_some(Action::Help);
                        asked.extend(action(*key, byte).or(help).filter(|_| byte != *escape));
                    } else {
                        *escaped = byte == *escape;
                    }
                }
                Manner::Take { key } if byte == *key => asked.push(Action::Report),
                Manner::Take { .. } => onward.push(byte),
                Manner::Hold { prefix, key, since } => {
                    if since.take().is_some() {
                        if let Some(action) = action(*key, byte) {
                            asked.push(action);
                            continue;
                        }
                        onward.push(*prefix);
                    }
                    if byte == *prefix {
                        *since = Some(now);
                    } else {
                        onward.push(byte);
                    }
                }
            }
        }
        asked
    }

    /// When a prefix that is held back is to go on alone.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.manner {
            Manner::Hold { since: Some(since), .. } => Some(since + HOLD),
            _ => None,
        }
    }

    /// Let a prefix go on alone whose time is over, or at once at the end of
    /// input.
    pub fn release(&mut self, now: Option<Instant>, onward: &mut Vec<u8>) {
        if let Manner::Hold { prefix, since, .. } = &mut self.manner
            && since.is_some_and(|since| now.is_none_or(|now| now >= since + HOLD))
        {
            *since = None;
            onward.push(*prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(keys: &mut Keys, typed: &[u8]) -> (Vec<u8>, usize) {
        let mut onward = Vec::new();
        let asked = keys.feed(typed, Instant::now(), &mut onward);
        (onward, asked.len())
    }

    #[test]
    fn beside_qemus_keys_every_byte_goes_on() {
        let mut keys = Keys::new(KeyChoice::Usual, StdioUse::Mux, Some(1));
        assert_eq!(feed(&mut keys, b"a\x01l"), (b"a\x01l".to_vec(), 1));
        assert_eq!(feed(&mut keys, b"\x01"), (b"\x01".to_vec(), 0));
        assert_eq!(feed(&mut keys, b"l"), (b"l".to_vec(), 1));
    }

    #[test]
    fn qemus_own_keys_are_not_taken_from_it() {
        let takes = |prefix, key, stdio| {
            let choice = KeyChoice::Sequence(KeySequence { prefix, key });
            Keys::new(choice, stdio, Some(1)).are_qemus(stdio)
        };
        assert!(takes(Some(1), b'x', StdioUse::Mux) && !takes(Some(1), b'k', StdioUse::Mux));
        // Its escape alone would leave it none of them.
        assert!(takes(None, 1, StdioUse::Mux) && !takes(None, 1, StdioUse::Plain));
    }

    #[test]
    fn the_keys_beside_ask_for_other_things_after_the_same_prefix() {
        use Action::{All, Follow, Report, Where};
        let asked = |choice, stdio, typed: &[u8]| {
            let mut keys = Keys::new(choice, stdio, Some(1));
            let mut onward = Vec::new();
            let asked = keys.feed(typed, Instant::now(), &mut onward);
            (asked, onward, keys.for_all().map(|keys| keys.to_string()))
        };
        let typed = b"\x01l\x01wlw\x01a\x01f";
        let (actions, onward, all) = asked(KeyChoice::Usual, StdioUse::Mux, typed);
        assert_eq!(actions, [Report, Where, All, Follow]);
        assert_eq!((onward.as_slice(), all.as_deref()), (&typed[..], Some("Ctrl-a a")));
        let typed = b"\x1dw\x1da\x1dxw";
        let (actions, onward, all) = asked(KeyChoice::Usual, StdioUse::Plain, typed);
        assert_eq!(actions, [Where, All]);
        assert_eq!((onward.as_slice(), all.as_deref()), (&b"\x1dxw"[..], Some("Ctrl-] a")));
        let own = KeyChoice::Sequence(KeySequence { prefix: Some(0x14), key: b'w' });
        let (actions, ..) = asked(own, StdioUse::Plain, b"\x14w\x14f\x14l");
        assert_eq!(actions, [Report, Follow]);
        let one = KeyChoice::Sequence(KeySequence { prefix: None, key: 0x14 });
        let (actions, onward, all) = asked(one, StdioUse::Plain, b"\x14w\x01w");
        assert_eq!((actions, onward.as_slice(), all), (vec![Report], &b"w\x01w"[..], None));
    }

    #[test]
    fn our_keys_are_told_beneath_qemus_where_they_lie_beside_them() {
        let help = |choice, stdio, escape| Keys::new(choice, stdio, Some(escape)).help();
        let lines = help(KeyChoice::Usual, StdioUse::Mux, 1).expect("lines");
        assert!(lines.starts_with("C-a l    show the kernel's log (qemu-logbuf)\n\r"), "{lines}");
        assert_eq!(lines.matches("\n\r").count(), 4);
        let lines = help(KeyChoice::Usual, StdioUse::Mux, 0x14).expect("lines");
        assert!(lines.starts_with("C-t l    "), "{lines}");
        let own = KeyChoice::Sequence(KeySequence { prefix: Some(0x1c), key: b'w' });
        let lines = help(own, StdioUse::Mux, 0x1c).expect("lines");
        assert!(lines.starts_with("Escape-Char w    show the kernel's log"), "{lines}");
        assert_eq!(lines.matches("\n\r").count(), 3);
        assert_eq!(help(KeyChoice::Off, StdioUse::Mux, 1), None);
        assert_eq!(help(KeyChoice::Usual, StdioUse::Plain, 1), None);
        let mut keys = Keys::new(KeyChoice::Usual, StdioUse::Mux, Some(1));
        let mut onward = Vec::new();
        let asked = keys.feed(b"h\x01h\x01?\x01\x01h", Instant::now(), &mut onward);
        assert_eq!(asked, [Action::Help, Action::Help]);
    }

    #[test]
    fn an_escape_meant_for_the_guest_does_not_ask() {
        let mut keys = Keys::new(KeyChoice::Usual, StdioUse::Mux, Some(1));
        assert_eq!(feed(&mut keys, b"\x01\x01l").1, 0);
        assert_eq!(feed(&mut keys, b"\x01cl").1, 0);
        assert_eq!(feed(&mut keys, b"l").1, 0);
    }

    #[test]
    fn the_escape_follows_echr() {
        let mut keys = Keys::new(KeyChoice::Usual, StdioUse::Mux, Some(0x14));
        assert_eq!(feed(&mut keys, b"\x01l").1, 0);
        assert_eq!(feed(&mut keys, b"\x14l").1, 1);
        assert_eq!(keys.sequence().map(|keys| keys.to_string()), Some("Ctrl-t l".to_owned()));
    }

    #[test]
    fn elsewhere_only_the_pair_is_taken() {
        let mut keys = Keys::new(KeyChoice::Usual, StdioUse::Plain, Some(1));
        assert_eq!(feed(&mut keys, b"a\x01l\x1dl"), (b"a\x01l".to_vec(), 1));
        assert_eq!(feed(&mut keys, b"\x1dx"), (b"\x1dx".to_vec(), 0));
        assert_eq!(feed(&mut keys, b"\x1d"), (vec![], 0));
        assert_eq!(feed(&mut keys, b"\x1d"), (vec![0x1d], 0));
        assert_eq!(feed(&mut keys, b"l"), (vec![], 1));
    }

    #[test]
    fn a_lone_prefix_goes_on_after_a_moment() {
        let mut keys = Keys::new(KeyChoice::Usual, StdioUse::Plain, Some(1));
        let start = Instant::now();
        let mut onward = Vec::new();
        keys.feed(b"\x1d", start, &mut onward);
        keys.release(Some(start), &mut onward);
        assert!(onward.is_empty());
        assert_eq!(keys.deadline(), Some(start + HOLD));
        keys.release(Some(start + HOLD), &mut onward);
        assert_eq!(onward, b"\x1d");
        assert_eq!(keys.deadline(), None);
    }

    #[test]
    fn off_is_off_and_one_key_is_one_key() {
        let mut off = Keys::new(KeyChoice::Off, StdioUse::Mux, Some(1));
        assert_eq!(feed(&mut off, b"\x01l\x1dl"), (b"\x01l\x1dl".to_vec(), 0));
        let choice = KeyChoice::Sequence(KeySequence { prefix: None, key: 0x14 });
        let mut one = Keys::new(choice, StdioUse::Mux, Some(1));
        assert_eq!(feed(&mut one, b"a\x14b"), (b"ab".to_vec(), 1));
    }

    proptest! {
        #[test]
        fn nothing_but_our_pair_is_ever_taken(
            typed in prop::collection::vec(prop_oneof![Just(1u8), Just(0x1d), Just(b'l'), any::<u8>()], 0..64),
            cuts in prop::collection::vec(0usize..64, 0..6),
            stdio in prop_oneof![Just(StdioUse::Plain), Just(StdioUse::Mux)],
        ) {
            let mut keys = Keys::new(KeyChoice::Usual, stdio, Some(1));
            let mut onward = Vec::new();
            let mut asked = 0;
            let mut from = 0;
            let mut cuts = cuts;
            cuts.sort_unstable();
            for cut in cuts.into_iter().chain([typed.len()]) {
                let to = cut.clamp(from, typed.len());
                asked += keys.feed(&typed[from..to], Instant::now(), &mut onward).len();
                from = to;
            }
            keys.release(None, &mut onward);
            if stdio == StdioUse::Mux {
                prop_assert_eq!(onward, typed);
            } else {
                prop_assert_eq!(onward.len() + 2 * asked, typed.len());
            }
        }
    }
}
