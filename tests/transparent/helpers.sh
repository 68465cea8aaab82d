# What the cases' scripts have in common; read by every bash in them.
PS1='$ '

# Wait until the QEMU whose pid file is `p` has come up: it catches SIGTERM
# and waits in its main loop, and has done so for a moment: bare QEMU 7.2 that
# is ended as its main loop begins hangs in monitor_cleanup(), one time in ten.
ready() {
    until [ -s p ] && (((0x$(sed -n 's/^SigCgt:.//p' "/proc/$(cat p)/status") >> 14) & 1)) &&
        grep -Eq 'poll|^0$' "/proc/$(cat p)/wchan"; do
        sleep 0.02
    done
    sleep 0.1
}

# Wait until a process is no more, but perhaps as a zombie.
gone() {
    while [ -e "/proc/$1" ] && ! grep -q 'State:.Z' "/proc/$1/status" 2>/dev/null; do sleep 0.02; done
}
