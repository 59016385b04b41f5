"""A pair of Touchmark sidecars with the real CA: stub until the parts land."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.subjects.subject import Backends, RunningSubject


@contextmanager
def run_touchmark(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start CA and pair."""
    raise BenchError("the product can't be started yet")
    yield


@contextmanager
def run_touchmark_no_reuse(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """The same with reuse off."""
    raise BenchError("the product can't be started yet")
    yield
