//! What qemu-logbuf does beyond QEMU: whose pid QEMU has, who answers, and how
//! wrappers that lead back to it end.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const NAME: &str = "qemu-system-ppc64";

/// A directory in which `qemu-system-ppc64` is qemu-logbuf, first in PATH.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("ours")).expect("a directory");
        let ours = root.path().join("ours").join(NAME);
        symlink(env!("CARGO_BIN_EXE_qemu-logbuf"), ours).expect("a link");
        Self { root }
    }

    /// A script under QEMU's name in a directory of its own.
    fn script(&self, directory: &str, text: &str) {
        let directory = self.root.path().join(directory);
        std::fs::create_dir(&directory).expect("a directory");
        let path = directory.join(NAME);
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a mode");
    }

    /// Run a bash script with the directories named first in PATH.
    fn run(&self, directories: &[&str], script: &str) -> Output {
        let mut path = String::new();
        for directory in directories {
            path.push_str(&format!("{}:", self.root.path().join(directory).display()));
        }
        path.push_str("/usr/bin:/bin");
        Command::new("timeout")
            .args(["20", "bash", "-c", script])
            .env("PATH", path)
            .env("OURS", env!("CARGO_BIN_EXE_qemu-logbuf"))
            .env("BASH_ENV", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transparent/helpers.sh"))
            .current_dir(self.root.path())
            .output()
            .expect("bash")
    }
}

/// One line on stderr that says `what`, and exit status 127.
fn ends_in_a_clear_line(output: &Output, what: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(127), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.starts_with("qemu-logbuf: ") && err.contains(what), "{err}");
    assert!(output.stdout.is_empty());
}

fn have_qemu() -> bool {
    let have = common::real_qemu().is_some();
    if !have {
        println!("skipped: no qemu-system-ppc64");
        assert!(std::env::var_os("CI").is_none(), "no qemu-system-ppc64");
    }
    have
}

#[test]
fn a_wrapper_that_leads_back_is_noticed() {
    let place = Place::new();
    place.script("wrapper", "#!/bin/sh\nexec qemu-system-ppc64 \"$@\"\n");
    place.script("adding", "#!/bin/sh\nexec qemu-system-ppc64 -M none -S \"$@\"\n");
    for wrapper in ["wrapper", "adding"] {
        for words in ["-M none", "-M none -daemonize", "--logbuf-same-pid -M none"] {
            let output = place.run(&["ours", wrapper], &format!("{NAME} {words}"));
            ends_in_a_clear_line(&output, "leads back");
        }
    }
}

#[test]
fn only_ourselves_in_path_is_no_qemu() {
    let place = Place::new();
    let copy = place.root.path().join("copy");
    std::fs::create_dir(&copy).expect("a directory");
    std::fs::copy(env!("CARGO_BIN_EXE_qemu-logbuf"), copy.join(NAME)).expect("a copy");
    let script = format!("PATH=$PWD/ours:$PWD/copy; {NAME} -version");
    ends_in_a_clear_line(&place.run(&["ours"], &script), "only qemu-system-ppc64 in PATH");
    let script = "PATH=$PWD/copy; qemu-system-ppc64 -version";
    ends_in_a_clear_line(&place.run(&["ours"], script), "only qemu-system-ppc64 in PATH");
    let script = "mkdir none; PATH=$PWD/none; $OURS -version";
    ends_in_a_clear_line(&place.run(&["ours"], script), "no qemu-system-ppc64 in PATH");
    let script = "QEMU_LOGBUF_QEMU=$PWD/copy/qemu-system-ppc64 qemu-system-ppc64 -version";
    ends_in_a_clear_line(&place.run(&["ours"], script), "is qemu-logbuf itself");
}

#[test]
fn a_wrapper_that_leads_on_is_run() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    place.script("wrapper", "#!/bin/sh\nexec /usr/bin/qemu-system-ppc64 \"$@\"\n");
    if !Path::new("/usr/bin/qemu-system-ppc64").exists() {
        return;
    }
    let output = place.run(
        &["ours", "wrapper"],
        "printf 'info status\\nquit\\n' | qemu-system-ppc64 -M none -display none -monitor stdio",
    );
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("VM status: running"));
}

/// The process id is QEMU's, the companion is found by its name, answers, and
/// ends with QEMU; nobody waits for it and it holds nothing of the caller's.
#[test]
fn with_qemus_pid_a_companion_answers() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    let output = place.run(
        &["ours"],
        r#"exec 7>held
        qemu-system-ppc64 --logbuf-same-pid -M none -display none -nodefaults -pidfile p 2>err & q=$!
        ready
        echo "pid $((q == $(cat p)))"
        companion() { for c in $(pgrep -x qemu-logbuf); do tr '\0' ' ' <"/proc/$c/cmdline" | grep -q -- "-pidfile p" && [ "$(readlink /proc/$c/cwd)" = / ] && echo $c; done; true; }
        until c=$(companion) && [ -n "$c" ]; do sleep 0.02; done
        echo "parent $(sed -n 's/^PPid:.//p' /proc/$c/status)"
        echo "children $(cat /proc/$q/task/$q/children | wc -w)"
        readlink /proc/$c/fd/{0,1,2}; ls -l /proc/$c/fd | grep -c held
        until grep -q 'SigCgt:.*[2367abef]..$' /proc/$c/status; do sleep 0.02; done
        kill -USR1 $c
        until grep -q qemu-logbuf err; do sleep 0.05; done
        kill $q; wait $q; echo "end $?"
        gone $c; echo gone"#,
    );
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        out.lines().filter(|line| !line.starts_with("parent")).collect::<Vec<_>>(),
        ["pid 1", "children 0", "/dev/null", "/dev/null", "/dev/null", "0", "end 0", "gone"],
        "{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// libvirt's way of starting a domain is recognised, and its probe's is left
/// alone.
#[test]
fn libvirts_domains_keep_their_pid() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    let output = place.run(
        &["ours"],
        r#"qemu-system-ppc64 -name guest=g,debug-threads=on -M none -display none -nodefaults -chardev socket,id=charmonitor,path=m,server=on,wait=off -mon chardev=charmonitor,mode=control -pidfile p 2>err & q=$!
        ready; echo "$((q == $(cat p)))"; kill $q; wait $q"#,
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
}

#[test]
fn a_pipe_is_not_held_by_the_companion() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    let output = place.run(
        &["ours"],
        "printf 'quit\\n' | qemu-system-ppc64 --logbuf-same-pid -M none -display none -monitor stdio | cat | tail -c 0; echo done",
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}
