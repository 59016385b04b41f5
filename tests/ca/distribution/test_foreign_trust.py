"""What sidecars are told of other trust domains: at their welcome, and after each change."""

from __future__ import annotations

from pathlib import Path

from ca.distribution.foreign_trust import ForeignTrust
from ca.runtime.compose import RunningCA
from shared.model.identity.foreign import ForeignDomain
from shared.model.wire.messages import ForeignTrustChanged, Reissue
from tests.ca.founded import NOW, opened
from tests.ca.running import FakeSidecar, running_ca
from tests.sidecar.partner import Partner

PARTNER, OTHER = Partner().roots, Partner(domain="other.example").roots


async def test_a_change_is_told_once_and_what_another_replica_changed_by_a_reload(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        told: list[tuple[ForeignDomain, ...]] = []
        here = await ForeignTrust.open(core.store, on_change=lambda _domains: None)
        there = await ForeignTrust.open(other.store, on_change=told.append)
        await here.put(PARTNER, now=NOW)
        await here.put(PARTNER, now=NOW + 1)
        assert (here.domains, there.domains) == ((PARTNER,), ())
        await there.reload()
        await there.reload()
        await there.put(OTHER, now=NOW)
        await there.remove("partner.example")
        assert told == [(PARTNER,), (OTHER, PARTNER), (OTHER,)]


async def test_sidecars_are_told_at_their_welcome_and_when_it_changes(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services, FakeSidecar(services) as early:
        assert (await early.enrol("a")).foreign == ()
        await services.foreign.put(PARTNER, now=services.clock())
        assert (await early.expect(ForeignTrustChanged)).domains == (PARTNER,)
        async with FakeSidecar(services) as late:
            assert (await late.enrol("b")).foreign == (PARTNER,)
            await services.foreign.remove("partner.example")
            assert (await late.expect(ForeignTrustChanged)).domains == ()
            assert (await early.expect(ForeignTrustChanged)).domains == ()
    async with running_ca(tmp_path) as services:
        await _tells_an_old_sidecar_nothing(services)


async def _tells_an_old_sidecar_nothing(services: RunningCA) -> None:
    await services.foreign.put(PARTNER, now=services.clock())
    async with FakeSidecar(services, protocols=()) as old:
        assert (await old.enrol("c")).foreign == ()
        await services.foreign.put(OTHER, now=services.clock())
        services.hub.publish_reissue()
        assert await old.receive() == Reissue(spread_s=1.0)
