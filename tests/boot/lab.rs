//! Where the test kernels and QEMU are, and saying so when they are not.
//!
//! `tests/run-all` puts kernels into `target/lab`; `QEMU_LOGBUF_LAB` names
//! another place. A test whose kernel is missing says that it was skipped;
//! where `CI` is set, the stock kernel must be there.

use std::path::PathBuf;

/// The folder of a test kernel, such as `bookworm` or `be64-6.1`.
fn folder(name: &str) -> PathBuf {
    let lab = std::env::var_os("QEMU_LOGBUF_LAB").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/lab"),
        PathBuf::from,
    );
    lab.join(name)
}

/// A file of the lab, or `None` and a line saying what was skipped.
pub fn file(kernel: &str, file: &str, needed: bool) -> Option<PathBuf> {
    let path = folder(kernel).join(file);
    if path.is_file() {
        return Some(path);
    }
    assert!(
        !(needed && std::env::var_os("CI").is_some()),
        "{} is missing; tests/run-all fetches it",
        path.display()
    );
    eprintln!("skipped: {} is not there (tests/run-all fetches or builds it)", path.display());
    None
}

/// The stock kernel as Debian ships it.
pub fn stock() -> Option<PathBuf> {
    file("bookworm", "vmlinux", true)
}

/// The stock kernel, made to hang at the first instruction of a function.
pub fn stock_hung_in(function: &str) -> Option<PathBuf> {
    let stock = stock()?;
    let hung = folder("bookworm").join(format!("vmlinux-hung-in-{function}"));
    if !hung.is_file() {
        hang(&stock, &hung, function);
    }
    Some(hung)
}

/// Make a copy of a kernel that hangs in a function, all at once: tests run
/// side by side.
pub fn hang(kernel: &std::path::Path, to: &std::path::Path, function: &str) {
    let half = to.with_extension(format!("{}", std::process::id()));
    let status = std::process::Command::new(example("hang-kernel"))
        .args([kernel, half.as_path()])
        .arg(function)
        .status()
        .expect("hang-kernel runs");
    assert!(status.success());
    std::fs::rename(half, to).expect("renamed");
}

/// An example program, built beside the tests.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let profile = tests.ancestors().nth(2).expect("target/PROFILE");
    profile.join("examples").join(name)
}

/// The program under test.
pub fn qemu_logbuf() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_qemu-logbuf"))
}
