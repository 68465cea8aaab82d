//! What qemu-logbuf does beyond QEMU: whose pid QEMU has, who answers, and how
//! wrappers that lead back to it end.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use common::pty::Pty;
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

/// What appears as `keys` are typed into a script's QEMU in a terminal, up to
/// its end by `C-a x`.
fn typed(place: &Place, script: &str, keys: &str, until: &[&str]) -> String {
    let mut pty = Pty::open().expect("a terminal");
    let path = format!("{}:/usr/bin:/bin", place.root.path().join("ours").display());
    let dress = |command: &mut Command| {
        command.env("PATH", path).env("OURS", env!("CARGO_BIN_EXE_qemu-logbuf"));
        command.env("TERM", "xterm").env_remove("NO_COLOR").current_dir(place.root.path());
    };
    let mut child = pty.spawn(script, dress).expect("bash");
    assert!(pty.until(|pty| pty.is_raw()), "{script} takes the terminal");
    assert!(pty.type_in(keys.as_bytes()));
    for text in until {
        let seen = pty.wait_for(text);
        assert!(seen, "{script}: {text:?} in {:?}", String::from_utf8_lossy(pty.text()));
    }
    // Whatever else would come.
    pty.take(std::time::Duration::from_millis(300));
    assert!(pty.type_in(b"\x01x\x14x"));
    common::wait(&mut child, || pty.take(std::time::Duration::from_millis(5))).expect("an end");
    String::from_utf8_lossy(pty.text()).into_owned()
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
    for (file, status) in [("/etc/passwd", 126), ("/etc/nothing", 127)] {
        let output = place.run(&["ours"], &format!("$OURS --logbuf-qemu={file} -version"));
        assert_eq!(output.status.code(), Some(status));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("{file} is not an executable file")), "{said}");
    }
    let script = "QEMU_LOGBUF_QEMU=$PWD/copy/qemu-system-ppc64 qemu-system-ppc64 -version";
    ends_in_a_clear_line(&place.run(&["ours"], script), "is qemu-logbuf itself");
}

#[test]
fn without_a_path_qemu_is_looked_for_where_execvp_would() {
    if !have_qemu() || !Path::new("/usr/bin/qemu-system-ppc64").exists() {
        return;
    }
    let place = Place::new();
    let bare = place.run(&[], "/usr/bin/qemu-system-ppc64 -version");
    for words in ["", "--logbuf-qemu=qemu-system-ppc64"] {
        let ours = place.run(&[], &format!("exec env -i $OURS {words} -version"));
        assert!(ours.status.success(), "{ours:?}");
        assert_eq!(ours.stdout, bare.stdout);
    }
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

#[test]
fn a_verdict_that_nobody_would_stay_for_is_refused() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    let output = place.run(&["ours"], "qemu-system-ppc64 -M none -daemonize --logbuf-expect=x");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nobody stays to give the verdict"), "{said}");
    // What the environment says for all QEMUs keeps none from running.
    let script = "QEMU_LOGBUF_EXPECT=x qemu-system-ppc64 -M none -display none -daemonize -pidfile p; s=$?; kill $(cat p); exit $s";
    assert_eq!(place.run(&["ours"], script).status.code(), Some(0));
}

