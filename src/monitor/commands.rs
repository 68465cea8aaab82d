//! The few commands that are needed, with their arguments and answers typed.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use serde_json::{Value, json};

use super::tree::{self, Piece};
use super::{Begun, Error, Monitor, message};

/// One command for all processors and registers, since QEMU takes a command
/// in byte by byte, some 5 µs each: asking for the four that matter (`p/x $nip`
/// and so on) takes three times as long.
const REGISTERS: &str = "info registers -a";

/// What QEMU's run state means for a reader of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether processors run.
    pub running: bool,
    /// QEMU's name for the state: `running`, `paused`, `prelaunch`,
    /// `guest-panicked`, `inmigrate`, ...
    pub name: String,
}

/// What QEMU does with its own standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioUse {
    /// Several users share them, and the escape key is QEMU's.
    Mux,
    /// One user has them; every key is its.
    Plain,
    /// Nobody has them.
    None,
}

/// One processor as QEMU's host threads know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuThread {
    /// QEMU's number of the processor.
    pub index: u64,
    /// The host's id of the thread that runs it.
    pub thread: i32,
}

/// A descriptor that QEMU has a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// QEMU's name of it, to take it back by.
    set: u64,
    /// Its number in QEMU.
    pub number: i32,
}

/// A reply that is not of the promised shape.
fn misshapen(command: &str, value: &Value) -> Error {
    Error::Malformed(format!("{command} gave {}", message::excerpt(value.to_string().as_bytes())))
}

impl Monitor {
    /// Whether the guest runs.
    ///
    /// # Errors
    /// As [`Monitor::execute`], as for all that follow.
    pub fn query_status(&mut self, deadline: Instant) -> Result<Status, Error> {
        let value = self.execute("query-status", None, deadline)?;
        match (value.get("running"), value.get("status")) {
            (Some(Value::Bool(running)), Some(Value::String(name))) => {
                Ok(Status { running: *running, name: name.clone() })
            }
            _ => Err(misshapen("query-status", &value)),
        }
    }

