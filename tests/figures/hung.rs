//! A hung guest, and somebody who asks for its log by SIGUSR1.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{MACHINE, lab};

/// How often to ask at a stretch.
pub const ROUNDS: usize = 100;

/// A child that ends with its owner.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Whoever answers SIGUSR1, with its stderr.
pub struct Answerer {
    pub process: Running,
    stderr: BufReader<ChildStderr>,
}

impl Answerer {
    /// Start it. Its stdout is nobody's.
    pub fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { process: Running(child), stderr }
    }

    /// The stock hang under qemu-logbuf, asked until the last of its early
    /// messages is there.
    pub fn stock(words: &[&str]) -> Option<Self> {
        let kernel = lab::stock_hung_in("register_early_udbg_console")?;
        let mut command = Command::new(lab::qemu_logbuf());
        command.args(MACHINE).args(["-serial", "null", "-kernel"]).arg(kernel);
        command.args(words).env("NO_COLOR", "1");
        let mut answerer = Self::start(command);
        // Until its handler is there, SIGUSR1 ends any process.
        while !answerer.catches(Signal::SIGUSR1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        while !answerer.ask().iter().any(|line| line.contains("Hardware name")) {}
        Some(answerer)
    }

    fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()));
        let status = status.expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stderr.read_line(&mut line).expect("a line") > 0, "it ended");
        line
    }

    /// Ask, and read the report to its last byte; its lines.
    pub fn ask(&mut self) -> Vec<String> {
        kill(self.process.pid(), Signal::SIGUSR1).expect("it runs");
        let mut lines: Vec<String> = Vec::new();
        // A failure is said in one line.
        let is_last = |line: &String| {
            line.contains("end of report")
                || (line.contains("qemu-logbuf") && !line.contains(" records"))
        };
        while !lines.last().is_some_and(is_last) {
            lines.push(self.line());
        }
        lines
    }
}
