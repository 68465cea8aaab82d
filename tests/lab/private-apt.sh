# shellcheck shell=bash
#
# A private apt, sourced by the other scripts of the lab.
#
# `private_apt DIR SUITE ARCH` sets up an apt of its own under DIR and leaves
# the system's apt alone: other sources, other lists, another architecture, no
# installed packages. After it, apt-get and apt-cache of the same shell speak
# of SUITE. Works as root and as an ordinary user.
#
# What it takes from the machine: the Debian mirror and the proxies that its
# own apt is configured with, and Debian's archive keyring.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# The mirror this machine's apt uses for Debian itself (not for -security).
debian_mirror() {
    local uri
    # shellcheck disable=SC2016 # apt-get expands it
    uri=$(env -u APT_CONFIG apt-get indextargets --format '$(REPO_URI)' \
        'IDENTIFIER: Packages' 2>/dev/null |
        grep -E '/debian/?$' | sort -u | head -n 1) || true
    [ -n "$uri" ] || die "apt knows no Debian mirror; name one in LAB_MIRROR"
    printf '%s\n' "$uri"
}

private_apt() {
    local dir=$1 suite=$2 arch=$3 keyring
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    for tool in apt-get apt-cache apt-config dpkg-deb; do
        command -v "$tool" >/dev/null ||
            die "$tool is missing; this needs a Debian machine"
    done
    [ -r "$keyring" ] ||
        die "$keyring is missing; install debian-archive-keyring"

    mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/etc" "$dir/no-parts"
    dir=$(cd "$dir" && pwd)
    : >"$dir/status"
    cat >"$dir/etc/debian.sources" <<SOURCES
Types: deb
URIs: ${LAB_MIRROR:-$(debian_mirror)}
Suites: $suite
Components: main
Architectures: $arch
Signed-By: $keyring
SOURCES
    # APT_CONFIG is read first. Dir::Etc::parts and ::main keep the system's
    # own files, and with them its hooks, out; only its proxies are carried
    # over. Names without an architecture mean $arch.
    {
        cat <<CONF
Dir::Etc::parts "$dir/no-parts";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "$dir/etc/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$dir";
Dir::State::lists "$dir/lists/";
Dir::State::status "$dir/status";
Dir::State::extended_states "$dir/extended_states";
Dir::Cache "$dir";
Dir::Cache::archives "$dir/archives/";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
CONF
        env -u APT_CONFIG apt-config dump | grep -iE '^Acquire::https?::' || true
    } >"$dir/apt.conf"
    export APT_CONFIG="$dir/apt.conf"
    say "reading the package list of $suite for $arch"
    if ! apt-get -qq update >"$dir/update.log" 2>&1; then
        say "no package list of $suite for $arch: $(grep -m 1 '^E:' "$dir/update.log" || head -n 1 "$dir/update.log")"
        return 1
    fi
}

# Download the packages named into the current directory.
private_download() {
    apt-get -qq download "$@" >download.log 2>&1 ||
        die "cannot download $*: $(grep -m 1 '^E:' download.log || head -n 1 download.log)"
}
