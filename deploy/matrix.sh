#!/usr/bin/env bash
# deploy/matrix.sh [COMMAND…]: runs `make demo` and `make test`, or another command, in a clean clone of what is committed,
# on fresh machines: minimal installations of Debian with nothing but Python, git and make. Each takes 10 to 20 minutes.
#   RELEASES   "bookworm trixie forky": Python 3.11, 3.13 and 3.14; RabbitMQ 3.10, 4.0 and 4.3; Redis 7 and 8
#   MACHINES   where they stand, some 2 GB each while they run (/var/tmp/jobkit-machines); removed after a success
# Needs root on Debian or a system with debootstrap, because each machine has namespaces and a root folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra releases <<<"${RELEASES:-bookworm trixie forky}"
machines=${MACHINES:-/var/tmp/jobkit-machines}

say() { printf 'matrix: %s\n' "$*" >&2; }

[ "$(uname -s)" = Linux ] || { say "fresh machines are made with Linux's namespaces: run it on Linux"; exit 1; }
[ "$(id -u)" = 0 ] || { say "needs root to make machines with debootstrap: run it as root"; exit 1; }
if ! command -v debootstrap >/dev/null; then
    command -v apt-get >/dev/null || { say "debootstrap is missing: install it with your package manager"; exit 1; }
    say "installing debootstrap"
    apt-get update -qq || true # an old list often still serves; if not, the next command fails
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=600 debootstrap >/dev/null ||
        { say "debootstrap is missing, and this failed: apt-get install -y debootstrap"; exit 1; }
fi
git diff --quiet HEAD || say "what is not committed is not tested"

# The mirror that this machine uses; debootstrap has one of its own.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' |
    grep -oE 'https?://[^ ]*/debian/?( |$)' | head -n 1 | tr -d ' ' || true)

make_machine() { # RELEASE ROOT
    local script=/usr/share/debootstrap/scripts/$1
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid # a release that is younger than debootstrap
    rm -rf --one-file-system "$2"
    mkdir -p "$2"
    # It mounts /proc there: in a namespace of its own, so that nothing stays mounted if it is interrupted.
    unshare --mount debootstrap --variant=minbase --include=ca-certificates,git,make,python3,python3-venv \
        "$1" "$2" ${mirror:+"$mirror"} ${mirror:+"$script"} >"$2.log" 2>&1 || { say "debootstrap failed: see $2.log"; return 1; }
    # How this machine reaches package indexes: certificates, and the configuration of pip and apt.
    local file
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /root/.config/pip/pip.conf /root/.pip/pip.conf; do
        if [ -f "$file" ]; then install -D -m 644 "$file" "$2$file"; fi
    done
    cp -rn /etc/apt/apt.conf.d/. "$2/etc/apt/apt.conf.d/" 2>/dev/null || true
    cp /etc/resolv.conf /etc/hosts "$2/etc/"
    git clone -q --no-hardlinks . "$2/srv/project"
}

# In namespaces of its own, so that no process and no mount outlives the command. Its shell reaps what loses its parent.
# shellcheck disable=SC2016  # the inner shells expand these
inside() { # ROOT COMMAND…
    local settings=() name
    for name in $(compgen -e | grep -E '^(PIP_.*|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY)$'); do
        settings+=("$name=${!name}")
    done
    unshare --mount --pid --fork --kill-child bash -c '
        root=$1; shift
        mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" &&
        exec chroot "$root" /usr/bin/env -i "$@"' machine "$1" \
        HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        PYTEST_ADDOPTS=-rs "${settings[@]}" \
        bash -c 'cd /srv/project && "$@"; status=$?; exit "$status"' machine "${@:2}"
}

# What tests skip on a fresh machine is a fault, but for those of the containers.
skipped() { grep '^SKIPPED' "$1" | grep -v ' tests/stack/' || true; }

run() { # RELEASE NAME COMMAND…: adds a line to the report
    local root=$machines/$1 log=$machines/$1-$2.log status=passed
    say "$1: ${*:3} (see $log)"
    inside "$root" "${@:3}" >"$log" 2>&1 || status=FAILED
    if [ -n "$(skipped "$log")" ]; then status="FAILED: skipped $(skipped "$log" | wc -l) kinds of tests"; fi
    report+=("$(printf '%-9s %-5s %s' "$1" "$2" "$status")")
    report+=("$(grep -E '^(tested on |[0-9]+ (passed|failed))|as expected' "$log" | tail -n 2 | sed 's/^/                /')")
    [ "$status" = passed ] || failed=yes
}

# Read as a whole before it runs: an edit within the hour does not change a run.
main() {
    local release before
    report=() failed=no
    mkdir -p "$machines"
    for release in "${releases[@]}"; do
        say "$release: making a machine"
        if ! make_machine "$release" "$machines/$release"; then
            report+=("$release: no machine could be made") failed=yes
            continue
        fi
        before=$failed failed=no
        if [ $# -gt 0 ]; then
            run "$release" run "$@"
        else
            # Each command on a machine of its own: the first one to run has to install the servers.
            run "$release" demo make demo
            make_machine "$release" "$machines/$release" || failed=yes
            run "$release" test make test
        fi
        if [ "$failed" = no ]; then
            rm -rf --one-file-system "${machines:?}/$release"
            failed=$before
        fi
    done
    printf '%s\n' "${report[@]}"
    [ "$failed" = no ]
}

main "$@"
exit
