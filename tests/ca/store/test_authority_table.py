"""Authorities change by compare-and-swap along the table of transitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.authority.founding import make_issuer
from ca.store.authority_table import PhaseChange
from ca.store.records import RotationStep
from shared.model.errors import ConflictError
from shared.model.trust import AuthorityPhase
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN, opened


def test_there_is_no_way_back_from_retirement() -> None:
    with pytest.raises(ValueError, match="no authority"):
        PhaseChange(authority_id="a", before=AuthorityPhase.RETIRED, after=AuthorityPhase.ACTIVE)


async def test_only_one_rotation_is_under_way_and_a_step_is_taken_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        root, active = core.authorities.snapshot.root, core.authorities.active
        issuers = [
            make_issuer(TRUST_DOMAIN, root, KEK, phase=AuthorityPhase.PREPARED, now=NOW).record for _ in range(2)
        ]
        rotation = await core.store.begin_rotation(issuers[0], previous_id=active.authority_id, forced=False, now=NOW)
        sequence = await core.store.get_bundle_sequence()
        with pytest.raises(ConflictError):
            await core.store.begin_rotation(issuers[1], previous_id=active.authority_id, forced=False, now=NOW)
        drop = [
            PhaseChange(
                authority_id=issuers[0].authority_id, before=AuthorityPhase.PREPARED, after=AuthorityPhase.RETIRED
            )
        ]
        await core.store.change_rotation(rotation, step=RotationStep.REVERTED, phases=drop, now=NOW)
        with pytest.raises(ConflictError):
            await core.store.change_rotation(rotation, step=RotationStep.REVERTED, phases=drop, now=NOW)
        # What failed left no trace: neither a sequence nor an authority.
        assert await core.store.get_bundle_sequence() == sequence + 1
        assert len(await core.store.list_authorities()) == 3
