"""One replica leads at a time, stops before another may begin, and gives the Lease back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ca.kubernetes.api import lease as lease_module
from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.api.lease import Leadership
from tests.ca.kubernetes.faking import faked
from tests.ca.running import DEADLINE_S, eventually

# The periods of the real thing, divided.
FACTOR = 4.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEASE_S", "RENEW_DEADLINE_S", "RETRY_S", "CALL_S"):
        monkeypatch.setattr(lease_module, name, getattr(lease_module, name) / FACTOR)
    monkeypatch.setattr(lease_module, "RELEASE_S", DEADLINE_S)


class Clock:
    """A clock of replicas that the test alone moves on: a busy machine that stops this process loses no Lease by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(lease_module, "RETRY_S", 0.01)
        monkeypatch.setattr(lease_module, "CALL_S", DEADLINE_S)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def _long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens within the time that the test waits happens without waiting for a Lease's end."""
    monkeypatch.setattr(lease_module, "LEASE_S", 10 * DEADLINE_S)
    monkeypatch.setattr(lease_module, "RENEW_DEADLINE_S", 5 * DEADLINE_S)


class Leases:
    """An API server's one Lease, with its compare-and-swap; and the faults that a real one can't be made to show.

    Attributes:
        deaf: whose requests get no answer.
        lossy: writes are done, and their answers lost.
        holders: after each write.
    """

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.writes = self.reads = 0
        self.holders: list[str] = []
        self.deaf = False
        self.lossy = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self.deaf:
            await asyncio.sleep(60)
        if request.method == "GET":
            self.reads += 1
            return self._answer(200 if self.lease else 404)
        body = await request.json()
        if request.method == "POST":
            if self.lease is not None:
                return web.json_response({"message": "exists"}, status=409)
            self.lease = body
        else:
            if self.lease is None:
                return self._answer(404)
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return web.json_response({"message": "changed"}, status=409)
            self.lease["spec"].update(body["spec"])
        self.writes += 1
        self.holders.append(self.holder)
        self.touch()
        if self.lossy:
            await asyncio.sleep(60)
        return self._answer(200)

    def touch(self) -> None:
        """Somebody writes the object, perhaps an annotation only."""
        assert self.lease is not None
        self.version += 1
        self.lease["metadata"]["resourceVersion"] = str(self.version)

    @property
    def holder(self) -> str:
        return str(self.lease["spec"].get("holderIdentity", "")) if self.lease else ""

    def _answer(self, status: int) -> web.Response:
        return web.json_response(self.lease if status == 200 else {"message": "none"}, status=status)


