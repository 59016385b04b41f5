"""Which engine is used, and what the settings change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.model.errors import InputError
from sidecar.native import engine
from sidecar.native.engine import (
    Engine,
    Wanted,
    choose,
    choose_workers,
    current_engine,
    current_loop,
    current_workers,
    load,
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before, workers = choose(Wanted.AUTO), choose_workers(1)
    yield
    choose(before)
    choose_workers(workers)


def test_the_compiled_loop_is_used_where_it_is_there() -> None:
    assert current_loop() is load()
    assert current_engine() is (Engine.PYTHON if load() is None else Engine.NATIVE)


def test_python_can_be_asked_for() -> None:
    choose(Wanted.PYTHON)
    assert current_loop() is None
    assert current_engine() is Engine.PYTHON


def test_threads_are_those_of_the_settings_and_none_where_python_moves_the_bytes() -> None:
    assert choose_workers(2) == 1
    assert current_workers() == (0 if load() is None else 2)
    choose(Wanted.PYTHON)
    assert current_workers() == 0


def test_without_the_compiled_loop_python_moves_the_bytes_unless_the_other_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sidecar.native._loop", None)  # Importing it fails.
    engine.load.cache_clear()
    try:
        assert load() is None
        assert current_engine() is Engine.PYTHON
        with pytest.raises(InputError, match="the native engine isn't built here"):
            choose(Wanted.NATIVE)
        assert current_engine() is Engine.PYTHON
    finally:
        engine.load.cache_clear()


def test_a_loop_of_another_source_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tree was pulled, and nothing was built since."""
    newer = tmp_path / "loop.c"
    newer.write_text("/* another one */")
    monkeypatch.setattr("sidecar.native.build.SOURCE", newer)
    engine.load.cache_clear()
    try:
        assert load() is None
    finally:
        engine.load.cache_clear()
