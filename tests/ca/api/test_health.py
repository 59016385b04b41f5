"""Health on both doors: alive is cheap, ready signs and writes, metrics are Prometheus text."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from ca.api import health
from ca.runtime.compose import RunningCA
from shared.model.errors import UnavailableError
from shared.model.wire.admin import Health
from tests.ca.running import Admin, make_client_context


async def test_both_doors_answer(services: RunningCA, admin: Admin) -> None:
    assert (await admin.get("/healthz", Health)).status == "ok"
    async with aiohttp.ClientSession() as session:
        for path in ("healthz", "readyz", "metrics"):
            url = f"https://{services.listen}/{path}"
            async with session.get(url, ssl=make_client_context(services)) as response:
                assert response.status == 200, path


async def test_ready_has_signed_and_written(admin: Admin) -> None:
    ready = await admin.get("/readyz", Health)
    assert (ready.status, ready.checks) == ("ok", {"store": "ok", "sign": "ok"})


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "REMEMBER_S", 0.0)


async def test_a_store_that_fails_is_said_and_takes_the_ca_out_of_no_service(
    services: RunningCA, admin: Admin, monkeypatch: pytest.MonkeyPatch, without_memory: None
) -> None:
    async def fail() -> None:
        raise UnavailableError("the disk is full")

    monkeypatch.setattr(services.store, "check", fail)
    ready = await admin.get("/readyz", Health)
    assert (ready.status, ready.checks["store"], ready.checks["sign"]) == ("degraded", "the disk is full", "ok")
    assert (await admin.get("/healthz", Health)).status == "ok"


async def test_a_store_that_hangs_is_said_in_time(
    services: RunningCA, admin: Admin, monkeypatch: pytest.MonkeyPatch, without_memory: None
) -> None:
    monkeypatch.setattr(health, "CHECK_DEADLINE_S", 0.1)
    async with services.store.database.writing():
        ready = await admin.get("/readyz", Health)
    assert ready.checks["store"] == "no answer in 0.1 s"


async def test_an_authority_that_has_ended_is_not_ready(services: RunningCA) -> None:
    """The clock is the endpoint's alone: a CA that is a year older would have rotated its authority."""
    endpoint = health.HealthEndpoint(
        store=services.store,
        authorities=services.authorities,
        cluster=services.cluster,
        check_directory=None,
        metrics=services.metrics,
        clock=lambda: services.clock() + 365 * 86_400,
    )
    answer = await endpoint.readyz(make_mocked_request("GET", "/readyz"))
    assert answer.status == 503 and isinstance(answer.body, bytes)
    ready = msgspec.json.decode(answer.body, type=Health)
    assert ready.checks["store"] == "ok"
    assert ready.checks["sign"] != "ok"


async def test_strangers_cause_one_signature_a_second(
    services: RunningCA, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    real = services.store.check

    async def count() -> None:
        nonlocal checks
        checks += 1
        await real()

    monkeypatch.setattr(services.store, "check", count)
    monkeypatch.setattr(health, "REMEMBER_S", 60.0)
    await asyncio.gather(*(admin.get("/readyz", Health) for _ in range(20)))
    assert checks == 1


async def test_metrics_are_text_that_prometheus_reads(admin: Admin) -> None:
    async with admin.session.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "touchmark_ca_bundle_sequence 1.0" in await response.text()
