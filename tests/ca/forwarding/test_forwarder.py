"""The queue towards a log store: denials always, allows sampled, a batch until it is taken, losses counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from ca.forwarding import forwarder as module
from ca.forwarding.forwarder import Forwarder, LaterError, RefusedBatchError
from ca.metrics import Metrics
from shared.model.policy.decision import DecisionRecord
from tests.ca.founded import WEB
from tests.ca.running import eventually, make_decision, running_ca
from tests.shared.model.formats.examples import ALLOWED, DENIED, STARTED


class FakeStore:
    """Answers each batch with the next of its answers: an error, or how many it rejects; then takes everything."""

    name = "fake"

    def __init__(self, *answers: Exception | int) -> None:
        self.answers = list(answers)
        self.batches: list[list[DecisionRecord]] = []
        self.is_closed = False

    async def send(self, records: Sequence[DecisionRecord]) -> int:
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


def make(store: FakeStore, *, every: int = 1) -> tuple[Forwarder, Metrics]:
    metrics = Metrics()
    return Forwarder(store, every=every, metrics=metrics, jitter=lambda: 0.0), metrics


async def run_until_empty(forwarder: Forwarder, store: FakeStore, batches: int) -> None:
    task = asyncio.create_task(forwarder.run())
    await eventually(lambda: not forwarder.waiting and len(store.batches) >= batches, deadline_s=30)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert store.is_closed


@pytest.mark.parametrize(("every", "allows"), [(1, 10), (5, 2), (0, 0)])
async def test_what_is_or_would_be_refused_is_always_sent_and_allows_are_sampled(every: int, allows: int) -> None:
    store = FakeStore()
    forwarder, metrics = make(store, every=every)
    forwarder.offer([ALLOWED] * 10 + [DENIED, STARTED])
    await run_until_empty(forwarder, store, 1)
    [batch] = store.batches
    assert batch == [DENIED, STARTED] + [ALLOWED] * allows
    assert f'touchmark_ca_forwarded_total{{target="fake"}} {allows + 2}.0' in metrics.render().decode()


async def test_a_batch_is_sent_again_until_it_is_taken() -> None:
    store = FakeStore(LaterError("away"), LaterError("away", after_s=0.001))
    forwarder, metrics = make(store)
    forwarder.offer([DENIED])
    await run_until_empty(forwarder, store, 3)
    assert store.batches == [[DENIED]] * 3
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 0.0' in metrics.render().decode()


async def test_what_a_store_refuses_is_counted_and_the_next_batch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 2)
    store = FakeStore(RefusedBatchError("no"), 1)
    forwarder, metrics = make(store)
    forwarder.offer([DENIED] * 4)
    await run_until_empty(forwarder, store, 2)
    text = metrics.render().decode()
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 3.0' in text
    assert 'touchmark_ca_forwarded_total{target="fake"} 1.0' in text


async def test_a_full_queue_of_allows_leaves_room_for_denials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    store = FakeStore()
    forwarder, metrics = make(store)
    forwarder.offer([ALLOWED] * 5 + [DENIED])
    assert forwarder.waiting == 4
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 2.0' in metrics.render().decode()
    await run_until_empty(forwarder, store, 1)
    assert store.batches[0][0] == DENIED


async def test_a_running_ca_forwards_what_it_stores(tmp_path: Path) -> None:
    requests: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append(await request.read())
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/v1/logs", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with running_ca(tmp_path, otlp_logs=f"http://127.0.0.1:{runner.addresses[0][1]}") as services:
            await services.decisions.take_in([make_decision("told")], instance="a", workload=WEB, lost=0)
            await eventually(lambda: requests, deadline_s=60)
    finally:
        await runner.cleanup()
    assert b"told" in requests[0]
