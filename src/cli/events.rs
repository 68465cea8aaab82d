//! What happens to a guest without being asked about: the events that
//! `--logbuf-on` and `--logbuf-stop-on` name.

use std::time::Duration;

/// How long a kernel without a console may print nothing, unless said
/// otherwise.
const STALL: Duration = Duration::from_secs(30);

/// A set of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The kernel was entered, has no console, and has printed nothing for
    /// this long.
    pub stall: Option<Duration>,
    /// The kernel panicked.
    pub panic: bool,
    /// The guest is reset.
    pub reset: bool,
    /// The guest turns itself off.
    pub shutdown: bool,
    /// QEMU ends, whatever the reason.
    pub exit: bool,
}

impl Events {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Read `stall:10,panic`; `off` and nothing at all are the empty set.
    ///
    /// # Errors
    /// Half a sentence: what is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut events = Self::default();
        if matches!(text, "" | "off") {
            return Ok(events);
        }
        for word in text.split(',') {
            match word.split_once(':') {
                Some(("stall", seconds)) => events.stall = Some(seconds_of(seconds)?),
                None if word == "stall" => events.stall = Some(STALL),
                None if word == "panic" => events.panic = true,
                None if word == "reset" => events.reset = true,
                None if word == "shutdown" => events.shutdown = true,
                None if word == "exit" => events.exit = true,
                _ => {
                    return Err(format!(
                        "there is no event '{word}'; it may be stall, stall:SECONDS, panic, reset, shutdown, exit"
                    ));
                }
            }
        }
        Ok(events)
    }

    /// The same for events that QEMU is to be ended on.
    ///
    /// # Errors
    /// As [`Events::parse`], and for events that end QEMU by themselves.
    pub fn parse_stops(text: &str) -> Result<Self, String> {
        let events = Self::parse(text)?;
        if events.shutdown || events.exit {
            return Err("QEMU ends by itself on shutdown and exit; it may be stall, stall:SECONDS, panic, reset".to_owned());
        }
        Ok(events)
    }
}

fn seconds_of(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.1..1e6).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("'{text}' is no time in seconds; write stall:10"))
}

/// Which records are shown as they are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Those that no console shows: until the kernel has one.
    Console,
    /// All.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_in_any_order_and_a_stall_has_its_time() {
        let events = Events::parse("panic,stall:2.5,exit").expect("events");
        assert_eq!(events.stall, Some(Duration::from_millis(2500)));
        assert!(events.panic && events.exit && !events.reset && !events.shutdown);
        assert_eq!(Events::parse("stall").expect("events").stall, Some(STALL));
        for none in ["", "off"] {
            assert!(Events::parse(none).expect("events").is_empty());
        }
    }

    #[test]
    fn what_is_no_event_is_named() {
        for (text, named) in
            [("panik", "'panik'"), ("panic,", "''"), ("stall:x", "'x'"), ("reset:3", "'reset:3'")]
        {
            assert!(Events::parse(text).expect_err(text).contains(named), "{text}");
        }
        assert!(Events::parse("stall:0").is_err());
        assert!(Events::parse_stops("panic,exit").is_err());
        assert!(Events::parse_stops("panic,reset,stall:1").is_ok());
    }
}
