"""The attestation bench measures real looks at a real program."""

from __future__ import annotations

from pathlib import Path

from bench.attestation import measure, measure_beside, measure_look


async def test_each_fresh_connection_is_looked_at_once(tmp_path: Path) -> None:
    seconds = await measure(held=3, count=5, directory=tmp_path)
    assert len(seconds) == 5
    assert all(0 < each < 1 for each in seconds)


async def test_a_look_and_a_first_attestation_beside_strangers_are_measured(tmp_path: Path) -> None:
    looks = await measure_look(count=5, directory=tmp_path)
    assert len(looks) == 5
    assert all(0 < each < 1 for each in looks)
    assert 0 < await measure_beside(strangers=1, size=512 << 20, directory=tmp_path) < 60
