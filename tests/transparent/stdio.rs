//! QEMU on a terminal, in each way it can use it; and on what is none.

use nix::sys::signal::Signal;

use crate::run::Case;
use crate::run::Step::{Cooked, HangUp, Kill, Modes, Ready, Resize, Type, Wait};

const PROMPT: &str = "(qemu) ";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_BACKSLASH: &str = "\x1c";

pub fn cases() -> Vec<Case> {
    [on_a_terminal(), keys(), ends(), on_no_terminal()].concat()
}

/// The ways to use stdio.
fn on_a_terminal() -> Vec<Case> {
    vec![
        Case::terminal(
            "tty -nographic, its monitor and C-a x",
            "exec $Q -M pseries -S -nographic",
            &[
                Ready,
                Modes,
                Type("\x01c"),
                Wait(PROMPT),
                Type("info status\r"),
                Wait("VM status"),
                Wait(PROMPT),
                Type("\x01h"),
                Wait("C-a C-a"),
                Type("\x01?"),
                Wait("C-a C-a"),
                Type(CTRL_C),
                Type("\x01x"),
            ],
        ),
        Case::terminal(
            "tty -nographic on pseries, paused",
            "exec $Q -M pseries -S -nographic",
            &[
                Ready,
                Modes,
                Type("\x01c"),
                Wait(PROMPT),
                Type("info chardev\r"),
                Wait("serial0"),
                Wait(PROMPT),
                Type("quit\r"),
            ],
        ),
        Case::terminal(
            "tty -serial mon:stdio",
            "exec $Q -M pseries -S -display none -serial mon:stdio",
            &[
                Ready,
                Modes,
                Type("\x01c"),
                Wait(PROMPT),
                Type("info status\r"),
                Wait("VM status"),
                Wait(PROMPT),
                Type("\x01x"),
            ],
        ),
        Case::terminal(
            "tty -serial stdio, ^C",
            "exec $Q -M pseries -S -display none -serial stdio",
            &[Ready, Modes, Type(CTRL_C)],
        ),
        Case::terminal(
            "tty -serial stdio, ^\\",
            "ulimit -c 0; exec $Q -M pseries -S -display none -serial stdio",
            &[Ready, Modes, Type(CTRL_BACKSLASH)],
        )
        .put_back(),
        Case::terminal(
            "tty -monitor stdio",
            "exec $Q -M none -display none -monitor stdio",
            &[
                Wait(PROMPT),
                Modes,
                Type("info chardev\r"),
                Wait(PROMPT),
                Type("info version\r"),
                Wait(PROMPT),
                Type("quit\r"),
            ],
        ),
        Case::terminal(
            "tty -monitor stdio, line editing",
            "exec $Q -M none -display none -monitor stdio",
            &[
                Wait(PROMPT),
                Type("inffo\x08\x08o stat\t\r"),
                Wait("\n"),
                Wait(PROMPT),
                Type("\x10\r"),
                Wait("\n"),
                Wait(PROMPT),
                Type("quit\r"),
            ],
        ),
        Case::terminal(
            "tty -qmp stdio, cooked",
            "exec $Q -M none -display none -qmp stdio",
            &[
                Wait("QMP"), Cooked,
                Modes,
                Type("{\"execute\":\"qmp_capabilities\"}\r"),
                Wait("return"),
                Type("{\"execute\":\"query-statuX\x7fs\"}\r"),
                Wait("running"),
                Type("{\"execute\":\"quit\"}\r"),
                Wait("SHUTDOWN"),
            ],
        ),
        Case::terminal(
            "tty -qmp stdio, ^D and then a signal",
            "exec $Q -M none -display none -qmp stdio",
            &[
                Wait("QMP"), Cooked,
                Type("{\"execute\":\"qmp_capabilities\"}\r"),
                Wait("return"),
                Type(CTRL_D),
                Modes,
                Kill(Signal::SIGTERM),
            ],
        ),
        Case::terminal(
            "tty -qmp stdio, ^C",
            "exec $Q -M none -display none -qmp stdio",
            &[Wait("QMP"), Cooked, Ready, Type(CTRL_C)],
        ),
        Case::terminal(
            "tty -chardev stdio,mux=on,signal=off",
            "exec $Q -M pseries -S -display none -chardev stdio,id=c,mux=on,signal=off -serial chardev:c -mon chardev=c",
            &[Ready, Modes, Type(CTRL_C), Type("\x01c"), Wait(PROMPT), Type("quit\r")],
        ),
        Case::terminal(
            "tty -chardev stdio,signal=on",
            "exec $Q -M none -display none -chardev stdio,id=c,signal=on -mon chardev=c",
            &[Wait(PROMPT), Ready, Modes, Type(CTRL_C)],
        ),
        Case::terminal(
            "tty -chardev stdio,signal=off",
            "exec $Q -M none -display none -chardev stdio,id=c,signal=off -mon chardev=c",
            &[Wait(PROMPT), Modes, Type(CTRL_C), Type("quit\r")],
        ),
        Case::terminal(
            "tty -nodefaults leaves the terminal alone",
            "exec $Q -M none -nodefaults -display none -pidfile p",
            &[Ready, Modes, Type(CTRL_C)],
        ),
        Case::terminal(
            "tty -echr",
            "exec $Q -M pseries -S -nographic -echr 0x14",
            &[
                Ready,
                Type("\x01c\x14c"),
                Wait(PROMPT),
                Type("info status\r"),
                Wait("VM status"),
                Wait(PROMPT),
                Type("\x14x"),
            ],
        ),
        Case::terminal(
            "tty -echr junk",
            "exec $Q -M pseries -S -nographic -echr junk",
            &[Wait("Bad argument"), Ready, Modes, Kill(Signal::SIGTERM)],
        ),
        Case::terminal(
            "tty -preconfig",
            "exec $Q -M none -display none -preconfig -qmp stdio",
            &[
                Wait("QMP"), Cooked,
                Type("{\"execute\":\"qmp_capabilities\"}\r"),
                Wait("return"),
                Type("{\"execute\":\"x-exit-preconfig\"}\r"),
                // The reply comes before it or after, as the version has it.
                Wait("RESUME"),
                Ready,
                Type("{\"execute\":\"quit\"}\r"),
            ],
        ),
        Case::terminal(
            "tty -incoming defer",
            "exec $Q -M pseries -display none -incoming defer -monitor stdio",
            &[Wait(PROMPT), Type("info status\r"), Wait("inmigrate"), Wait(PROMPT), Type("quit\r")],
        ),
        Case::terminal(
            "tty -sandbox on",
            "exec $Q -M none -display none -monitor stdio -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        ),
        Case::terminal(
            "tty -runas nobody",
            "exec $Q -M none -display none -monitor stdio -runas nobody",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        )
        .before(10),
        Case::terminal(
            "tty -run-with user=nobody",
            "exec $Q -M none -display none -monitor stdio -run-with user=nobody",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        )
        .since(10),
        Case::terminal(
            "tty -run-with chroot=",
            "mkdir jail; exec $Q -M none -display none -monitor stdio -run-with chroot=jail",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        )
        .since(10),
        Case::terminal(
            "tty -run-with exit-with-parent=off",
            "exec $Q -M none -display none -monitor stdio -run-with exit-with-parent=off",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        )
        .since(11),
        Case::terminal(
            "tty -chroot",
            "mkdir jail; exec $Q -M none -display none -monitor stdio -chroot jail",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        )
        .before(10),
        Case::terminal(
            "tty -display curses, resized",
            "exec $Q -M pseries -S -vga std -display curses",
            &[
                Ready,
                Wait("\x1b["),
                Resize(100, 40),
                Type("\x1b2"),
                Wait("qemu"),
                Modes,
                Type("quit\r"),
            ],
        )
        .drawn()
        // Debian's 5.2 has it in a package of its own.
        .since(6),
        Case::terminal(
            "tty -display curses, ^D is a key",
            "exec $Q -M pseries -S -vga std -display curses",
            &[
                Ready,
                Wait("\x1b["),
                Type("\x1b2"),
                Wait("qemu"),
                // To the line's beginning, and a letter too many deleted.
                Type("xinfo status\x01\x04\r"),
                Wait("VM status"),
                Modes,
                Type("quit\r"),
            ],
        )
        .drawn()
        .since(6),
        Case::terminal(
            "tty a file name that leads to stdin",
            "exec $Q -M none -display none -nodefaults -chardev serial,id=c,path=/dev/stdin -mon chardev=c",
            &[Wait(PROMPT), Modes, Type("info status\r"), Wait("VM status"), Wait(PROMPT), Type("quit\r")],
        )
        .put_back(),
        Case::terminal(
            "tty /dev/tty as a serial port",
            "exec $Q -M none -display none -nodefaults -chardev serial,id=c,path=/dev/tty -mon chardev=c",
            &[Wait(PROMPT), Modes, Type("info status\r"), Wait("VM status"), Wait(PROMPT), Type("quit\r")],
        )
        .put_back(),
        Case::terminal(
            "tty stdin only, stdout a file",
            "exec $Q -M none -display none -monitor stdio >out",
            &[Ready, Modes, Type("info status\r"), Type("quit\r")],
        ),
        Case::terminal(
            "tty stdout only, stdin a file",
            "printf 'info status\\nquit\\n' >in; exec $Q -M none -display none -monitor stdio <in",
            &[],
        )
        .put_back_before(6),
        Case::terminal(
            "tty stdin read only",
            "exec $Q -M none -display none -monitor stdio <$(tty)",
            &[Wait(PROMPT), Modes, Type("quit\r")],
        )
        .put_back_before(6),
        Case::terminal(
            "tty modes of the user's own are put back",
            "stty -echo -ixon erase ^H; exec $Q -M pseries -S -nographic",
            &[Ready, Modes, Type("\x01x"), Cooked],
        ),
        Case::terminal(
            "tty already raw",
            "stty raw; exec $Q -M pseries -S -nographic",
            &[Type("\x01c"), Wait(PROMPT), Modes, Type("quit\r")],
        ),
    ]
}

/// Keys that are QEMU's or the guest's.
fn keys() -> Vec<Case> {
    vec![
        Case::terminal(
            "keys typed before QEMU reads them",
            "read -r go; exec $Q -M none -display none -monitor stdio",
            &[Type("\rinfo status\rquit\r")],
        ),
        Case::terminal(
            "keys typed while nobody reads stay for the shell",
            "$Q -M none -display none -nodefaults -pidfile p & ready; kill $!; wait $!; read -r line; echo \"got $line\"",
            &[Type("hello\r"), Wait("got hello")],
        ),
        Case::terminal(
            "keys typed after quit are the shell's",
            "$Q -M none -display none -monitor stdio; read -r line; echo \"got $line\"",
            &[Wait(PROMPT), Type("quit\rhello\n"), Wait("got ")],
        ),
        Case::terminal(
            "keys C-a s, C-a b and unknown ones",
            "exec $Q -M pseries -S -nographic -snapshot",
            &[Ready, Type("\x01t\x01z\x01s\x01c"), Wait(PROMPT), Type("\x01b\x01x")],
        ),
        Case::terminal(
            "keys C-] and letters reach a monitor",
            "exec $Q -M none -display none -monitor stdio",
            &[Wait(PROMPT), Type("\x1dinfo status\r"), Wait("\n"), Wait(PROMPT), Type("quit\r")],
        ),
    ]
}

/// Ways out.
fn ends() -> Vec<Case> {
    vec![
        Case::terminal(
            "end hangup",
            "exec $Q -M pseries -S -nographic -pidfile p",
            &[Ready, HangUp],
        ),
        Case::terminal(
            "end hangup under a shell",
            "$Q -M pseries -S -nographic; echo $? >status",
            &[Ready, HangUp],
        ),
        Case::terminal(
            "end hangup with -serial stdio",
            "exec $Q -M pseries -S -display none -serial stdio",
            &[Ready, HangUp],
        ),
        Case::terminal(
            "end the stdio monitor quits with a status of its own",
            "$Q -M none -display none -monitor stdio; echo status $?",
            &[Wait(PROMPT), Type("quit\r"), Wait("status"), Cooked],
        ),
        Case::terminal(
            "end start-up fails after the terminal was taken",
            "exec $Q -M pseries -S -nographic -device bogus",
            &[],
        ),
    ]
}

/// stdin, stdout and stderr that are no terminal.
fn on_no_terminal() -> Vec<Case> {
    vec![
        Case::files(
            "pipe commands in",
            "printf 'info status\\nquit\\n' | $Q -M none -display none -monitor stdio",
        ),
        Case::files(
            "pipe keys of -nographic",
            "printf '\\x01c\\ninfo status\\n\\x01x' | $Q -M pseries -S -nographic",
        ),
        Case::files(
            "pipe out",
            "printf 'info status\\nquit\\n' | $Q -M none -display none -monitor stdio | cat -v",
        ),
        Case::files(
            "pipe whose reader leaves",
            "(printf 'info status\\n'; until [ -e gone ]; do sleep 0.02; done; printf 'info version\\nquit\\n') | { $Q -M none -display none -monitor stdio; echo $? >status; } | { head -c1; exec <&-; touch gone; }; cat status",
        ),
        Case::files(
            "pipe that is full",
            "mkfifo f; exec 9<>f; head -c 65536 /dev/zero >&9; printf 'info status\\nquit\\n' | $Q -M none -display none -monitor stdio >&9; echo $?; dd if=/dev/fd/9 iflag=nonblock bs=64k 2>/dev/null | wc -c; rm f",
        ),
        Case::files(
            "stdin a file",
            "printf 'info status\\nquit\\n' >in; $Q -M none -display none -monitor stdio <in",
        ),
        Case::files(
            "stdin at its end",
            "$Q -M pseries -S -nographic -pidfile p </dev/null & ready; kill -TERM $!; wait $!; echo $?",
        ),
        Case::files(
            "stdin closed",
            "$Q -M none -nodefaults -display none -pidfile p <&- & ready; readlink /proc/$(cat p)/fd/0 | sed 's/[0-9]\\+/N/g'; kill -TERM $!; wait $!; echo $?",
        ),
        Case::files(
            "stdin closed, -nographic",
            "timeout 1 $Q -M pseries -S -nographic <&-; echo $?",
        ),
        Case::files(
            "stdout closed",
            "printf 'quit\\n' | $Q -M none -display none -monitor stdio >&-; echo $? >status",
        ),
        Case::files("stderr closed", "$Q -bogus 2>&-; echo $?"),
        Case::files(
            "stdout and stderr one file",
            "printf 'info status\\nquit\\n' | $Q -M none -display none -monitor stdio >both 2>&1; $Q -bogus >>both 2>&1",
        ),
        Case::files("stdout full", "$Q -h >/dev/full; echo $?"),
        Case::files(
            "socket as stdin and stdout",
            "perl -MSocket -e 'socketpair(A,B,AF_UNIX,SOCK_STREAM,0); if (fork) { close B; syswrite A, \"info status\\nquit\\n\"; print while <A> } else { open STDIN, \"<&B\"; open STDOUT, \">&B\"; exec $ENV{Q}, qw(-M none -display none -monitor stdio) }'",
        ),
    ]
}
