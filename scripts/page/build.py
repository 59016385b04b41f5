"""Bundles other people's code for the page of ``touchmark ui``, once: ``python -m scripts.page.build``, needs npm.

Belongs here: the bundle (``cli/ui/static/vendor``), its licences, and axe-core for the tests. Doesn't: the page's own
modules, which browsers load as they stand in ``cli/ui/static``. With ``--check`` nothing is written: it fails when a
build gives other bytes than those committed, as CI does (`make bundle`). ``sums.json`` holds the hashes of inputs and
outputs, which `make test` compares without npm.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
HERE: Final = ROOT / "scripts/page"
SUMS: Final = HERE / "sums.json"
INPUTS: Final = ("package.json", "package-lock.json", "entry.js")
BUNDLE: Final = "cli/ui/static/vendor/preact.js"
LICENCES: Final = "cli/ui/static/vendor/LICENSES.txt"
AXE: Final = "tests/cli/ui/axe.min.js"
_BUNDLED: Final = ("preact", "htm")
_DEADLINE_S: Final = 600


def build() -> dict[str, bytes]:
    """Return what is made from the locked packages: path → content. Downloads them, checked by hash, with npm."""
    with tempfile.TemporaryDirectory(prefix="touchmark-page-") as directory:
        place = Path(directory)
        for name in INPUTS:
            shutil.copy(HERE / name, place / name)
        _run(place, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        modules = place / "node_modules"
        versions = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
        named = ", ".join(f"{name} {versions[name]}" for name in _BUNDLED)
        # Its own launcher is replaced by an install script, which isn't run: the program is in the platform's package.
        [esbuild] = modules.glob("@esbuild/*/bin/esbuild")
        _run(
            place, str(esbuild), "entry.js", "--bundle", "--format=esm", "--minify", "--target=es2022",
            "--legal-comments=none", f"--banner:js=/*! {named}; licences: LICENSES.txt beside this file */",
            "--outfile=bundle.js",
        )  # fmt: skip
        licences = "\n".join(
            f"{name} {versions[name]}\n\n{(modules / name / 'LICENSE').read_text(encoding='utf-8')}"
            for name in _BUNDLED
        )
        return {
            BUNDLE: (place / "bundle.js").read_bytes(),
            LICENCES: licences.encode(),
            AXE: (modules / "axe-core/axe.min.js").read_bytes(),
        }


def sum_files() -> dict[str, str]:
    """Return the SHA-256 of each input and output as it stands in the tree."""
    paths = [*(f"scripts/page/{name}" for name in INPUTS), BUNDLE, LICENCES, AXE]
    return {path: hashlib.sha256((ROOT / path).read_bytes()).hexdigest() for path in paths}


def main(arguments: list[str]) -> int:
    """Build and write, or with ``--check`` compare."""
    made = build()
    if "--check" in arguments:
        different = [path for path, content in made.items() if (ROOT / path).read_bytes() != content]
        for path in different:
            print(f"✗ {path} isn't what its sources give")
        return 1 if different else 0
    for path, content in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(content)
    SUMS.write_text(json.dumps(sum_files(), indent=2) + "\n", encoding="utf-8")
    return 0


def _run(place: Path, *command: str) -> None:
    subprocess.run(command, cwd=place, check=True, timeout=_DEADLINE_S, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
