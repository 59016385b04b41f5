"""A second sidecar under the name of one that lives is refused, and told of; one that was restarted isn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.api.stream import second_sidecar
from ca.runtime.compose import RunningCA
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
