"""A second sidecar under the name of one that lives is refused, and told of; one that was restarted isn't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import update

from ca.api.stream import second_sidecar
from ca.api.stream.second_sidecar import SecondSidecars
from ca.distribution.live_connections import Survey
from ca.runtime.compose import RunningCA
from ca.store.sidecars import SecondSidecarError
from ca.store.tables import replicas, sidecars
from shared.model.errors import UnavailableError
from shared.model.trust.join_token import format_join_token, parse_join_token
from shared.model.wire import admin as api
from shared.model.wire.messages import CertificateIssued, CertificateRequest, Enrol, FromCA, Refusal, Resume, Welcome
from tests.ca.kubernetes.faked_cluster import FakeCluster, enrol_pod, running_in_cluster
from tests.ca.kubernetes.making import make_pod_json, make_uid
from tests.ca.running import (
    CURL,
    Admin,
    FakeSidecar,
    ShiftedClock,
    eventually,
    make_client_context,
    make_registration,
    make_token,
)

ADDRESS = "198.18.0.2"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, who answers is taken for alive."""
    monkeypatch.setattr(second_sidecar, "ANSWER_DEADLINE_S", 60.0)


async def join(sidecar: FakeSidecar, *, token: str = "") -> FromCA:
    """Join as web-1 by a token, one that is made for it where none is given."""
    token = token or await make_token(sidecar.services, ADDRESS)
    await sidecar.send(Enrol(token=token, csr=sidecar.csr, registration=make_registration("web-1", ADDRESS)))
    answer = await sidecar.receive()
    sidecar.chain = getattr(answer, "chain", ())
    return answer


async def list_noted(services: RunningCA) -> list[tuple[str, int, str]]:
    async with Admin(services) as admin:
        listed = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
    return [(view.instance, view.second_count, view.second_from) for view in listed if view.second_at is not None]


async def list_audited(services: RunningCA) -> list[str]:
    lines = (await services.store.audit.list_lines()).lines
    return [line for line in lines if '"sidecar.second"' in line]


async def test_the_first_stays_and_the_second_is_an_incident(services: RunningCA) -> None:
    async with FakeSidecar(services) as first:
        assert isinstance(await join(first), Welcome)
        token = await make_token(services, ADDRESS)
        async with first.answering():
            for number in (1, 2):
                async with FakeSidecar(services) as second:
                    refusal = await join(second, token=token)
                    assert isinstance(refusal, Refusal) and refusal.code == "second_sidecar"
                assert await list_noted(services) == [("web-1", number, "127.0.0.1")]
        await first.send(CertificateRequest(request=1, csr=first.csr, program=CURL))
        await first.expect(CertificateIssued)
    assert len(await list_audited(services)) == 1  # Not one for each try.
    assert 'touchmark_ca_second_sidecars_total{how="enrol"} 2.0' in services.metrics.render().decode()
    await eventually(lambda: services.hub.get("web-1") is None)
    async with FakeSidecar(services) as later:  # The token wasn't spent by being refused.
        assert isinstance(await join(later, token=token), Welcome)


@pytest.fixture
async def in_cluster(tmp_path: Path) -> AsyncIterator[RunningCA]:
    faked = FakeCluster()
    faked.pods["web-0"] = make_pod_json("web-0", ADDRESS, uid=make_uid(1))
    async with running_in_cluster(tmp_path, faked) as running:
        yield running


async def test_a_pods_token_in_other_hands_doesnt_replace_its_sidecar(in_cluster: RunningCA) -> None:
    async with FakeSidecar(in_cluster) as first, FakeSidecar(in_cluster) as thief:
        await enrol_pod(first, "web-0", "web-0.00000001", ADDRESS)
        async with first.answering():
            refusal = await enrol_pod(thief, "web-0", "web-0.00000001", ADDRESS)
            assert isinstance(refusal, Refusal) and refusal.code == "second_sidecar"
        await first.send(CertificateRequest(request=1, csr=first.csr, program=CURL))
        await first.expect(CertificateIssued)
    assert await list_noted(in_cluster) == [("web-0.00000001", 1, "127.0.0.1")]


