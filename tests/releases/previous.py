"""The previous minor release's CA and sidecars: unpacked, and run by today's Python and dependencies. Does I/O."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

[ARCHIVE] = Path(__file__).parent.glob("*.tar.xz")
VERSION = ARCHIVE.name.removesuffix(".tar.xz")


def unpack(directory: Path) -> Path:
    """Unpack it into a directory of its own below ``directory``; return that."""
    place = directory / f"touchmark-{VERSION}"
    if not place.exists():
        with tarfile.open(ARCHIVE) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(place, filter="data")
            else:  # Debian 12's Python is older than 3.11.4. The archive is our own.
                archive.extractall(place)
    return place


def run(release: Path, program: str, text: bytes = b"") -> bytes:
    """What a Python program prints that imports from the release, given ``text`` on its standard input."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=text,
        capture_output=True,
        check=False,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(release), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
