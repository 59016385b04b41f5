"""Connections that wait for a process which is measured."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.attest.holding import fellows as module
from sidecar.attest.holding.fellows import Fellows, has_failed
from sidecar.attest.netlink.sock_diag import ESTABLISHED, KernelSocket


def describe(cookie: int) -> KernelSocket:
    ends = ("198.18.0.1", 9), ("198.18.0.2", 5432)
    return KernelSocket(family=2, state=ESTABLISHED, local=ends[0], peer=ends[1], uid=0, inode=cookie, cookie=cookie)


async def test_those_that_wait_go_on_some_at_a_time_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWERS_AT_ONCE", 2)
    fellows, order = Fellows(), list[int]()

    async def follow(number: int, pid: int) -> None:
        assert await fellows.wait(pid, describe(number))
        order.append(number)

    waiting = [asyncio.create_task(follow(number, 7)) for number in range(5)]
    other = asyncio.create_task(follow(9, 8))
    await asyncio.sleep(0)
    waiting[1].cancel()
    fellows.answer(7)
    await asyncio.sleep(0)
    assert order == [0, 2], "not who was cancelled, nor who waits for another process"
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2, 3, 4]
    fellows.close()
    with pytest.raises(asyncio.CancelledError):
        await other


async def test_no_more_wait_than_have_room_and_no_socket_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 2)
    fellows = Fellows()
    waiting = [asyncio.create_task(fellows.wait(7, describe(1)))]
    await asyncio.sleep(0)
    assert not await fellows.wait(7, describe(1))
    waiting.append(asyncio.create_task(fellows.wait(7, describe(2))))
    await asyncio.sleep(0)
    assert not await fellows.wait(7, describe(3))
    fellows.answer(8)
    fellows.answer(7)
    assert await asyncio.gather(*waiting) == [True, True]
    waiting = [asyncio.create_task(fellows.wait(7, describe(3)))]
    await asyncio.sleep(0)
    fellows.answer(7)
    assert await waiting[0]


async def test_a_measuring_has_failed_when_it_ended_without_a_result() -> None:
    async def end(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 1

    good, bad = asyncio.create_task(end(None)), asyncio.create_task(end(ValueError("ordered by the test")))
    lost = asyncio.create_task(asyncio.sleep(600))
    assert not any(has_failed(each) for each in (good, bad, lost)), "none has ended"
    lost.cancel()
    await asyncio.wait((good, bad, lost))
    assert [has_failed(each) for each in (good, bad, lost)] == [False, True, True]
