"""Places for tunnels that are being made, by key."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.identity.identity import Workload
from sidecar.tunnel import dial_queue
from sidecar.tunnel.dial_queue import DialQueue
from sidecar.tunnel.pool import TunnelKey


def key(identity: str) -> TunnelKey:
    workload = Workload(namespace="shop", service_account="db")
    return TunnelKey(identity=identity, generation=1, destination=("198.18.0.2", 80), workload=workload)


async def test_no_more_than_the_bound_are_made_at_once_in_the_order_of_their_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial_queue, "MAX_AT_ONCE", 2)
    queue, running, most, order = DialQueue(patience_s=60), 0, 0, []

    async def make(number: int) -> None:
        nonlocal running, most
        async with queue.place(key("one")):
            running += 1
            most = max(most, running)
            order.append(number)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(make(number) for number in range(9)))
    assert (most, order, len(queue)) == (2, list(range(9)), 0)


async def test_another_key_doesnt_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_queue, "MAX_AT_ONCE", 1)
    queue = DialQueue(patience_s=60)
    async with queue.place(key("one")), queue.place(key("another")):
        assert len(queue) == 2


async def test_who_waits_gives_up_when_those_before_make_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_queue, "MAX_AT_ONCE", 1)
    queue = DialQueue(patience_s=0.01)
    async with queue.place(key("one")):
        with pytest.raises(TimeoutError):
            async with queue.place(key("one")):
                pass
        assert len(queue) == 1
    async with queue.place(key("one")):
        assert len(queue) == 1
