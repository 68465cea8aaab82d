//! QEMU as a process: signals, ends, files it leaves, and how it is found.

use nix::sys::signal::Signal;

use crate::run::Case;
use crate::run::Step::{Kill, KillGroup, Ready, Stopped, Type, Wait};

const PROMPT: &str = "(qemu) ";
const MONITOR: &str = "ulimit -c 0; exec $Q -M none -display none -monitor stdio";

/// A signal to QEMU at its monitor.
macro_rules! signals {
    ($($signal:ident),* $(,)?) => {
        vec![$(Case::terminal(
            concat!("signal ", stringify!($signal)),
            MONITOR,
            &[Wait(PROMPT), Ready, Kill(Signal::$signal)],
        )
        .put_back()),*]
    };
}

pub fn cases() -> Vec<Case> {
    let mut cases = signals![
        SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2, SIGABRT, SIGTRAP, SIGSYS, SIGXCPU, SIGXFSZ,
        SIGPWR, SIGVTALRM, SIGPROF, SIGSTKFLT
    ];
    cases.extend([
        Case::terminal(
            "signal without effect: IO, ALRM, PIPE, WINCH, URG",
            MONITOR,
            &[
                Wait(PROMPT), Kill(Signal::SIGIO), Kill(Signal::SIGALRM), Kill(Signal::SIGPIPE), Kill(Signal::SIGWINCH),
                Kill(Signal::SIGURG), Type("info status\r"), Wait("VM status"), Wait(PROMPT), Type("quit\r"),
            ],
        ),
        Case::terminal("signal TERM to the group", MONITOR, &[Wait(PROMPT), Ready, KillGroup(Signal::SIGTERM)]),
        Case::terminal("signal QUIT to the group", MONITOR, &[Wait(PROMPT), Ready, KillGroup(Signal::SIGQUIT)]).put_back(),
        Case::terminal(
            "signal STOP, CONT to the group",
            MONITOR,
            &[
                Wait(PROMPT), KillGroup(Signal::SIGSTOP), Stopped, KillGroup(Signal::SIGCONT), Type("info status\r"),
                Wait("VM status"), Wait(PROMPT), Type("quit\r"),
            ],
        ),
        Case::terminal(
            "signal STOP, CONT",
            MONITOR,
            &[
                Wait(PROMPT), Kill(Signal::SIGSTOP), Stopped, Type("info status\r"), Kill(Signal::SIGCONT),
                Wait("VM status"), Wait(PROMPT), Type("quit\r"),
            ],
        ),
        Case::files("signal TSTP and CONT back to back", "FAKE_QEMU='a shell that stops its job' $SELF; rm -f p"),
        Case::files(
            "signal TERM names its sender",
            "$Q -M none -display none -monitor unix:m,server=on,wait=off -pidfile p & until [ -s p ] && [ -S m ]; do sleep 0.02; done
             perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); connect(S,sockaddr_un(\"m\")) or die; sysread S,$x,1'
             bash -c 'echo $$ >killer; kill -TERM '$!'; gone '$!'; :' a-killer
             wait $! 2>err; s=$?; cat err; grep -c \"from pid $(cat killer) \" err; echo $s; rm -f m",
        ),
        Case::files(
            "timeout",
            "timeout 1 $Q -M none -display none -monitor none; echo $?",
        ),
        Case::files(
            "timeout --signal=KILL",
            "timeout --signal=KILL 1 $Q -M none -display none -monitor none -pidfile p; s=$?; gone $(cat p); echo $s",
        ),
        Case::files(
            "killed, and nothing is left",
            "$Q -M none -display none -nodefaults -pidfile p & ready; kill -KILL $!; wait $!; echo $?; gone $(cat p); echo gone",
        ),
        Case::files(
            "signals that nobody catches",
            "ulimit -c 0; for s in SEGV BUS ILL FPE KILL 34 64; do rm -f p; $Q -M none -display none -nodefaults -pidfile p & ready; kill -$s $!; wait $!; echo $s $?; gone $(cat p); done; rm p",
        ),
        Case::files(
            "QEMU itself killed",
            "$Q -M none -display none -nodefaults -pidfile p & ready; kill -KILL $(cat p); wait $!; echo $?",
        ),
        Case::files(
            "QEMU itself killed by a real-time signal",
            "for s in 34 64; do rm -f p; $Q -M none -display none -nodefaults -pidfile p & ready; kill -$s $(cat p); wait $!; echo $s $?; done; rm -f p",
        ),
        Case::files(
            "-daemonize, -pidfile and its monitor",
            "$Q -M none -display none -daemonize -pidfile p -monitor unix:m,server=on,wait=off; echo $?
             grep -E '^(Sig(Blk|Ign)|PPid)' /proc/$(cat p)/status; readlink /proc/$(cat p)/cwd /proc/$(cat p)/fd/{0,1,2}; ls /proc/$(cat p)/fd | wc -l >/dev/null
             kill $(cat p); while kill -0 $(cat p 2>/dev/null) 2>/dev/null; do sleep 0.02; done; ls",
        ),
        Case::files(
            "-run-with exit-with-parent=on, and the parent is killed",
            "bash -c '$Q -M none -display none -nodefaults -pidfile p -run-with exit-with-parent=on 2>err & ready; cp p q; kill -KILL $$'; echo $?; gone $(cat q); ls",
        )
        .since(11),
        Case::files("-daemonize that fails", "$Q -M bogus -display none -daemonize; echo $?"),
        Case::files(
            "the user's own -qmp: greeting, events, replies",
            "exec 3> >(cat >/dev/null); (echo '{\"execute\":\"qmp_capabilities\"}'; for c in query-status query-chardev query-mice stop cont system_reset query-cpus-fast quit; do echo '{\"execute\":\"'$c'\"}'; done) | $Q -M none -display none -nodefaults -qmp stdio |
             sed -E 's/\"(micro)?seconds\": [0-9]+/T/g; s/\\{[^{}]*\"label\": \"qemu-logbuf\"[^{}]*\\}(, )?//; s/, \\]/]/'",
        ),
        Case::files(
            "two monitors of the user's own",
            "printf 'info chardev\\ninfo qtree\\nquit\\n' | $Q -M none -nodefaults -display none -chardev stdio,id=a -mon chardev=a -chardev null,id=b -mon chardev=b,mode=control",
        ),
        Case::files(
            "-readconfig of the user's own",
            "printf '[chardev \"a\"]\\n backend = \"stdio\"\\n[mon \"a\"]\\n chardev = \"a\"\\n' >c; printf 'info chardev\\nquit\\n' | $Q -M none -nodefaults -display none -readconfig c",
        ),
        Case::files(
            "disk images as words",
            "head -c 65536 /dev/zero >d.img; printf 'info block\\nquit\\n' | $Q -M pseries -S -display none -monitor stdio -snapshot d.img 2>&1",
        ),
        Case::files(
            "an image under its descriptor's name",
            "head -c 65536 /dev/zero >d.img; printf 'info block\\nquit\\n' | $Q -M pseries -S -display none -monitor stdio -drive file=/proc/self/fd/7,format=raw,if=none,id=x 7<>d.img",
        ),
        Case::files(
            "-add-fd under its number",
            "head -c 65536 /dev/zero >d.img; printf 'info block\\nquit\\n' | $Q -M none -display none -monitor stdio -add-fd fd=7,set=1,opaque=o -drive file=/dev/fdset/1,format=raw,if=none,id=x 7<>d.img",
        ),
        Case::files("-add-fd that is closed", "$Q -M none -display none -monitor stdio -add-fd fd=7,set=1 7<&-; echo $?"),
        Case::files(
            "-chardev file to /proc/self/fd/1 and 2",
            "printf 'info status\\nquit\\n' | $Q -M none -display none -chardev stdio,id=i,mux=on -mon chardev=i -chardev file,id=f,path=/proc/self/fd/2 -serial chardev:f",
        ),
        Case::files(
            "a peer of an inherited socket sees QEMU end",
            "perl -MSocket -MPOSIX -e 'socketpair(A,B,AF_UNIX,SOCK_STREAM,0); POSIX::dup2(fileno(B),9); close B; if (fork) { POSIX::close(9); sysread A,$x,4096; syswrite A, qq({\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}); 1 while sysread A,$x,4096; print \"eof\\n\"; wait; print $?>>8,\"\\n\" } else { exec $ENV{Q}, qw(-M none -nodefaults -display none -chardev socket,id=c,fd=9 -mon chardev=c,mode=control) }'",
        ),
        Case::files(
            "a pipe that QEMU inherits ends with it",
            "$Q -M none -display none -nodefaults -pidfile p 7>&1 >/dev/null 2>&1 | { ready; kill $(cat p); cat; echo eof; }",
        ),
        Case::files("name: another directory", "mkdir sub; cd sub; $Q -M bogus; $Q -drive file=missing,if=none"),
        Case::files("name: by path", "$(command -v $Q) -bogus"),
        Case::files("many at once", "for i in 1 2 3; do printf 'quit\\n' | $Q -M none -display none -monitor stdio >o$i & done; wait; cat o1 o2 o3"),
        Case::files(
            "gdbstub",
            "$Q -M pseries -S -display none -nodefaults -gdb unix:g,server=on,wait=off -pidfile p & until [ -S g ]; do sleep 0.02; done
             perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); connect(S,sockaddr_un(\"g\")) or die; sub say1 { my $p=shift; my $c=0; $c+=ord for split //,$p; syswrite S, sprintf(q(+$%s#%02x),$p,$c&255); my $r=q(); while ($r !~ /#..$/) { sysread S,$x,4096 or last; $r.=$x } print \"$r\\n\" } say1(\"?\"); say1(\"m0,10\"); syswrite S, q(+$k#6b)'
             wait $!; echo $?; rm -f g p",
        ),
    ]);
    cases
}
