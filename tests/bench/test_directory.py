"""The directory bench asks for every address again."""

from __future__ import annotations

from bench.directory import measure


async def test_every_address_is_known_and_confirmed() -> None:
    figures = await measure(600)
    assert figures["addresses"] == 600
    assert all(figures[name] > 0 for name in ("mib", "look_us", "ask_again_s"))
