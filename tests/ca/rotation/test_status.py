"""What people are shown of a rotation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ca.authority.published_roots import NotPublished
from ca.rotation.gates import ActivationGate, Pace
from ca.rotation.status import read_status
from ca.store.records import RotationStep
from tests.ca.founded import NOW, join, opened
from tests.ca.rotation.making import ROTATION


class Unpublished(NotPublished):
    """A place that lacks every root."""

    def list_lacking(self, _root: bytes) -> tuple[str, ...]:
        return ("anything",)


async def test_a_finished_rotation_waits_for_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "web-1")
        active = core.authorities.active.authority_id
        done = replace(ROTATION, step=RotationStep.RETIRED, issuer_id=active, previous_id=active, sequence=9)
        pace = Pace(minimum_s=0, settling_s=0, delivery_s=0)
        gate = ActivationGate(core.store, published=Unpublished(), pace=pace)
        assert [each.instance for each in await gate.find_laggards(done, NOW)] == ["web-1"]
        status = await read_status(core.store, done, activation=gate, now=NOW)
        assert (status.waiting_for, status.unpublished, status.tokens, status.is_reversible) == ((), (), (), False)
