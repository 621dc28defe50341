#!/bin/sh
# Writes every requirements.lock: exact versions with hashes, for Python 3.11 to 3.13 on all systems.
# The services' files are held to the versions of the workspace's, so that what is tested is what is shipped.
set -eu
cd "$(dirname "$0")/.."

# The names of package indexes stay out of the files: where packages come from is the machine's affair.
compile() {
    "$uv" pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet "$@"
}

uv=$PWD/.venv/bin/uv
compile --group dev --group bench --output-file requirements.lock \
    --no-emit-package jobkit --no-emit-package email-service --no-emit-package images-service \
    --no-emit-package etl-service --no-emit-package inference-service --no-emit-package local-stack
for service in services/*/; do
    (cd "$service" && compile --constraints ../../requirements.lock --no-emit-package jobkit --output-file requirements.lock)
done
