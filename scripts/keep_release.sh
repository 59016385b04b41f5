#!/usr/bin/env bash
# Keep what a release's CA and sidecars are made of, and its manifests, for the tests of upgrades:
# scripts/keep_release.sh VERSION COMMIT.
# Only the last minor release is kept: that is how far apart a CA and its sidecars may be.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?VERSION} commit=${2:?COMMIT}
grep -q "VERSION = \"$version\"" <(git show "$commit:shared/model/version.py") || { echo "$commit isn't $version" >&2; exit 1; }
rm -f tests/releases/*.tar.xz
git archive --format=tar "$commit" ca manifests shared sidecar | xz -9e >"tests/releases/$version.tar.xz"
ls -l "tests/releases/$version.tar.xz"