async def test_of_two_that_join_at_once_one_stays(services: RunningCA) -> None:
    async with FakeSidecar(services) as one, FakeSidecar(services) as other:
        tokens = [await make_token(services, ADDRESS) for _ in range(2)]
        tasks = [
            asyncio.create_task(join_and_answer(sidecar, token))
            for sidecar, token in zip((one, other), tokens, strict=True)
        ]
        try:
            await eventually(lambda: any(task.done() for task in tasks))
            refusals = [task.result() for task in tasks if task.done()]
            assert [refusal.code for refusal in refusals] == ["second_sidecar"]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def join_and_answer(sidecar: FakeSidecar, token: str) -> Refusal:
    """Join and go on as a sidecar that lives; return only if it is refused."""
    answer = await join(sidecar, token=token)
    if isinstance(answer, Refusal):
        return answer
    async with sidecar.answering():
        await asyncio.Event().wait()
    raise AssertionError


async def test_where_nobody_answers_the_second_takes_the_place(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_sidecar, "ANSWER_DEADLINE_S", 0.1)
    async with FakeSidecar(services) as dead, FakeSidecar(services) as restarted:
        await join(dead)
        assert isinstance(await join(restarted), Welcome)
    assert await list_noted(services) == []


async def test_the_first_that_opens_another_stream_while_it_is_asked_stays(services: RunningCA, tmp_path: Path) -> None:
    async with FakeSidecar(services) as first:
        await join(first)
        pem = first.write_pem(tmp_path / "first.pem")
        asked = services.hub.get("web-1")
        assert asked is not None
        async with FakeSidecar(services) as second:
            joining = asyncio.create_task(join(second))
            await eventually(lambda: bool(asked.reports))
            async with FakeSidecar(services, make_client_context(services, pem)) as renewed:
                await renewed.resume("web-1", ADDRESS)
                async with renewed.answering():
                    refusal = await joining
            assert isinstance(refusal, Refusal) and refusal.code == "second_sidecar"
    assert await list_noted(services) == [("web-1", 1, "127.0.0.1")]


async def test_a_wrong_token_waits_for_no_turn(services: RunningCA) -> None:
    async with FakeSidecar(services) as first, FakeSidecar(services) as second, FakeSidecar(services) as third:
        await join(first)
        asked = services.hub.get("web-1")
        assert asked is not None
        joining = asyncio.create_task(join(second))
        try:
            await eventually(lambda: bool(asked.reports))  # The second has the turn.
            token = parse_join_token(await make_token(services, ADDRESS))
            wrong = msgspec.structs.replace(token, secret="x" * len(token.secret))
            refusal = await join(third, token=format_join_token(wrong))
            assert isinstance(refusal, Refusal) and "no such join token" in refusal.message
            assert not joining.done()
        finally:
            joining.cancel()
            await asyncio.wait({joining})


@pytest.mark.parametrize(("streams", "expected"), [(2, "entered"), (99, "second_sidecar")])
async def test_a_later_stream_than_the_one_that_was_silent_isnt_replaced(
    services: RunningCA, streams: int, expected: str
) -> None:
    seconds = SecondSidecars(
        store=services.store,
        hub=services.hub,
        survey=Survey(services.hub),
        metrics=services.metrics,
        clock=time.time,
    )
    tried: list[float | None] = []

    async def enter(replaces: float | None) -> str:
        tried.append(replaces)
        if len(tried) > streams:
            return "entered"
        raise SecondSidecarError("web-1", registered=float(len(tried)))

    try:
        result = await seconds.enter("web-1", enter, how="enrol", origin="127.0.0.1")
    except SecondSidecarError as error:
        result = error.reason
    assert result == expected
    assert tried == [None, 1.0, 2.0, 3.0][: len(tried)]


