"""The bench of stalls measures real work beside a real loop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.stalls import measure_hash, measure_holders, measure_looks, measure_policy, watch


async def test_a_loop_that_is_held_up_is_noticed() -> None:
    async def hold_up() -> None:
        await asyncio.sleep(0.01)
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    figures = await watch(hold_up())
    assert figures["longest_wall_ms"] >= figures["longest_ms"] > 30


async def test_each_work_is_done_while_the_loop_ticks(tmp_path: Path) -> None:
    for name, work in {
        "holders": measure_holders(held=3, passes=2, directory=tmp_path),
        "hash": measure_hash(size=1_000_000, directory=tmp_path),
        "looks": measure_looks(processes=3, seconds=0.1, directory=tmp_path),
        "policy": measure_policy(rules=100),
    }.items():
        figures = await work
        assert figures["ticks"] > 0, name
        assert figures["longest_wall_ms"] >= figures["longest_ms"], name