#[test]
fn what_cannot_be_written_to_standard_output_is_said() {
    let place = Place::new();
    std::fs::write(place.root.path().join("log"), "<6>a line\n").expect("written");
    for words in ["--logbuf-help", "--logbuf-read=log"] {
        let output = place.run(&["ours"], &format!("$OURS {words} >/dev/full"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("cannot write to standard output: No space left"), "{said}");
    }
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

/// As where Yama forbids it, and the file is not QEMU's user's to open: a
/// program that its user may not read can't be traced by that user.
#[test]
fn a_companion_that_may_not_trace_qemu_answers() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    if place.root.path().metadata().expect("a directory").uid() != 0 {
        eprintln!("skipped: a program that its user may not read, since only root can make one");
        return;
    }
    let output = place.run(
        &[],
        r#"chmod 755 .; cp "$OURS" ours/copy; cp "$(command -v qemu-system-ppc64)" qemu; chmod 711 ours/copy qemu
        (umask 077; : >err)
        setpriv --reuid=65534 --regid=65534 --clear-groups env ours/copy --logbuf-qemu="$PWD/qemu" --logbuf-same-pid -M none -display none -nodefaults -name untraced 2>err & q=$!
        companion() { for c in $(pgrep -x qemu-logbuf); do tr '\0' ' ' <"/proc/$c/cmdline" | grep -q -- "-name untraced" && echo $c; done; true; }
        until c=$(companion) && [ -n "$c" ]; do sleep 0.02; done
        until grep -q 'SigCgt:.*[2367abef]..$' /proc/$c/status; do sleep 0.02; done
        trap 'kill -9 $q' EXIT
        kill -USR1 $c
        until grep -q qemu-logbuf err; do sleep 0.05; done
        kill $q; wait $q; echo "end $?"
        gone $c; echo gone"#,
    );
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(out, "end 0\ngone\n", "{}", String::from_utf8_lossy(&output.stderr));
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

/// Directly beneath QEMU's own help, which is left as it is.
#[test]
fn our_keys_stand_beneath_qemus_help() {
    if !have_qemu() {
        return;
    }
    let place = Place::new();
    let mux = "exec qemu-system-ppc64 -M none -display none -serial mon:stdio";
    let last = ["(qemu-logbuf)"; 4];
    let seen = typed(&place, mux, "\x01h", &last);
    let (before, ours) = seen.split_once("C-a l ").expect("ours");
    assert!(before.ends_with("sends C-a\r\n\r"), "{before:?}");
    let lines: Vec<&str> = ours.lines().map(|line| line.trim_matches('\r')).collect();
    assert_eq!(
        &lines[..4],
        [
            "   show the kernel's log (qemu-logbuf)",
            "C-a a    show all of it (qemu-logbuf)",
            "C-a w    show where each CPU is (qemu-logbuf)",
            "C-a f    follow the log, or stop (qemu-logbuf)"
        ]
    );
    let seen = typed(&place, &format!("{mux} -echr 0x14"), "\x14?", &last);
    assert!(seen.contains("C-t l    show the kernel's log (qemu-logbuf)"), "{seen}");
    // Where there is no key of ours, or the help goes elsewhere, there is no
    // such line; nor where the guest is meant.
    let off = typed(&place, &format!("{mux} --logbuf-key=off"), "\x01h", &["sends C-a"]);
    let other = typed(&place, &format!("{mux} --logbuf-key=ctrl-t"), "\x01h", &["sends C-a"]);
    let file = typed(&place, &format!("{mux} >help"), "\x01h", &[]);
    let guest = typed(&place, mux, "\x01\x01h\x01c", &["(qemu) "]);
    for seen in [off, other, file, guest] {
        assert!(!seen.contains("qemu-logbuf)"), "{seen}");
    }
}

/// A guest whose log cannot be read says so in one line, to the signal and to
/// the key.
#[test]
fn a_guest_that_is_not_power_is_said_to_be_none() {
    if which::which("qemu-system-x86_64").is_err() {
        println!("skipped: no qemu-system-x86_64");
        assert!(std::env::var_os("CI").is_none(), "no qemu-system-x86_64");
        return;
    }
    const WHY: &str = "qemu-logbuf: this QEMU emulates x86_64, whose kernels' logs are not read yet; only Power guests (ppc, ppc64) can be asked";
    let place = Place::new();
    let ours = place.root.path().join("ours/qemu-system-x86_64");
    symlink(env!("CARGO_BIN_EXE_qemu-logbuf"), ours).expect("a link");
    let output = place.run(
        &["ours"],
        r#"qemu-system-x86_64 -M pc -S -display none -nodefaults -pidfile p 2>err & q=$!; ready
        kill -USR1 $q; until [ -s err ]; do sleep 0.02; done; kill $q; wait $q; echo $?; head -n 1 err; grep -c logbuf err"#,
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("0\n{WHY}\n1\n"));
    let script = "exec qemu-system-x86_64 -M pc -S -nographic --logbuf-color=never";
    let seen = typed(&place, script, "\x01l", &["can be asked"]);
    assert!(seen.lines().any(|line| line.trim_matches('\r') == WHY), "{seen}");
}
