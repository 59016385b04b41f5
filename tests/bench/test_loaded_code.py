"""The bench of loaded code measures real looks at real processes."""

from __future__ import annotations

from pathlib import Path

from bench.loaded_code import measure


async def test_new_processes_are_looked_at_and_known_ones_are_not(tmp_path: Path) -> None:
    first, known = await measure(libraries=5, count=3, directory=tmp_path)
    assert len(first) == len(known) == 3
    assert all(each > 0 for each in (*first, *known))
