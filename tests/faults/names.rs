//! What others could see or reach of a run: no socket and no file of ours has
//! a name, and there is nothing to connect to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use super::{Run, launcher, qemu};

/// What a process has open.
fn open_files(pid: Pid) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// The inodes of sockets among them.
fn sockets(files: &[PathBuf]) -> BTreeSet<String> {
    let inode = |file: &PathBuf| {
        Some(file.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
    };
    files.iter().filter_map(inode).collect()
}

/// The lines of a table of `/proc/net` that are of one of these sockets.
fn lines_of(table: &str, column: usize, inodes: &BTreeSet<String>) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new("/proc/net").join(table)).unwrap_or_default();
    let ours = |line: &&str| {
        line.split_whitespace().nth(column).is_some_and(|inode| inodes.contains(inode))
    };
    text.lines().filter(ours).map(str::to_owned).collect()
}

#[test]
fn nothing_of_ours_has_a_name_and_there_is_nothing_to_connect_to() {
    let Some(qemu) = qemu() else { return };
    let place = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(launcher());
    command.env("QEMU_LOGBUF_QEMU", &qemu).current_dir(&place).stdout(Stdio::null());
    for name in ["TMPDIR", "HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
        command.env(name, place.path());
    }
    command.args(["-M", "pseries,x-vof=on", "-S", "-display", "none", "-nodefaults"]);
    let mut run = Run::start(command);
    run.ask_until("has not been entered");
    for pid in [run.pid(), run.qemu()] {
        let files = open_files(pid);
        let sockets = sockets(&files);
        assert!(!sockets.is_empty(), "the monitor's");
        let unix = lines_of("unix", 6, &sockets);
        assert!(!unix.is_empty());
        for line in unix {
            let fields: Vec<_> = line.split_whitespace().collect();
            // Flags, of which 00010000 is that it listens; and a path, if any.
            assert_eq!((fields[3], fields.len()), ("00000000", 7), "{line}");
        }
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            assert_eq!(lines_of(table, 9, &sockets), [""; 0]);
        }
        for file in files {
            let name = file.to_str().expect("text");
            // The memfd is nobody's who may not trace the process.
            let unnamed = ["socket:[", "pipe:[", "anon_inode:", "/memfd:", "/dev/null"];
            let stderr = file == run.folder.path().join("stderr");
            // The firmware, as QEMU has it open without us.
            let qemus = name.starts_with("/usr/share/");
            assert!(
                stderr || qemus || unnamed.iter().any(|start| name.starts_with(start)),
                "{name}"
            );
        }
    }
    let left = || std::fs::read_dir(place.path()).expect("a folder").flatten().next();
    assert!(left().is_none(), "{:?}", left());
    assert_eq!(run.terminate(), 0, "{}", run.stderr());
    assert!(left().is_none(), "{:?}", left());
}