class Replica:
    """A candidate whose work says when it runs."""

    def __init__(self, client: ClusterClient, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.leadership = Leadership(client, identity=name, monotonic=clock)
        self.working = False
        self.started = 0
        self.failures = 0  # So often its work ends by a fault.

    async def work(self) -> None:
        self.started += 1
        if self.started <= self.failures:
            raise RuntimeError("broken")
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False


@contextlib.asynccontextmanager
async def standing(replica: Replica) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(replica.leadership.run(replica.work))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_first_leads_and_gives_the_lease_back(tmp_path: Path, clock: Clock) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        one, two = Replica(client, "one", clock), Replica(client, "two", clock)
        async with standing(one):
            await eventually(lambda: one.working)
            assert leases.holder == "one"
            async with standing(two):
                for _ in range(20):  # Twice the Lease's time and more.
                    writes, reads = leases.writes, leases.reads
                    await eventually(lambda writes=writes: leases.writes > writes)
                    await eventually(lambda reads=reads: leases.reads > reads)
                    clock.now += lease_module.LEASE_S / 8
                assert one.working and not two.started  # It renews, so that nobody takes over.
                assert one.leadership.is_leader and not two.leadership.is_leader
        assert leases.holder == ""
        assert leases.lease is not None and leases.lease["spec"]["leaseDurationSeconds"] == 1


@pytest.mark.usefixtures("_long_leases")
async def test_who_may_not_lead_any_more_gives_the_lease_back_and_takes_none(tmp_path: Path) -> None:
    """As a replica whose clock has gone astray."""
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        one, two = Replica(client, "one"), Replica(client, "two")
        may_lead = {"one": True}
        one.leadership = Leadership(client, identity="one", may_lead=lambda: may_lead["one"])
        async with standing(one):
            await eventually(lambda: one.working)
            may_lead["one"] = False
            await eventually(lambda: leases.holder == "" and not one.working)
            async with standing(two):
                await eventually(lambda: two.working)
            assert one.started == 1
            may_lead["one"] = True
            await eventually(lambda: one.working)


@pytest.mark.usefixtures("_long_leases")
async def test_it_is_given_back_after_a_renewal_whose_answer_was_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Lease has another version then than the one that its holder knows; so it has after an annotation."""
    monkeypatch.setattr(lease_module, "RETRY_S", 10 * DEADLINE_S)  # Nothing renews it in between.
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one")
        async with standing(replica):
            await eventually(lambda: replica.working)
            leases.touch()
        assert leases.holder == ""


@pytest.mark.usefixtures("_long_leases")
async def test_a_lease_that_was_given_back_is_taken_without_waiting(tmp_path: Path) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        one, two = Replica(client, "one"), Replica(client, "two")
        async with standing(one):
            await eventually(lambda: one.working)
        async with standing(two):
            await eventually(lambda: two.working)
            assert leases.lease is not None and leases.lease["spec"]["leaseTransitions"] == 1


async def test_a_silent_holder_is_replaced_after_its_time_and_not_before(tmp_path: Path) -> None:
    leases = Leases()
    leases.lease = {"metadata": {"name": "touchmark-ca"}, "spec": {"holderIdentity": "dead", "leaseTransitions": 4}}
    leases.touch()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one")
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with standing(replica):
            await eventually(lambda: replica.working)
            assert loop.time() - began >= lease_module.LEASE_S
            assert leases.lease["spec"]["leaseTransitions"] == 5


async def test_times_in_the_lease_mean_nothing(tmp_path: Path, clock: Clock) -> None:
    """A holder whose clock is wrong by years, but that renews, is left alone."""
    leases = Leases()
    leases.lease = {"metadata": {}, "spec": {"holderIdentity": "old", "renewTime": "2001-01-01T00:00:00.000000Z"}}
    leases.touch()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one", clock)
        async with standing(replica):
            for second in range(8):
                leases.lease["spec"]["renewTime"] = f"2001-01-01T00:00:{second:02}.000000Z"
                leases.touch()
                reads = leases.reads
                await eventually(lambda reads=reads: leases.reads > reads + 1)
                clock.now += lease_module.LEASE_S / 5
            assert not replica.started


async def test_a_leader_that_cannot_renew_stops_before_another_may_begin(tmp_path: Path) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client, faked(tmp_path, leases.serve) as other:
        one, two = Replica(client, "one"), Replica(other, "two")
        loop = asyncio.get_running_loop()
        async with standing(one), standing(two):
            await eventually(lambda: one.working or two.working)
            first, second = (one, two) if one.working else (two, one)
            leases.deaf = True
            began = loop.time()
            overlapped = False
            while loop.time() < began + lease_module.RENEW_DEADLINE_S:
                overlapped |= first.working and second.working
                await asyncio.sleep(0.01)
            assert not first.leadership.is_leader  # By the clock, whatever its work does.
            await eventually(lambda: not first.working)
            leases.deaf = False
            await eventually(lambda: first.working or second.working)
            assert not overlapped and not (first.working and second.working)


@pytest.mark.usefixtures("_long_leases")
async def test_a_lease_that_another_took_is_given_up_at_once(tmp_path: Path) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one")
        async with standing(replica):
            await eventually(lambda: replica.working)
            assert leases.lease is not None
            leases.lease["spec"]["holderIdentity"] = "two"
            leases.touch()
            await eventually(lambda: not replica.working)
            assert not replica.leadership.is_leader
        assert leases.holder == "two"  # Nor is what belongs to another given back.


async def test_somebodys_annotation_on_the_lease_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one", clock)
        async with standing(replica):
            await eventually(lambda: replica.working)
            for _ in range(5):
                leases.touch()
                writes = leases.writes
                await eventually(lambda writes=writes: leases.writes > writes)
            assert replica.working and replica.started == 1


@pytest.mark.usefixtures("_long_leases")
async def test_an_answer_that_got_lost_costs_no_waiting(tmp_path: Path) -> None:
    leases = Leases()
    leases.lossy = True
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one")
        async with standing(replica):
            await eventually(lambda: leases.holder == "one")
            leases.lossy = False
            await eventually(lambda: replica.working)


async def test_a_deleted_lease_is_taken_anew(tmp_path: Path, clock: Clock) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one", clock)
        async with standing(replica):
            await eventually(lambda: replica.working)
            leases.lease = None
            await eventually(lambda: replica.started == 2 and replica.working)


async def test_work_that_fails_gives_the_lease_to_another(tmp_path: Path, clock: Clock) -> None:
    leases = Leases()
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one", clock)
        replica.failures = 1
        async with standing(replica):
            await eventually(lambda: replica.working)
            assert replica.started == 2 and leases.holders[:3] == ["one", "", "one"]


async def test_an_api_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    leases = Leases()
    leases.deaf = True
    async with faked(tmp_path, leases.serve) as client:
        replica = Replica(client, "one")
        async with standing(replica):
            await asyncio.sleep(3 * lease_module.CALL_S)
            assert not replica.started
            leases.deaf = False
            await eventually(lambda: replica.working)
