//! What a kernel prints by itself, under bare QEMU.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a console or a report that are a kernel's messages, without
/// their time stamps.
pub fn messages(text: &str) -> Vec<String> {
    let line = |line: &str| {
        // Firmware that the kernel asks to show progress does not end lines.
        line.match_indices('[').find_map(|(at, _)| message(&line[at..]))
    };
    text.lines().map(|text| text.trim_matches('\r')).filter_map(line).collect()
}

/// The lines of a report that are a kernel's messages, where it knows no more
/// of them than their text.
pub fn texts(report: &str) -> Vec<String> {
    let ours = ["────", "qemu-logbuf: ", "CPU ", "      "];
    let lines = report.lines().filter(|line| !ours.iter().any(|begin| line.starts_with(begin)));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// `[    0.000000] text`; the caller, which some kernels print after the
/// time, is left out.
fn message(line: &str) -> Option<String> {
    let (stamp, text) = line.strip_prefix('[')?.split_once(']')?;
    let stamp = stamp.trim_start();
    // skiboot's own have nine digits and a level.
    let (seconds, rest) = stamp.split_once('.')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if rest.len() != 6 || !is_number(seconds) || !is_number(rest) {
        return None;
    }
    let text = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((_, text)) => text,
        None => text,
    };
    Some(text.strip_prefix(' ').unwrap_or(text).trim_end().to_owned())
}

/// Boot and read the console until it is `enough`.
pub fn console(
    qemu: &Path,
    words: &[std::ffi::OsString],
    folder: &Path,
    limit: Duration,
    enough: impl Fn(&[String]) -> bool,
) -> Result<Vec<String>, String> {
    let output = folder.join("oracle");
    let errors = folder.join("oracle-errors");
    let child = Command::new(qemu)
        .args(words)
        .stdin(Stdio::null())
        .stdout(File::create(&output).expect("a file"))
        .stderr(File::create(&errors).expect("a file"))
        .spawn()
        .map_err(|error| format!("{}: {error}", qemu.display()))?;
    let mut child = Ended(child);
    let start = Instant::now();
    loop {
        let text = std::fs::read(&output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let found = messages(text.get(..text.rfind('\n').unwrap_or(0)).unwrap_or_default());
        if enough(&found) {
            return Ok(found);
        }
        let ended = child.0.try_wait().is_ok_and(|status| status.is_some());
        if ended || start.elapsed() > limit {
            let errors = std::fs::read_to_string(&errors).unwrap_or_default();
            return Err(format!(
                "the console shows {} messages{}; it ends in {:?}; {}",
                found.len(),
                if ended { ", and QEMU ended" } else { "" },
                text.lines().last().unwrap_or_default(),
                errors.lines().last().unwrap_or_default()
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
