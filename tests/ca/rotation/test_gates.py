"""When a rotation may activate, and what it replaced may retire.

The same through the steps: ``test_rotation.py`` and ``test_rotation_root.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ca.authority.published_roots import NotPublished
from ca.rotation.gates import ActivationGate, Pace
from shared.model.trust.bundle import RotationKind
from tests.ca.founded import NOW, join, opened
from tests.ca.rotation.making import ROTATION


@pytest.mark.parametrize(
    ("kind", "published", "ready_at"),
    [
        (RotationKind.ISSUER, None, NOW + 10),
        (RotationKind.ROOT, None, None),
        (RotationKind.ROOT, NOW, NOW + 60),
        (RotationKind.ROOT, NOW + 30, NOW + 90),
    ],
)
def test_the_earliest_activation(kind: RotationKind, published: float | None, ready_at: float | None) -> None:
    pace = Pace(minimum_s=10, settling_s=5, delivery_s=60)
    assert pace.find_ready_at(replace(ROTATION, kind=kind, published=published)) == ready_at


def test_a_root_settles_although_nothing_is_published_anywhere() -> None:
    rotation = replace(ROTATION, kind=RotationKind.ROOT, published=NOW)
    assert Pace(minimum_s=0, settling_s=5, delivery_s=0).find_ready_at(rotation) == NOW + 5


async def test_each_live_sidecar_and_the_minimum_wait_hold_an_activation(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        pace = Pace(minimum_s=10, settling_s=0, delivery_s=0)
        gate = ActivationGate(core.store, published=NotPublished(), pace=pace)
        await join(core, "web-1")
        active = core.authorities.active.authority_id
        rotation = replace(ROTATION, sequence=core.authorities.bundle().sequence, issuer_id=active, previous_id=active)
        assert [each.instance for each in await gate.find_laggards(rotation, NOW)] == ["web-1"]
        assert not await gate.may_activate(rotation, NOW + 10)
        await core.store.sidecars.mark_bundle_installed("web-1", rotation.sequence)
        assert not await gate.may_activate(rotation, NOW + 9)
        assert await gate.may_activate(rotation, NOW + 10)


def test_no_gate_has_a_default_that_opens_it() -> None:
    for arguments in ({}, {"published": NotPublished()}, {"pace": Pace(minimum_s=0, settling_s=0, delivery_s=0)}):
        with pytest.raises(TypeError, match="required"):
            ActivationGate(None, **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="required"):
        Pace(minimum_s=0, settling_s=0)  # type: ignore[call-arg]
