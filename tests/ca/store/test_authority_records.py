"""Authorities change by compare-and-swap along the table of transitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.authority.founding import make_issuer, make_root
from ca.store.authority_records import PhaseChange
from ca.store.records import RotationStep
from shared.model.errors import ConflictError
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN, WEB, opened


def test_there_is_no_way_back_from_retirement() -> None:
    with pytest.raises(ValueError, match="no authority"):
        PhaseChange(authority_id="a", before=AuthorityPhase.RETIRED, after=AuthorityPhase.ACTIVE)


async def test_only_one_rotation_is_under_way_and_a_step_is_taken_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        root, active = core.authorities.snapshot.root, core.authorities.active
        issuers = [
            make_issuer(TRUST_DOMAIN, root, KEK, phase=AuthorityPhase.PREPARED, now=NOW).record for _ in range(2)
        ]
        rotation = await core.store.authorities.begin_rotation(
            issuers[0], previous_id=active.authority_id, forced=False, now=NOW
        )
        sequence = await core.store.authorities.get_sequence()
        with pytest.raises(ConflictError):
            await core.store.authorities.begin_rotation(
                issuers[1], previous_id=active.authority_id, forced=False, now=NOW
            )
        drop = [
            PhaseChange(
                authority_id=issuers[0].authority_id, before=AuthorityPhase.PREPARED, after=AuthorityPhase.RETIRED
            )
        ]
        await core.store.authorities.change_rotation(rotation, step=RotationStep.REVERTED, phases=drop, now=NOW)
        with pytest.raises(ConflictError):
            await core.store.authorities.change_rotation(rotation, step=RotationStep.REVERTED, phases=drop, now=NOW)
        # What failed left no trace: neither a sequence nor an authority.
        assert await core.store.authorities.get_sequence() == sequence + 1
        assert len(await core.store.authorities.list_all()) == 3


async def test_a_root_comes_with_its_issuer_and_is_published_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        root = make_root(TRUST_DOMAIN, KEK, phase=AuthorityPhase.PREPARED, now=NOW)
        issuer = make_issuer(TRUST_DOMAIN, root, KEK, phase=AuthorityPhase.PREPARED, now=NOW)
        previous = core.authorities.active.authority_id
        rotation = await core.store.authorities.begin_rotation(
            issuer.record, root=root.record, previous_id=previous, forced=False, now=NOW
        )
        assert (rotation.kind, rotation.published) == (RotationKind.ROOT, None)
        await core.store.authorities.mark_published(rotation, now=NOW + 1)
        with pytest.raises(ConflictError):
            await core.store.authorities.mark_published(rotation, now=NOW + 2)
        found = await core.store.authorities.get_rotation()
        assert found is not None and found.published == NOW + 1
        assert [e.event for e in await core.store.authorities.list_journal()][:3] == [
            "published",
            "prepared",
            "prepared",
        ]


async def test_a_root_is_not_retired_while_an_issuer_is_below_it_or_an_open_token_pins_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        root, issuer = core.authorities.snapshot.root.authority_id, core.authorities.active.authority_id
        active, old, retired = AuthorityPhase.ACTIVE, AuthorityPhase.OLD, AuthorityPhase.RETIRED
        make = core.store.join_tokens.create
        await make(workload=WEB, addresses=(), labels={}, expires=NOW + 60, now=NOW)

        async def change(authority_id: str, before: AuthorityPhase, after: AuthorityPhase, now: float = NOW) -> None:
            step = PhaseChange(authority_id=authority_id, before=before, after=after)
            await core.store.authorities.change_phases([step], now=now, event="test")

        for each in (root, issuer):
            await change(each, active, old)
        with pytest.raises(ConflictError, match="below it"):
            await change(root, old, retired)
        await change(issuer, old, retired)
        with pytest.raises(ConflictError, match="join tokens"):
            await change(root, old, retired)
        # What is left has no active root: a token pins none.
        lost, _ = await make(workload=WEB, addresses=(), labels={}, expires=NOW + 600, now=NOW)
        assert lost.root_pin == ""
        await change(root, old, retired, NOW + 61)
