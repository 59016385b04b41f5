"""Callers share a transaction, and each learns what became of its own line."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ca.store.engine.group_commit import GroupCommit
from shared.model.errors import ConflictError, TouchmarkError, UnavailableError


async def test_what_arrives_during_a_commit_shares_the_next_and_errors_stay_with_their_line() -> None:
    batches: list[list[int]] = []
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def write(lines: Sequence[int]) -> list[TouchmarkError | None]:
        batches.append(list(lines))
        has_begun.set()
        await may_end.wait()
        return [ConflictError("no") if line == 3 else None for line in lines]

    group = GroupCommit(write)
    first = asyncio.create_task(group.add(0))
    await has_begun.wait()
    others = [asyncio.create_task(group.add(line)) for line in range(1, 6)]
    await asyncio.sleep(0)
    may_end.set()
    results = await asyncio.gather(*others, return_exceptions=True)
    await first
    assert batches == [[0], [1, 2, 3, 4, 5]]
    assert [isinstance(result, ConflictError) for result in results] == [False, False, True, False, False]


async def test_a_failed_transaction_fails_all_its_lines_and_the_next_goes_on() -> None:
    broken = True

    async def write(lines: Sequence[int]) -> list[TouchmarkError | None]:
        if broken:
            raise UnavailableError("disk full")
        return [None] * len(lines)

    group = GroupCommit(write)
    with pytest.raises(UnavailableError, match="disk full"):
        await group.add(1)
    broken = False
    await group.add(2)
    await group.close()
    with pytest.raises(UnavailableError):
        await group.add(3)


async def test_a_caller_that_gave_up_leaves_no_line() -> None:
    written: list[int] = []
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def write(lines: Sequence[int]) -> list[TouchmarkError | None]:
        has_begun.set()
        await may_end.wait()
        written.extend(lines)
        return [None] * len(lines)

    group = GroupCommit(write)
    first = asyncio.create_task(group.add(1))
    await has_begun.wait()
    second = asyncio.create_task(group.add(2))
    await asyncio.sleep(0)
    second.cancel()
    may_end.set()
    await first
    await group.close()
    assert written == [1]
