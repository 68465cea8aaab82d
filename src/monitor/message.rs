//! One line of QMP, from bytes to what it says.

use serde_json::Value;

use super::Error;

/// QEMU's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 7 of 7.2.22.
    pub major: u64,
    /// The 2 of 7.2.22.
    pub minor: u64,
    /// The 22 of 7.2.22.
    pub micro: u64,
}

impl Version {
    /// Whether it bears a command at any moment: QEMU 5.2 aborts over one
    /// that comes while it shuts down (`aio_ctx_finalize` finds it queued);
    /// 7.2 and later don't, and 6 is taken to be like them.
    #[must_use]
    pub const fn is_robust(self) -> bool {
        self.major >= 6
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// QEMU's name for it: `SHUTDOWN`, `GUEST_PANICKED`, `RESET`, ...
    pub name: String,
    /// Its details; `Null` where it has none.
    pub data: Value,
    /// When, in microseconds since 1970; `None` where QEMU does not say.
    pub micros: Option<u64>,
}

impl Event {
    /// A text among the details, such as `reason` of a `SHUTDOWN`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }
}

/// What a line from QEMU is.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first line of a session.
    Greeting(Version),
    /// The answer to a command.
    Reply {
        /// The command's id; `None` where QEMU could not read the command.
        id: Option<u64>,
        /// The command's value, or the words of a refusal.
        result: Result<Value, String>,
    },
    /// Something happened.
    Event(Event),
}

/// What `line`, without its newline, says.
///
/// # Errors
/// [`Error::Malformed`] for anything that is no QMP.
pub fn parse(line: &[u8]) -> Result<Message, Error> {
    let malformed = || Error::Malformed(excerpt(line));
    let value: Value = serde_json::from_slice(line).map_err(|_| malformed())?;
    let Value::Object(mut object) = value else { return Err(malformed()) };
    if let Some(greeting) = object.get("QMP") {
        let number = |name| greeting.pointer(&format!("/version/qemu/{name}"))?.as_u64();
        return (|| {
            Some(Message::Greeting(Version {
                major: number("major")?,
                minor: number("minor")?,
                micro: number("micro")?,
            }))
        })()
        .ok_or_else(malformed);
    }
    if let Some(event) = object.remove("event") {
        let Value::String(name) = event else { return Err(malformed()) };
        let micros = object.get("timestamp").and_then(|stamp| {
            let seconds = stamp.get("seconds")?.as_u64()?;
            seconds.checked_mul(1_000_000)?.checked_add(stamp.get("microseconds")?.as_u64()?)
        });
        let data = object.remove("data").unwrap_or(Value::Null);
        return Ok(Message::Event(Event { name, data, micros }));
    }
    let id = match object.get("id") {
        None | Some(Value::Null) => None,
        Some(id) => Some(id.as_u64().ok_or_else(malformed)?),
    };
    if let Some(error) = object.get("error") {
        let words = error.get("desc").and_then(Value::as_str).ok_or_else(malformed)?;
        return Ok(Message::Reply { id, result: Err(words.to_owned()) });
    }
    match object.remove("return") {
        // Only a refusal comes without an id.
        Some(value) if id.is_some() => Ok(Message::Reply { id, result: Ok(value) }),
        _ => Err(malformed()),
    }
}

/// The beginning of a line, fit for a message to a person.
pub(super) fn excerpt(line: &[u8]) -> String {
    const SHOWN: usize = 60;
    let shown = line.get(..SHOWN).unwrap_or(line).escape_ascii();
    if line.len() > SHOWN { format!("\"{shown}\"...") } else { format!("\"{shown}\"") }
}
