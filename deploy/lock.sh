#!/bin/sh
# Writes every requirements.lock: exact versions with hashes, for Python 3.11 to 3.14 on all systems.
# The services' files are held to the versions of the workspace's, so that what is tested is what is shipped.
set -eu
cd "$(dirname "$0")/.."

# The names of package indexes stay out of the files: where packages come from is the machine's affair.
compile() {
    "$uv" pip compile --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet "$@"
}

uv=$PWD/.venv/bin/uv
# Our own packages are installed from here, not from a lock.
set --
for package in shared services/* deploy/local; do
    set -- "$@" --no-emit-package "$(sed -n 's/^name = "\(.*\)"/\1/p' "$package/pyproject.toml")"
done
compile pyproject.toml --group dev --group bench --output-file requirements.lock "$@"
for service in services/*/; do
    (cd "$service" && compile pyproject.toml --constraints ../../requirements.lock --no-emit-package jobkit --output-file requirements.lock)
done
# What builds the wheels inside the images, and the image that holds jobkit alone.
compile deploy/build.in --constraints requirements.lock --output-file deploy/build.lock
compile shared/pyproject.toml --extra worker --constraints requirements.lock --no-emit-package jobkit \
    --output-file deploy/scheduler/requirements.lock
