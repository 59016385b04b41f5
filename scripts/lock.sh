#!/usr/bin/env bash
# Resolve the lock files: for every platform, with hashes, naming no index. Needs `uv`; UPGRADE=1 takes newer versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv="$(command -v uv || true)"
if [[ -z "$uv" ]]; then
    echo "make lock needs uv: https://docs.astral.sh/uv" >&2
    exit 1
fi
export UV_CUSTOM_COMPILE_COMMAND="make lock"
compile=("$uv" pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11)
if [[ -n "${UPGRADE:-}" ]]; then
    compile+=(--upgrade)
fi
"${compile[@]}" pyproject.toml --output-file requirements.lock
"${compile[@]}" pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
"${compile[@]}" pyproject.toml --extra dev --extra bench --constraint requirements-dev.lock --output-file requirements-bench.lock
"${compile[@]}" --group sidecar --constraint requirements.lock --output-file requirements-sidecar.lock
"${compile[@]}" --group docs --constraint requirements-dev.lock --output-file requirements-docs.lock
images=tests/kubernetes/images
"${compile[@]}" "$images/grpc.in" --output-file "$images/grpc.lock"
