"""The attestation bench measures real looks at a real program."""

from __future__ import annotations

from pathlib import Path

from bench.attestation import measure


async def test_each_fresh_connection_is_looked_at_once(tmp_path: Path) -> None:
    seconds = await measure(held=3, count=5, directory=tmp_path)
    assert len(seconds) == 5
    assert all(0 < each < 1 for each in seconds)
