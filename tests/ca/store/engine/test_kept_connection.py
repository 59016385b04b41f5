"""A kept connection is replaced where it is broken, and ended where a transaction isn't committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ca.store.engine.kept_connection import Driver, KeptConnection
from shared.model.errors import UnavailableError


class BrokenError(Exception):
    """What the driver raises."""


class FakeDriver:
    """Remembers what it was asked for; what is in ``breaks`` fails."""

    def __init__(self, *, committed: str = "COMMIT") -> None:
        self.asked: list[str] = []
        self.breaks: set[str] = set()
        self.committed = committed

    async def execute(self, query: str) -> str:
        self.asked.append(query.split()[0])
        if self.asked[-1] in self.breaks:
            raise BrokenError
        return self.committed

    async def fetch(self, query: str, *parameters: Any) -> Sequence[Any]:
        self.asked.append(query)
        return [parameters]

    async def close(self, *, timeout: float) -> None:
        self.asked.append("close")
        raise BrokenError

    def terminate(self) -> None:
        self.asked.append("terminate")


def keep(*drivers: FakeDriver) -> KeptConnection:
    left = list(drivers)

    async def connect() -> Driver:
        return left.pop(0)

    return KeptConnection(connect, failures=(BrokenError,))


async def work(driver: Driver) -> Sequence[Any]:
    return await driver.fetch("SELECT", 1)


async def test_transactions_take_turns_on_one_connection() -> None:
    driver = FakeDriver()
    kept = keep(driver)
    assert await asyncio.gather(*(kept.transact(work) for _ in range(3))) == [[(1,)]] * 3
    assert driver.asked == ["BEGIN", "SELECT", "COMMIT"] * 3
    await kept.close()
    await kept.close()
    assert driver.asked[9:] == ["close"]
    with pytest.raises(UnavailableError, match="closed"):
        await kept.transact(work)


async def test_one_that_broke_between_two_transactions_is_replaced() -> None:
    first, second = FakeDriver(), FakeDriver()
    kept = keep(first, second)
    await kept.transact(work)
    first.breaks.add("BEGIN")
    assert await kept.transact(work) == [(1,)]
    assert first.asked[-1] == "terminate" and second.asked == ["BEGIN", "SELECT", "COMMIT"]


async def test_what_fails_or_is_not_committed_ends_its_connection() -> None:
    async def fail(_driver: Driver) -> None:
        raise ValueError("no")

    drivers = [FakeDriver(), FakeDriver(), FakeDriver(committed="ROLLBACK"), FakeDriver()]
    drivers[1].breaks.add("COMMIT")
    kept = keep(*drivers)
    with pytest.raises(ValueError, match="no"):
        await kept.transact(fail)
    with pytest.raises(BrokenError):
        await kept.transact(work)
    with pytest.raises(UnavailableError, match="didn't commit"):
        await kept.transact(work)
    assert [each.asked[-1] for each in drivers[:3]] == ["terminate"] * 3
    assert await kept.transact(work) == [(1,)]


async def test_one_that_is_closed_or_cancelled_in_a_transaction_is_ended() -> None:
    async def wait(driver: Driver) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    first, second = FakeDriver(), FakeDriver()
    kept = keep(first, second)
    for driver, end in ((first, asyncio.Task.cancel), (second, None)):
        has_begun = asyncio.Event()
        waiting = asyncio.create_task(kept.transact(wait))
        await has_begun.wait()
        if end is None:
            await kept.close()
            assert driver.asked[-1] == "terminate"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert driver.asked == ["BEGIN", "terminate"]


async def test_one_that_opens_while_it_is_closed_is_ended() -> None:
    driver, is_asked, may_open = FakeDriver(), asyncio.Event(), asyncio.Event()

    async def connect() -> Driver:
        is_asked.set()
        await may_open.wait()
        return driver

    kept = KeptConnection(connect, failures=(BrokenError,))
    waiting = asyncio.create_task(kept.transact(work))
    await is_asked.wait()
    await kept.close()
    may_open.set()
    with pytest.raises(UnavailableError, match="closed"):
        await waiting
    assert driver.asked == ["terminate"]
