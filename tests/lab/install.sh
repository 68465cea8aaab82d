# shellcheck shell=bash
# Installing what the scripts of tests/ need; sourced by them.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# Cargo's home is not in every shell's PATH.
PATH=$PATH:$HOME/.cargo/bin

# install_missing COMMAND=PACKAGE ...: install the Debian package of each
# command that is not there. Elsewhere say what to install.
install_missing() {
    local pair missing=() commands=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 && continue
        commands+=("${pair%%=*}")
        # shellcheck disable=SC2206 # several packages may stand behind one command
        missing+=(${pair#*=})
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        say "please install what provides: ${commands[*]}"
        die "(QEMU for Power is qemu-system-ppc64 in Alpine and Gentoo's qemu, qemu-system-ppc in Fedora, Arch and openSUSE)"
    fi
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get -qq update
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get -qq install -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# The real QEMU is one that does not lead back to qemu-logbuf.
# QEMU, and the firmware that its package only recommends.
# shellcheck disable=SC2034 # for those who source this
real_qemu=("qemu-system-ppc64=qemu-system-ppc qemu-system-data qemu-slof openbios-ppc seabios")
