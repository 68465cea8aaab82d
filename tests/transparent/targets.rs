//! QEMU for other targets, under a link of its own name: 32-bit Power, and
//! one whose guests' logs are not read.

use crate::run::Case;
use crate::run::Step::{Modes, Raw, Ready, Type, Wait};

const PROMPT: &str = "(qemu) ";

/// What is the same for each target; `$machine` runs without a disk.
macro_rules! launches {
    ($target:literal, $machine:literal) => {
        [
            Case::files(concat!($target, " -version"), "$Q -version"),
            Case::files(concat!($target, " -M help"), "$Q -M help"),
            Case::files(concat!($target, " -cpu help"), "$Q -cpu help"),
            Case::files(concat!($target, " -bogus"), "$Q -bogus; echo $?"),
            Case::files(concat!($target, " -M bogus"), "$Q -M bogus; echo $?"),
            Case::files(concat!($target, " missing.img"), "$Q missing.img; echo $?"),
            Case::files(
                concat!($target, " -M none and a monitor in a pipe"),
                "printf 'info status\\ninfo chardev\\nquit\\n' | $Q -M none -display none -monitor stdio; echo $?",
            ),
            Case::files(
                concat!($target, " signals"),
                "ulimit -c 0; for s in TERM INT HUP USR2 KILL; do rm -f p; $Q -M none -display none -nodefaults -pidfile p & ready; q=$(cat p); kill -$s $!; wait $!; echo $s $?; gone $q; done; rm -f p",
            ),
            Case::files(
                concat!($target, " -daemonize and -pidfile"),
                concat!(
                    "$Q -M ", $machine, " -S -display none -daemonize -pidfile p -monitor unix:m,server=on,wait=off; echo $?
                     grep PPid /proc/$(cat p)/status; readlink /proc/$(cat p)/cwd /proc/$(cat p)/fd/{0,1,2}
                     q=$(cat p); kill $q; gone $q; ls"
                ),
            ),
            Case::terminal(
                concat!($target, " -nographic, its monitor and C-a x"),
                concat!("exec $Q -M ", $machine, " -S -nographic"),
                &[Ready, Modes, Type("\x01c"), Wait(PROMPT), Type("info status\r"), Wait("VM status"), Wait(PROMPT), Modes, Type("\x01x")],
            ),
            Case::terminal(
                concat!($target, " -serial stdio, ^C"),
                concat!("exec $Q -M ", $machine, " -S -display none -serial stdio"),
                &[Ready, Modes, Type("\x03")],
            ),
            Case::terminal(
                concat!($target, " -monitor stdio, ^Z and fg"),
                "exec bash --noprofile --rcfile $BASH_ENV --noediting -i",
                &[
                    Wait("$ "), Type("$Q -M none -display none -monitor stdio\r"), Wait(PROMPT), Modes,
                    Type("\x1a"), Wait("Stopped"), Wait("$ "), Modes,
                    Type("fg\r"), Wait("stdio"), Raw, Modes, Type("quit\r"), Wait("$ "), Modes, Type("exit\r"),
                ],
            ),
        ]
        .map(|case| case.for_target($target))
    };
}

/// A boot sector that greets on the first serial port and sends back what is
/// typed there:
/// `xor ax,ax; mov ds,ax; cld; mov si,0x7c22; mov dx,0x3f8`,
/// `1: lodsb; test al,al; jz 2f; out dx,al; jmp 1b`,
/// `2: mov dx,0x3fd; in al,dx; test al,1; jz 2b; mov dx,0x3f8; in al,dx; out dx,al; jmp 2b`
const ECHO: &str = r"printf '\x31\xc0\x8e\xd8\xfc\xbe\x22\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\xba\xfd\x03\xec\xa8\x01\x74\xf8\xba\xf8\x03\xec\xee\xeb\xf1a tiny guest\r\n\0' >boot; truncate -s 510 boot; printf '\x55\xaa' >>boot; exec $Q -M pc -net none -display none -serial mon:stdio -drive file=boot,format=raw";

pub fn cases() -> Vec<Case> {
    let mut cases = launches!("ppc", "g3beige").to_vec();
    cases.extend(launches!("x86_64", "pc"));
    cases.extend([
        Case::terminal(
            "ppc -nographic, talking to the firmware",
            "exec $Q -M g3beige -nographic -prom-env 'auto-boot?=false'",
            &[
                Wait("0 > "),
                Modes,
                Type("6 7 * .\r"),
                Wait("2a"),
                Wait("0 > "),
                Type("\x01c"),
                Wait(PROMPT),
                Type("info status\r"),
                Wait("running"),
                Wait(PROMPT),
                Type("quit\r"),
            ],
        )
        .for_target("ppc"),
        Case::terminal(
            "x86_64 -serial mon:stdio, talking to a tiny guest",
            ECHO,
            &[
                Wait("a tiny guest"),
                Modes,
                Type("abc"),
                Wait("abc"),
                Type("\x01c"),
                Wait(PROMPT),
                Type("info status\r"),
                Wait("running"),
                Wait(PROMPT),
                Type("quit\r"),
            ],
        )
        .for_target("x86_64"),
    ]);
    cases
}
