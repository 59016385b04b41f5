"""Where many streams have ended, the kernel gets their memory back; not for each of a few."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ca.runtime import freed_memory
from ca.runtime.freed_memory import MANY, FreedMemory
from shared.runtime.tasks import Tasks
from tests.ca.running import FakeSidecar, eventually, running_ca


def fail(name: str, error: BaseException) -> None:
    raise AssertionError(name) from error


async def test_memory_is_given_back_once_many_have_ended_and_again_after_as_many() -> None:
    tasks, given = Tasks(fail), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    freed = FreedMemory(tasks, give_back=lambda: loop.call_soon_threadsafe(given.release), pause_s=0)
    for _ in range(2):
        for _ in range(MANY - 1):
            freed.note_ended()
        assert len(tasks) == 0
        freed.note_ended()
        async with asyncio.timeout(60):
            await given.acquire()
        await eventually(lambda: len(tasks) == 0)
    assert given.locked()


async def test_the_end_of_a_stream_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[None] = []
    monkeypatch.setattr(freed_memory.FreedMemory, "note_ended", lambda _: ended.append(None))
    async with running_ca(tmp_path) as services:
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a")
            assert ended == []
        await eventually(lambda: len(ended) == 1)
    assert len(ended) == 1
