"""Spans of a running CA reach a collector: an issuance with its steps, an admin act in its caller's trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from ca.forwarding import courier as module
from ca.forwarding.spans import SpanForwarder
from ca.metrics import Metrics
from shared.model.formats.otlp_traces import Span
from shared.model.identity.program import Program
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire import admin as api
from shared.model.wire.messages import CertificateIssued, CertificateRefused, CertificateRequest
from tests.ca.forwarding.test_courier import FakeStore, run_until_empty
from tests.ca.running import Admin, FakeSidecar, eventually, make_csr, running_ca
from tests.shared.model.formats.test_otlp_traces import SPAN, TRACE, make_span

PROGRAM = Program(digest="ab" * 32)


class Collected:
    """A collector on 127.0.0.1, with the spans that it got."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        for resource in json.loads(await request.read())["resourceSpans"]:
            self.spans += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
        return web.json_response({})

    def find(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]

    async def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.find(name)) >= count, deadline_s=60)
        return self.find(name)

    def list_steps(self, root: dict[str, Any]) -> list[str]:
        """The names of a span's steps in the order in which they ended."""
        return [span["name"] for span in self.spans if span.get("parentSpanId") == root["spanId"]]


@pytest.fixture
async def collected() -> AsyncIterator[Collected]:
    made = Collected()
    application = web.Application()
    application.router.add_post("/v1/traces", made.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def read(span: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


async def test_an_issuance_and_its_steps_are_one_trace(tmp_path: Path, collected: Collected) -> None:
    async with running_ca(tmp_path, otlp_traces=collected.url) as services, FakeSidecar(services) as client:
        await client.enrol("a")
        await client.send(CertificateRequest(request=1, csr=make_csr()[1], program=PROGRAM))
        await client.expect(CertificateIssued)
        [root] = await collected.wait_for("issue certificate")
        # A batch may end between two steps' spans, but never after their issuance's: steps end first.
        assert collected.list_steps(root) == ["authenticate", "request check", "policy check", "sign", "ledger commit"]
        assert len({span["traceId"] for span in collected.spans}) == 1
        attributes = read(root)
        assert (attributes["touchmark.workload"], attributes["touchmark.sidecar"]) == ("shop/web", "a")
        assert attributes["touchmark.program"] == str(PROGRAM)
        assert "status" not in root
        await services.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        await client.send(CertificateRequest(request=2, csr=make_csr()[1], program=PROGRAM))
        await client.expect(CertificateRefused)
        _, refused = await collected.wait_for("issue certificate", 2)
        assert refused["status"]["code"] == 2
        assert collected.list_steps(refused) == ["authenticate", "request check", "policy check"]


async def test_an_admin_act_is_in_its_callers_trace_and_questions_are_if_it_traces_them(
    tmp_path: Path, collected: Collected
) -> None:
    mode = api.ModeRequest(mode=Mode.EXPLICIT, force=True)
    async with running_ca(tmp_path, otlp_traces=collected.url) as services, Admin(services) as admin:
        await admin.get("/v1/policies", api.PolicyList)
        admin.session.headers["traceparent"] = f"00-{TRACE}-{SPAN}-00"
        await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, mode)
        admin.session.headers["traceparent"] = f"00-{TRACE}-{SPAN}-01"
        await admin.ask("PUT", "/v1/namespaces/bank/mode", NamespaceState, mode)
        await admin.get("/v1/programs", api.ProgramList)
        await admin.fail("DELETE", "/v1/policies/none", 404)
        [root] = await collected.wait_for("PUT /v1/namespaces/{ns}/mode")
        [failed] = await collected.wait_for("DELETE /v1/policies/{ns}")
    assert (root["traceId"], root["parentSpanId"]) == (TRACE, SPAN)
    assert collected.list_steps(root) == ["authenticate", "authorize", "act"]
    assert failed["status"]["message"] == "not_found"
    [asked] = collected.find("GET /v1/programs")
    assert asked["traceId"] == TRACE
    assert not collected.find("GET /v1/policies"), "a question of somebody who doesn't trace it"


async def test_neither_a_strangers_wish_nor_its_acts_are_traced(tmp_path: Path, collected: Collected) -> None:
    """Whoever forwards a port would fill the queue, and push out what operators want to see."""
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    async with (
        running_ca(tmp_path, otlp_traces=collected.url, admin_host="127.0.0.1") as services,
        Admin(services) as admin,
        ClientSession(f"http://{services.admin_listen}", headers=headers) as stranger,
    ):
        for method, path, status in (
            ("GET", "/v1/policies", 401),
            ("DELETE", "/v1/policies/shop", 401),
            ("GET", "/healthz", 200),
        ):
            async with stranger.request(method, path) as answer:
                assert answer.status == status
        await admin.fail("DELETE", "/v1/policies/none", 404)
        await collected.wait_for("DELETE /v1/policies/{ns}")
    # The last one is the operator's: spans are sent in the order in which they ended.
    assert {span["name"] for span in collected.spans} == {
        "DELETE /v1/policies/{ns}",
        "authenticate",
        "authorize",
        "act",
    }
    assert len(collected.find("DELETE /v1/policies/{ns}")) == 1


async def test_a_collector_that_is_away_delays_nothing_and_spans_are_lost_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    store, metrics = FakeStore[Span](), Metrics()
    forwarder = SpanForwarder(store, metrics=metrics)
    for _ in range(5):
        forwarder.offer(make_span())
    await asyncio.sleep(0)
    assert forwarder.waiting == 3
    assert 'touchmark_ca_forwarding_lost_total{target="fake"} 2.0' in metrics.render().decode()
    await run_until_empty(forwarder, store, 1)
    assert [len(batch) for batch in store.batches] == [3]
