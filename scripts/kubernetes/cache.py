"""Where what is built is kept: outside the clone, so that every clone on a machine shares it. Does I/O."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class SetupError(Exception):
    """The machine lacks something; the message says what."""


def say(message: str) -> None:
    """Tell the person, beside what a program prints."""
    print(f"setup: {message}", file=sys.stderr, flush=True)


def directory() -> Path:
    """The cache's Kubernetes part: ``TOUCHMARK_CACHE``, else under ``XDG_CACHE_HOME``, else under ``~/.cache``."""
    named = os.environ.get("TOUCHMARK_CACHE")
    if named:
        return Path(named).absolute() / "kubernetes"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "touchmark" / "kubernetes"


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the cache's lock ``name``: of two clones that build the same thing, one waits and then finds it built."""
    place = directory()
    place.mkdir(parents=True, exist_ok=True)
    with (place / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that prepares the same ({name})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(paths: Iterable[Path], *also: str) -> str:
    """One key for these files' names and contents, for directories with all that is in them, and the strings."""
    total = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{file.relative_to(path.parent)} {file.stat().st_mode & 0o111:o} {content}\n".encode())
    for each in also:
        total.update(f"{each}\n".encode())
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
