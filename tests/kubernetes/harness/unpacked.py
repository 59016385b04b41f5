"""Images as containerd has them unpacked, kept between runs: a node starts on them without copying. Root; does I/O.

Unpacking everything anew takes longer than all else that a node's start does. So the first node's containerd root is
kept, and the next ones are put together from it inside their own mount namespace: layers (which nobody changes) bound
read-only, blobs under an overlay, databases copied. What has been built since is imported on top.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TextIO

from scripts.kubernetes import cache

_CONTENT = "io.containerd.content.v1.content"
_SNAPSHOTTER = "io.containerd.snapshotter.v1.overlayfs"
_SNAPSHOTS = f"{_SNAPSHOTTER}/snapshots"
_KEPT = 3


class Unpacked:
    """One kept root, held against removal until `close`."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "root"
        self._lock = _hold(directory, fcntl.LOCK_SH)

    def touch(self) -> None:
        """Note that it is of use: what was used last is removed last."""
        os.utime(self._root.parent)

    def close(self) -> None:
        """Let others remove it."""
        self._lock.close()

    def blobs(self) -> set[str]:
        """The digests of the blobs in it."""
        return {f"sha256:{file.name}" for file in (self._root / _CONTENT / "blobs" / "sha256").iterdir()}

    def mount(self, root: Path) -> None:
        """Put a containerd root together in ``root``, which becomes a directory."""
        shutil.copytree(self._root, root, ignore=_leave_out, symlinks=True)
        content, upper, work = root / _CONTENT, root.with_name("content"), root.with_name("content-work")
        for directory in (content, upper, work, root / _SNAPSHOTS):
            directory.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={self._root / _CONTENT},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", options, "overlay", content)
        for layer in (self._root / _SNAPSHOTS).iterdir():
            target = root / _SNAPSHOTS / layer.name
            target.mkdir()
            _mount("--bind", "-o", "ro", layer, target)


def find_nearest(wanted: Mapping[str, int], *, max_missing_bytes: int) -> Unpacked | None:
    """The kept root that lacks the fewest bytes of the ``wanted`` blobs (digest → size), if it lacks few enough.

    Clones on one machine differ in their images: the newest root may be another's.
    """
    nearest: Unpacked | None = None
    for directory in _all():
        with contextlib.suppress(OSError):  # Another run removes it just now.
            candidate = Unpacked(directory)
            there = candidate.blobs()
            missing = sum(size for blob, size in wanted.items() if blob not in there)
            if missing > max_missing_bytes:
                candidate.close()
                continue
            if nearest is not None:
                nearest.close()
            nearest, max_missing_bytes = candidate, missing
    if nearest is not None:
        nearest.touch()
    return nearest


def keep(root: Path, name: str) -> None:
    """Keep a root whose containerd has stopped; older ones that no run holds go."""
    place = _place() / f".{name}"
    place.mkdir(parents=True)
    (place / "lock").touch()
    root.rename(place / "root")
    place.rename(_place() / name)
    for old in _all()[:-_KEPT]:
        with contextlib.suppress(OSError), _hold(old, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(old)


def _leave_out(directory: str, names: list[str]) -> Collection[str]:
    return {name for name in names if name == _CONTENT or (directory.endswith(_SNAPSHOTTER) and name == "snapshots")}


def _place() -> Path:
    return cache.directory() / "images" / "unpacked"


def _all() -> list[Path]:
    found = [each for each in _place().glob("*") if not each.name.startswith(".")]
    return sorted(found, key=lambda each: each.stat().st_mtime)


def _hold(directory: Path, operation: int) -> TextIO:
    file = (directory / "lock").open("r+")
    fcntl.flock(file, operation)
    return file


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)
