//! What a process inherits, seen from inside by a fake QEMU, and from
//! outside on a real one.

use crate::run::Case;

/// In these surroundings.
macro_rules! inherited {
    ($($name:literal: $script:literal),* $(,)?) => {
        vec![$(Case::files(concat!("inherits ", $name), $script).with_fake("inherited")),*]
    };
}

pub fn cases() -> Vec<Case> {
    let mut cases = inherited![
        "nothing special": "$Q",
        "arguments as they are": "$Q -append 'a  b' '' $'\\xff' -- --logbuf -x=y \"it's\"",
        "environment": "X=$'\\xff' LANG=xx EMPTY= $Q",
        "an empty environment": "p=$(command -v $Q); env -i FAKE_QEMU=inherited ${QEMU_LOGBUF_SAME_PID+QEMU_LOGBUF_SAME_PID=1} PATH=\"$PATH\" \"$p\"",
        "ignored SIGPIPE": "trap '' PIPE; $Q",
        "ignored SIGHUP and SIGCHLD": "trap '' HUP; env --ignore-signal=CHLD $Q",
        "every signal ignored": "env --ignore-signal $Q",
        "nohup": "nohup $Q </dev/null",
        "a blocked SIGTERM": "env --block-signal=TERM $Q",
        "every signal blocked": "env --block-signal $Q",
        "SIGCHLD ignored and blocked": "env --ignore-signal=CHLD --block-signal=CHLD $Q",
        "umask": "umask 027; $Q",
        "working directory": "mkdir -p a/b; cd a/b; $Q",
        "a directory that is gone": "mkdir a; cd a; rmdir ../a; $Q",
        "limits": "ulimit -n 64; ulimit -c 0; ulimit -f 1000; ulimit -s 4096; $Q",
        "a low limit of descriptors": "ulimit -n 16; $Q",
        "priority": "nice -n 5 $Q",
        "descriptors under their numbers": "exec 5</dev/null 7>seven 42<>both; $Q",
        "a high descriptor": "ulimit -n 4096; exec 1000</dev/null 1001</dev/null; $Q",
        "stdin closed": "$Q <&-",
        "stdout closed": "$Q >&-; cat inherited",
        "stderr closed": "$Q 2>&-",
        "all three closed": "$Q <&- >&- 2>&-; cat inherited",
        "stdin closed and others open": "$Q <&- 3</dev/null 9>nine",
        "in the background": "$Q & wait",
        "by the option": "$Q --logbuf-key=off -M none --logbuf-color=never",
    ];
    // The words of ours are not for bare QEMU.
    cases.retain(|case| !case.name.ends_with("by the option"));
    cases.extend([
        Case::files(
            "inherits, a real QEMU seen from outside",
            "umask 022; trap '' HUP; ulimit -n 256; exec 5</dev/null 44>x
             env --block-signal=USR2 $Q -M none -display none -nodefaults -pidfile p & ready; q=$(cat p)
             grep -E '^(Umask|SigIgn|SigBlk|Seccomp|NoNewPrivs|CapEff)' /proc/$q/status; cat /proc/$q/limits /proc/$q/oom_score_adj; readlink /proc/$q/cwd /proc/$q/fd/{5,44}
             ls /proc/$q/fd | while read n; do [ $n -lt 200 ] && readlink /proc/$q/fd/$n | grep -qvE 'eventfd|io_uring' && echo $n $(readlink /proc/$q/fd/$n | tr -d 0-9); done
             cat /proc/$q/comm; kill $!; wait $!; echo $?",
        ),
    ]);
    cases
}
