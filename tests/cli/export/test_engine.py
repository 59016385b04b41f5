"""The engines are those that the issue of exports names; each is written by one module."""

from __future__ import annotations

from cli.export import report
from cli.export.engine import Engine


def test_each_engine_has_a_writer() -> None:
    assert set(report._WRITERS) == set(Engine)
