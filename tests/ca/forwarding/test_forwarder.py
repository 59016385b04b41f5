"""Decisions towards a log store: denials always, allows sampled, and none takes a denial's place."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from ca.forwarding import courier as module
from ca.forwarding.forwarder import Forwarder
from ca.metrics import Metrics
from shared.model.policy.decision import DecisionRecord
from tests.ca.forwarding.test_courier import FakeStore, run_until_empty
from tests.ca.founded import WEB
from tests.ca.running import eventually, make_decision, running_ca
from tests.shared.model.formats.examples import ALLOWED, DENIED, STARTED


def make(store: FakeStore[DecisionRecord], *, every: int = 1) -> tuple[Forwarder, Metrics]:
    metrics = Metrics()
    return Forwarder(store, every=every, metrics=metrics, jitter=lambda: 0.0), metrics


@pytest.mark.parametrize(("every", "allows"), [(1, 10), (5, 2), (0, 0)])
async def test_what_is_or_would_be_refused_is_always_sent_and_allows_are_sampled(every: int, allows: int) -> None:
    store = FakeStore[DecisionRecord]()
    forwarder, metrics = make(store, every=every)
    forwarder.offer([ALLOWED] * 10 + [DENIED, STARTED])
    await run_until_empty(forwarder, store, 1)
    [batch] = store.batches
    assert batch == [DENIED, STARTED] + [ALLOWED] * allows
    assert f'touchmark_ca_forwarded_total{{target="fake"}} {allows + 2}.0' in metrics.render().decode()


async def test_a_full_queue_of_allows_leaves_room_for_denials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    store = FakeStore[DecisionRecord]()
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
