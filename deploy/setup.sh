#!/bin/sh
# Makes .venv: the first Python in range, the locked packages by their hashes, then this repository's own packages.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'make setup: %s\n' "$*" >&2
    exit 1
}

in_range() {
    [ "$("$1" -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null)" = True ]
}

version() {
    "$1" -c 'import sys; print("{}.{}.{}".format(*sys.version_info))' 2>/dev/null || true
}

# The version counts, not the name: what a version manager puts on the path may exist and not run.
find_python() {
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if in_range "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

# Debian keeps the module that makes environments in a package of its own.
require_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$1" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')
    if [ "$(id -u)" = 0 ]; then sudo=""; else sudo="sudo -n"; fi
    if command -v apt-get >/dev/null && { [ -z "$sudo" ] || $sudo true 2>/dev/null; }; then
        $sudo apt-get update -qq
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" && return
    fi
    fail "$1 cannot make virtual environments; run: sudo apt-get install $package (or your system's package for Python's venv)"
}

if ! in_range .venv/bin/python || [ "$(version "${PYTHON:-.venv/bin/python}")" != "$(version .venv/bin/python)" ]; then
    python=$(find_python)
    if [ -z "$python" ]; then
        found=$(python3 --version 2>&1) || found="no python3"
        fail "Python 3.11, 3.12 or 3.13 is needed and ${PYTHON:-$found} is not that; say where one is: make setup PYTHON=/path/to/python3.12"
    fi
    require_venv "$python"
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
