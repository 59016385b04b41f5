"""A short directory for each test: the demo's admin socket lies below it, and unix(7) allows a path of 107 bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        yield Path(directory)
