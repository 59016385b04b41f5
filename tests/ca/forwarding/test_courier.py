"""The queue towards a store: a batch until it is taken, losses counted, faults said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, TypeVar

import pytest

from ca.forwarding import courier as module
from ca.forwarding.courier import Courier, LaterError, RefusedBatchError
from ca.metrics import Metrics
from tests.ca.running import eventually

_T = TypeVar("_T")


class FakeStore(Generic[_T]):
    """Answers each batch with the next of its answers: an error, or how many it rejects; then takes everything."""

    name = "fake"

    def __init__(self, *answers: Exception | int) -> None:
        self.answers = list(answers)
        self.batches: list[list[_T]] = []
        self.is_closed = False

    async def send(self, records: Sequence[_T]) -> int:
        self.batches.append(list(records))
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.001)


def make(store: FakeStore[str]) -> tuple[Courier[str], Metrics]:
    metrics = Metrics()
    return Courier(store, queues=1, metrics=metrics, jitter=lambda: 0.0), metrics


def offer(courier: Courier[str], *records: str) -> None:
    for record in records:
        courier.put(record)
    courier.announce()


async def run_until_empty(courier: Courier[_T], store: FakeStore[_T], batches: int) -> None:
    task = asyncio.create_task(courier.run())
    await eventually(lambda: not courier.waiting and len(store.batches) >= batches, deadline_s=30)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert store.is_closed


async def test_a_batch_is_sent_again_until_it_is_taken() -> None:
    store = FakeStore[str](LaterError("away"), LaterError("away", after_s=0.001))
    courier, metrics = make(store)
    offer(courier, "a")
    await run_until_empty(courier, store, 3)
    assert store.batches == [["a"]] * 3
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 0.0' in metrics.render().decode()


async def test_what_a_store_refuses_is_counted_and_the_next_batch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 2)
    store = FakeStore[str](RefusedBatchError("no"), 1)
    courier, metrics = make(store)
    offer(courier, "a", "b", "c", "d")
    await run_until_empty(courier, store, 2)
    text = metrics.render().decode()
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 3.0' in text
    assert 'touchmark_ca_forwarded_total{target="fake"} 1.0' in text


async def test_what_has_no_room_is_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    store = FakeStore[str]()
    courier, metrics = make(store)
    offer(courier, "a", "b", "c")
    assert courier.waiting == 2
    text = metrics.render().decode()
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 1.0' in text
    assert 'touchmark_ca_forwarding_waiting{target="fake"} 2.0' in text
