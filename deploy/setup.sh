#!/bin/sh
# Makes .venv: the first Python in range, the locked packages by their hashes, then this repository's own packages.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'make setup: %s\n' "$*" >&2
    exit 1
}

in_range() {
    [ "$("$1" -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null)" = True ]
}

version() {
    "$1" -c 'import sys; print("{}.{}.{}".format(*sys.version_info))' 2>/dev/null || true
}

# The version counts, not the name: what a version manager puts on the path may exist and not run.
find_python() {
    for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
        if in_range "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

# Exit because no Python in range was found: name the one that was, and what is wrong with it.
refuse_python() {
    asked=${PYTHON:-python3}
    found=$(version "$asked")
    needed="Python 3.11, 3.12, 3.13 or 3.14 is needed"
    remedy="Name one: make setup PYTHON=/path/to/python3.14"
    [ -n "$found" ] || fail "$needed, and $asked does not run. $remedy"
    case $found in
        # Without builds pip would compile them, which needs Rust and C++ toolchains.
        3.15.*) fail "$needed, and $asked is $found: onnxruntime and orjson have no build for Python 3.15 yet. $remedy" ;;
        *) fail "$needed, and $asked is $found. $remedy" ;;
    esac
}

# Install system packages as root. Otherwise print the one command that does it, and exit.
install_packages() {
    command -v apt-get >/dev/null || fail "$(missing "$@") Install it with your system's package manager."
    [ "$(id -u)" = 0 ] || fail "$(missing "$@") Run as root: apt-get update && apt-get install -y $*"
    printf 'Installing %s with apt-get: some seconds …\n' "$*"
    apt-get update -qq || true # an old list often still serves; if not, the next command fails
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=600 --no-install-recommends "$@" >/dev/null ||
        fail "$(missing "$@") This failed: apt-get install -y $*"
}

missing() {
    case $1 in
        python3) printf 'There is no Python 3 on this machine.' ;;
        *) printf '%s cannot make virtual environments: its module ensurepip or venv is missing.' "$python" ;;
    esac
}

if ! in_range .venv/bin/python || [ "$(version "${PYTHON:-.venv/bin/python}")" != "$(version .venv/bin/python)" ]; then
    python=$(find_python)
    if [ -z "$python" ] && [ -z "${PYTHON:-}" ] && ! command -v python3 >/dev/null; then
        case $(uname -s) in
            Darwin) fail "There is no Python 3 on this machine. Run: brew install python@3.13" ;;
            *) install_packages python3 python3-venv ;;
        esac
        python=$(find_python)
    fi
    [ -n "$python" ] || refuse_python
    # Debian keeps the modules that make environments in a package of their own.
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        install_packages "$("$python" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')"
    printf 'Making .venv with Python %s: some seconds …\n' "$(version "$python")"
    "$python" -m venv --clear .venv
fi

pip() {
    .venv/bin/python -m pip --disable-pip-version-check -qq "$@"
}

packages=$(grep -c == requirements.lock)
if [ -e .venv/.ready ]; then
    printf 'Bringing the %s locked packages up to date: seconds, if few have changed …\n' "$packages"
else
    printf 'Installing the %s locked packages: a minute or two, longer where the network is slow …\n' "$packages"
fi
pip install --require-hashes -r requirements.lock
# Without isolation: the build tools are among the locked packages, so nothing unpinned is fetched.
set -- -e shared -e deploy/local
for service in services/*/pyproject.toml; do
    set -- "$@" -e "${service%/pyproject.toml}"
done
printf "Installing this repository's own packages: some seconds …\n"
pip install --no-deps --no-build-isolation "$@"
touch .venv/.ready
