"""A peer that leaves while its sidecar is entered leaves nobody behind that counts as connected."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from ca.api.stream.entering import finish_entering
from ca.runtime.compose import RunningCA
from ca.store.records import SidecarRecord
from tests.ca.running import FakeSidecar, eventually, make_registration

ADDRESS = "198.18.0.2"


async def get_sidecar(services: RunningCA) -> SidecarRecord:
    record = await services.store.sidecars.get("web-1")
    assert record is not None
    return record


async def leave_while_resuming(services: RunningCA) -> None:
    """Register web-1, and give up while the transaction is at work."""
    begins, goes_on = threading.Event(), threading.Event()

    def hold(statement: str) -> None:
        if statement.startswith("UPDATE sidecars"):
            begins.set()
            goes_on.wait()

    def watch(driver: sqlite3.Connection) -> None:
        driver.set_trace_callback(hold)

    store = services.store
    grant = (await get_sidecar(services)).grant
    await store.database.write_in_thread(watch)
    entering = store.sidecars.register(grant, make_registration("web-1", ADDRESS), now=services.clock())
    task = asyncio.create_task(finish_entering(entering, store=store, hub=services.hub))
    await asyncio.to_thread(begins.wait)
    task.cancel()
    goes_on.set()
    await asyncio.wait({task})
    assert task.cancelled()
    # After whatever was still at work.
    await store.database.write_in_thread(lambda driver: driver.set_trace_callback(None))


async def test_who_leaves_while_it_is_entered_isnt_connected(services: RunningCA) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("web-1", ADDRESS)

    async def has_left() -> bool:
        return not (await get_sidecar(services)).connected

    await eventually(has_left)
    before = await get_sidecar(services)
    await leave_while_resuming(services)
    after = await get_sidecar(services)
    assert after.last_seen > before.last_seen  # It was committed.
    assert not after.connected


async def test_an_earlier_stream_that_is_open_stays_connected(services: RunningCA) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("web-1", ADDRESS)
        await leave_while_resuming(services)
        assert (await get_sidecar(services)).connected


async def test_what_fails_fails_as_it_would(services: RunningCA) -> None:
    async def fail() -> SidecarRecord:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await finish_entering(fail(), store=services.store, hub=services.hub)