async def test_a_stream_elsewhere_whose_end_isnt_noted_yet_keeps_nobody_out(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks = services.store, 0
    async with FakeSidecar(services) as first:
        await join(first)
    await eventually(lambda: services.hub.get("web-1") is None)
    is_open_elsewhere = store.sidecars.is_open_elsewhere

    async def look(instance: str, *, now: float) -> bool:
        nonlocal looks
        looks += 1
        is_open = await is_open_elsewhere(instance, now=now)
        await note_elsewhere(services, connected=False)
        return is_open

    await note_elsewhere(services, connected=True)
    monkeypatch.setattr(type(store.sidecars), "is_open_elsewhere", staticmethod(look))
    async with FakeSidecar(services) as restarted:
        assert isinstance(await join(restarted), Welcome)
    assert looks > 1
    assert await list_noted(services) == []


async def note_elsewhere(services: RunningCA, *, connected: bool) -> None:
    """Note that the sidecar's stream is open with another replica, which is alive."""
    database = services.store.database
    async with database.writing() as connection:
        values = {"replica": "another", "seen": await database.read_clock(connection)}
        await connection.execute(database.upsert(replicas, values))
        await connection.execute(update(sidecars).values(connected=connected, replica="another"))


async def test_the_same_key_again_is_the_same_sidecar(services: RunningCA) -> None:
    async with FakeSidecar(services) as first, FakeSidecar(services) as again:
        token = await make_token(services, ADDRESS)
        await join(first, token=token)
        again.csr = first.csr
        async with first.answering():
            assert isinstance(await join(again, token=token), Welcome)
    assert await list_noted(services) == []


async def test_one_whose_certificate_has_ended_keeps_nobody_out(services: RunningCA, clock: ShiftedClock) -> None:
    async with FakeSidecar(services) as first, FakeSidecar(services) as second:
        await join(first)
        clock.shift_s += services.configuration.leaf_lifetime_s + 60
        async with first.answering():
            assert isinstance(await join(second), Welcome)
    assert await list_noted(services) == []


@pytest.mark.parametrize("is_newer_alive", [True, False])
async def test_an_older_key_that_comes_back_is_an_incident_while_the_newer_lives(
    services: RunningCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_newer_alive: bool
) -> None:
    async with FakeSidecar(services) as older:
        await join(older)
        pem = older.write_pem(tmp_path / "older.pem")
    await eventually(lambda: services.hub.get("web-1") is None)

    async def come_back() -> Refusal:
        async with FakeSidecar(services, make_client_context(services, pem)) as back:
            await back.send(Resume(registration=make_registration("web-1", ADDRESS)))
            refusal = await back.receive()
        assert isinstance(refusal, Refusal)
        return refusal

    async with FakeSidecar(services) as newer:
        await join(newer)
        if is_newer_alive:
            async with newer.answering():
                assert (await come_back()).code == "second_sidecar"
        else:
            monkeypatch.setattr(second_sidecar, "ANSWER_DEADLINE_S", 0.1)
            assert (await come_back()).code == "refused"
    assert await list_noted(services) == ([("web-1", 1, "127.0.0.1")] if is_newer_alive else [])


async def test_so_many_wait_for_one_names_turn_and_another_name_has_its_own() -> None:
    """Each held a message for as long as the one before it was asked, also when its sender had gone."""
    nothing = cast("Any", None)
    seconds = SecondSidecars(store=nothing, hub=nothing, survey=nothing, metrics=nothing, clock=time.time)
    begun, goes_on = asyncio.Semaphore(0), asyncio.Event()

    async def wait() -> None:
        begun.release()
        async with seconds.take_turn("web-1"):
            await goes_on.wait()

    tasks = [asyncio.create_task(wait()) for _ in range(second_sidecar.MAX_TAKING_TURNS)]
    for _ in tasks:
        await begun.acquire()
    with pytest.raises(UnavailableError, match="at once"):
        async with seconds.take_turn("web-1"):
            pass
    async with seconds.take_turn("db-1"):
        pass
    goes_on.set()
    await asyncio.gather(*tasks)
    async with seconds.take_turn("web-1"):
        pass
