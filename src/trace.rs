//! What we do, line by line, into the file that `--logbuf-debug` names.
//!
//! Never to a terminal: QEMU's bytes are all that belongs there.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

static TRACE: OnceLock<(Instant, File)> = OnceLock::new();

/// Begin to append to `path`.
///
/// # Errors
/// Where the file cannot be opened for appending.
pub fn open(path: &Path) -> std::io::Result<()> {
    let file = File::options().append(true).create(true).open(path)?;
    let _ = TRACE.set((Instant::now(), file));
    Ok(())
}

/// Append one line, in one write.
pub fn line(message: std::fmt::Arguments<'_>) {
    if let Some((start, file)) = TRACE.get() {
        let line = format!(
            "[{:>10.6}] {}: {message}\n",
            start.elapsed().as_secs_f64(),
            std::process::id()
        );
        let _ = (&*file).write_all(line.as_bytes());
    }
}

/// Say in the debug file what is being done; costs one load without one.
#[macro_export]
macro_rules! trace {
    ($($word:tt)*) => { $crate::trace::line(format_args!($($word)*)) };
}
