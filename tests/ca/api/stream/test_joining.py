"""A stream's first message opens a session, or the sidecar is refused.

Pods' tokens: ``test_pods.py``.
"""

from __future__ import annotations

import msgspec
import pytest

from ca.api.stream.joining import Joining
from ca.api.stream.renewing import Renewing
from ca.api.stream.second_sidecar import SecondSidecars
from ca.authenticate.sidecar_certificate import CertificateAuthentication
from ca.distribution.live_connections import Survey
from ca.runtime.compose import RunningCA
from shared.model.errors import ProtocolError
from shared.model.wire import admin as api
from shared.model.wire.messages import (
    Enrol,
    Lookup,
    Refusal,
    Resume,
    Welcome,
)
from tests.ca.running import Admin, FakeSidecar, eventually, make_csr, make_registration, make_token


async def test_a_join_token_is_good_once(services: RunningCA) -> None:
    token = await make_token(services)
    for attempt, kind in ((1, Welcome), (2, Refusal)):
        _, csr = make_csr()
        async with FakeSidecar(services) as client:
            await client.send(Enrol(token=token, csr=csr, registration=make_registration(f"s{attempt}")))
            assert isinstance(await client.receive(), kind)


async def test_an_address_that_the_token_does_not_name_is_refused(services: RunningCA) -> None:
    _, csr = make_csr()
    async with FakeSidecar(services) as client:
        registration = make_registration("a", "198.18.0.9")
        await client.send(Enrol(token=await make_token(services, "198.18.0.2"), csr=csr, registration=registration))
        refusal = await client.receive()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "refused"


async def test_resume_without_a_certificate_is_refused(services: RunningCA) -> None:
    async with FakeSidecar(services) as client:
        await client.send(Resume(registration=make_registration("a")))
        assert isinstance(await client.receive(), Refusal)


async def test_nothing_but_enrolment_and_resumption_opens_a_session(services: RunningCA) -> None:
    seconds = SecondSidecars(
        store=services.store,
        hub=services.hub,
        survey=Survey(services.hub),
        metrics=services.metrics,
        clock=services.clock,
    )
    joining = Joining(
        store=services.store,
        authorities=services.authorities,
        certificates=CertificateAuthentication(store=services.store, authorities=services.authorities),
        seconds=seconds,
        renewing=Renewing(
            store=services.store,
            authorities=services.authorities,
            seconds=seconds,
            hub=services.hub,
            grace_s=60,
            clock=services.clock,
        ),
        issuance=services.issuance,
        rotation=services.rotation,
        hub=services.hub,
        foreign=services.foreign,
        cluster=services.cluster,
        metrics=services.metrics,
        clock=services.clock,
    )
    for message, words in ((None, "ended before"), (Lookup(address="198.18.0.2"), "must be enrol or resume")):
        with pytest.raises(ProtocolError, match=words):
            await joining.open(message, None, protocol=2, origin="127.0.0.1")
    assert len(services.hub) == 0


@pytest.mark.parametrize(("code", "is_free"), [(1001, True), (1000, False)])
async def test_a_sidecar_that_says_that_it_stops_gives_its_address_back(
    services: RunningCA, code: int, is_free: bool
) -> None:
    async with FakeSidecar(services) as first:
        await first.enrol("web-1", "198.18.0.2")
        await first.stream.close(code)

    async def is_noted() -> bool:
        record = await services.store.sidecars.get("web-1")
        return record is not None and not record.connected

    await eventually(is_noted)
    _, csr = make_csr()
    async with FakeSidecar(services) as second:
        token = await make_token(services, "198.18.0.2", workload="shop/db")
        await second.send(Enrol(token=token, csr=csr, registration=make_registration("db-1", "198.18.0.2")))
        answer = await second.receive()
        assert isinstance(answer, Refusal) is not is_free
        assert services.hub.directory.get("198.18.0.2").service_account == ("db" if is_free else "web")


@pytest.mark.parametrize("ahead_s", [-300.0, 0.0, 7200.0])
async def test_how_far_a_sidecars_clock_is_off_is_measured_and_listed(
    services: RunningCA, admin: Admin, ahead_s: float
) -> None:
    _, csr = make_csr()
    time_ms = int((services.clock() + ahead_s) * 1000)
    registration = msgspec.structs.replace(make_registration("a"), time_ms=time_ms)
    async with FakeSidecar(services) as client:
        await client.send(Enrol(token=await make_token(services), csr=csr, registration=registration))
        assert isinstance(await client.receive(), Welcome)
        (seen,) = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
        assert seen.clock_offset_s is not None
        # What passes between sending and receiving counts as behind.
        assert ahead_s - 60 < seen.clock_offset_s <= ahead_s


async def test_a_sidecar_that_doesnt_say_its_time_has_no_known_offset(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        (seen,) = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
        assert seen.clock_offset_s is None