    /// What QEMU emulates, by its own name of it: `ppc64`, `x86_64`.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn query_target(&mut self, deadline: Instant) -> Result<String, Error> {
        let value = self.execute("query-target", None, deadline)?;
        let name = value.get("arch").and_then(Value::as_str).map(str::to_owned);
        name.ok_or_else(|| misshapen("query-target", &value))
    }

    /// Who uses QEMU's standard input and output.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn query_stdio(&mut self, deadline: Instant) -> Result<StdioUse, Error> {
        let value = self.execute("query-chardev", None, deadline)?;
        stdio_use(&value).ok_or_else(|| misshapen("query-chardev", &value))
    }

    /// The processors and their host threads.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn query_cpus(&mut self, deadline: Instant) -> Result<Vec<CpuThread>, Error> {
        let value = self.execute("query-cpus-fast", None, deadline)?;
        let cpu = |value: &Value| {
            Some(CpuThread {
                index: value.get("cpu-index")?.as_u64()?,
                thread: i32::try_from(value.get("thread-id")?.as_i64()?).ok()?,
            })
        };
        value
            .as_array()
            .and_then(|cpus| cpus.iter().map(cpu).collect())
            .ok_or_else(|| misshapen("query-cpus-fast", &value))
    }

    /// The size in bytes of the memory that the machine began with.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn query_base_memory(&mut self, deadline: Instant) -> Result<u64, Error> {
        let value = self.execute("query-memory-size-summary", None, deadline)?;
        value
            .get("base-memory")
            .and_then(Value::as_u64)
            .ok_or_else(|| misshapen("query-memory-size-summary", &value))
    }

    /// The pieces of guest memory, by real address, as the system's address
    /// space has them; ascending.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn memory_tree(&mut self, deadline: Instant) -> Result<Vec<Piece>, Error> {
        Ok(tree::parse(&self.hmp("info mtree -f", deadline)?))
    }

    /// Where QEMU holds the guest's real address: an address in QEMU's own
    /// memory.
    ///
    /// # Errors
    /// As [`Monitor::execute`]; [`Error::Refused`] where there is no RAM.
    pub fn gpa2hva(&mut self, real: u64, deadline: Instant) -> Result<u64, Error> {
        let text = self.hmp(&format!("gpa2hva {real:#x}"), deadline)?;
        host_address(&text).ok_or_else(|| Error::Refused(text.trim().to_owned()))
    }

    /// The registers of every processor, as QEMU prints them.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn registers(&mut self, deadline: Instant) -> Result<String, Error> {
        self.hmp(REGISTERS, deadline)
    }

    /// Prepare for the question, by [`Monitor::type_ahead`].
    pub fn prepare_registers(&mut self) {
        self.type_ahead(REGISTERS);
    }

    /// Ask for them, and do something else until [`Monitor::finish`].
    pub fn begin_registers(&mut self) -> Option<Begun> {
        self.begin(REGISTERS)
    }

    /// Lend QEMU a descriptor, over a socket that can carry one. It keeps it
    /// until [`Monitor::take_back`], or until its last client has left.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn lend(&mut self, fd: BorrowedFd<'_>, deadline: Instant) -> Result<Lent, Error> {
        let value = self.execute_with("add-fd", fd, deadline)?;
        let number = value.get("fd").and_then(Value::as_i64);
        let set = value.get("fdset-id").and_then(Value::as_u64);
        match (number.and_then(|number| i32::try_from(number).ok()), set) {
            (Some(number), Some(set)) => Ok(Lent { set, number }),
            _ => Err(misshapen("add-fd", &value)),
        }
    }

    /// Have QEMU close what it was lent.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn take_back(&mut self, lent: Lent, deadline: Instant) -> Result<(), Error> {
        self.execute("remove-fd", Some(json!({ "fdset-id": lent.set })), deadline).map(drop)
    }

    /// Have QEMU write `len` bytes of guest memory from `real` to the file
    /// that `path` names in QEMU's eyes, from its start and truncated first.
    ///
    /// The caller bounds the range by RAM: elsewhere QEMU would write zeros,
    /// or read a device.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn pmemsave(
        &mut self,
        real: u64,
        len: u64,
        path: &str,
        deadline: Instant,
    ) -> Result<(), Error> {
        let arguments = json!({ "val": signed(real), "size": signed(len), "filename": path });
        self.execute("pmemsave", Some(arguments), deadline).map(drop)
    }

    /// The same by an effective address, as processor `cpu` translates it at
    /// this moment.
    ///
    /// # Errors
    /// As [`Monitor::execute`]; [`Error::Refused`] where nothing is mapped.
    pub fn memsave(
        &mut self,
        effective: u64,
        len: u64,
        path: &str,
        cpu: u64,
        deadline: Instant,
    ) -> Result<(), Error> {
        let arguments = json!({
            "val": signed(effective), "size": signed(len), "filename": path, "cpu-index": cpu,
        });
        self.execute("memsave", Some(arguments), deadline).map(drop)
    }

    /// Have QEMU end. An end of the connection is as good as a reply here.
    ///
    /// # Errors
    /// As [`Monitor::execute`], but for [`Error::Gone`].
    pub fn quit(&mut self, deadline: Instant) -> Result<(), Error> {
        match self.execute("quit", None, deadline) {
            Ok(_) | Err(Error::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// QEMU before 8.0 takes addresses as signed numbers; every version takes
/// the negative ones.
const fn signed(number: u64) -> i64 {
    number as i64
}

/// The address that `gpa2hva` prints last, `... (name) is 0x7f...`.
fn host_address(text: &str) -> Option<u64> {
    let (_, address) =
        text.trim().strip_prefix("Host virtual address for ")?.rsplit_once(" is ")?;
    u64::from_str_radix(address.strip_prefix("0x")?, 16).ok().filter(|address| *address != 0)
}

/// Who uses standard input and output, by the list of character devices.
fn stdio_use(value: &Value) -> Option<StdioUse> {
    let devices: Vec<(&str, &str)> = value
        .as_array()?
        .iter()
        .map(|device| Some((device.get("label")?.as_str()?, device.get("filename")?.as_str()?)))
        .collect::<Option<_>>()?;
    let Some((label, _)) = devices.iter().find(|(_, filename)| *filename == "stdio") else {
        return Some(StdioUse::None);
    };
    // A multiplexer called NAME opens the device behind it as NAME-base.
    let shared = label.strip_suffix("-base").is_some_and(|name| devices.contains(&(name, "mux")));
    Some(if shared { StdioUse::Mux } else { StdioUse::Plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_character_devices_tells_who_has_standard_input() {
        let list = |devices: &[(&str, &str)]| {
            let device = |(label, filename): &(&str, &str)| json!({"label": label, "filename": filename, "frontend-open": true});
            stdio_use(&Value::Array(devices.iter().map(device).collect()))
        };
        let ours = ("logbuf", "unix:");
        let nographic =
            [ours, ("parallel0", "null"), ("serial0", "mux"), ("serial0-base", "stdio")];
        assert_eq!(list(&nographic), Some(StdioUse::Mux));
        assert_eq!(list(&[("serial0", "stdio"), ours]), Some(StdioUse::Plain));
        assert_eq!(list(&[("a-base", "stdio"), ours]), Some(StdioUse::Plain));
        assert_eq!(list(&[("serial0", "vc"), ours]), Some(StdioUse::None));
        assert_eq!(stdio_use(&json!([{"label": 1}])), None);
    }

    #[test]
    fn a_host_address_is_the_last_word_whatever_the_name() {
        let text = "Host virtual address for 0x0 (a is 0x12) is 0x7f1234567000\r\n";
        assert_eq!(host_address(text), Some(0x7f12_3456_7000));
        assert_eq!(host_address("Memory at address 0x0 is not RAM\r\n"), None);
        assert_eq!(host_address("Host virtual address for 0x0 (a) is (nil)\r\n"), None);
    }
}
