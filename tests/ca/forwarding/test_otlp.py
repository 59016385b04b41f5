"""OTLP over HTTPS to a real server: what it takes, what it puts off, and which it trusts."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from ca.forwarding.courier import LaterError, RefusedBatchError
from ca.forwarding.otlp import Collector as Door
from ca.forwarding.otlp import OtlpStore, OtlpTraceStore
from tests.ca.forwarding.certified import Certified, make_certified
from tests.shared.model.formats.examples import ALLOWED, DENIED
from tests.shared.model.formats.test_otlp_traces import make_span


@dataclass
class Collector:
    """Answers with a status and a body, and remembers what it got."""

    url: str = ""
    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.requests.append((request.path, headers, json.loads(await request.read())))
        return web.json_response(self.body, status=self.status, headers=self.headers)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return make_certified(tmp_path_factory.mktemp("collector"))


@pytest.fixture
async def collector(certified: Certified) -> AsyncIterator[Collector]:
    made = Collector()
    application = web.Application()
    application.router.add_post("/{path:.*}", made.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certified.server)
    await site.start()
    made.url = f"https://127.0.0.1:{runner.addresses[0][1]}/v1/logs"
    yield made
    await runner.cleanup()


def make_store(collector: Collector, context: ssl.SSLContext) -> OtlpStore:
    return OtlpStore(open_collector(collector, context), instance="ca-1", every=1, clock=lambda: 1.0)


def open_collector(collector: Collector, context: ssl.SSLContext) -> Door:
    return Door(collector.url, headers={"authorization": "Bearer x"}, context=context)


async def test_a_batch_is_one_request_with_the_headers(collector: Collector, certified: Certified) -> None:
    store = make_store(collector, certified.knowing)
    assert await store.send([DENIED, ALLOWED]) == 0
    await store.close()
    [(path, headers, body)] = collector.requests
    assert (path, headers["authorization"], headers["content-type"]) == ("/v1/logs", "Bearer x", "application/json")
    assert len(body["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) == 2


async def test_a_collector_that_nobody_vouches_for_gets_nothing(collector: Collector, certified: Certified) -> None:
    store = make_store(collector, certified.doubting)
    with pytest.raises(LaterError):
        await store.send([DENIED])
    await store.close()
    assert collector.requests == []


@pytest.mark.parametrize(
    ("status", "wish", "after_s"), [(429, "7", 7.0), (503, "", 0.0), (503, "soon", 0.0), (502, "999", 60.0)]
)
async def test_what_is_put_off_is_tried_again_when_the_collector_says(
    collector: Collector, certified: Certified, status: int, wish: str, after_s: float
) -> None:
    collector.status, collector.headers = status, {"Retry-After": wish}
    store = make_store(collector, certified.knowing)
    with pytest.raises(LaterError) as caught:
        await store.send([DENIED])
    await store.close()
    assert caught.value.after_s == after_s


@pytest.mark.parametrize("status", [400, 401, 302, 500])
async def test_any_other_answer_is_final(collector: Collector, certified: Certified, status: int) -> None:
    """OTLP/HTTP: all other 4xx and 5xx answers must not be tried again; a redirect isn't followed."""
    collector.status, collector.headers = status, {"Location": collector.url}
    store = make_store(collector, certified.knowing)
    with pytest.raises(RefusedBatchError):
        await store.send([DENIED])
    await store.close()
    assert len(collector.requests) == 1


@pytest.mark.parametrize(
    ("body", "rejected"),
    [
        ({"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "x"}}, 1),
        ({"partialSuccess": {"rejectedLogRecords": "9"}}, 2),
        ({"partialSuccess": None}, 0),
        ([], 0),
    ],
)
async def test_what_a_collector_rejects_is_told(
    collector: Collector, certified: Certified, body: Any, rejected: int
) -> None:
    collector.body = body
    store = make_store(collector, certified.knowing)
    assert await store.send([DENIED, ALLOWED]) == rejected
    await store.close()


async def test_spans_go_the_same_way(collector: Collector, certified: Certified) -> None:
    store = OtlpTraceStore(open_collector(collector, certified.knowing), instance="ca-1")
    assert await store.send([make_span(), make_span()]) == 0
    collector.body = {"partialSuccess": {"rejectedSpans": "9", "rejectedLogRecords": "1"}}
    assert await store.send([make_span()]) == 1
    await store.close()
    [(_, headers, body), _] = collector.requests
    assert headers["authorization"] == "Bearer x"
    assert len(body["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 2


async def test_what_cant_be_written_is_refused_and_not_tried_for_ever(
    collector: Collector, certified: Certified
) -> None:
    """The operating system's names needn't be UTF-8."""
    door = open_collector(collector, certified.knowing)
    with pytest.raises(RefusedBatchError, match="JSON"):
        await door.post({"actor": "\udcff"}, rejected="rejectedSpans")
    await door.close()
    assert collector.requests == []
