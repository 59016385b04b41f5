"""Rotations for the tests of their gates, sides and status."""

from __future__ import annotations

from ca.store.records import RotationRecord, RotationStep
from tests.ca.founded import NOW

ROTATION = RotationRecord(
    rotation_id=1,
    step=RotationStep.PREPARED,
    issuer_id="i2",
    previous_id="i1",
    sequence=2,
    forced=False,
    started=NOW,
    changed=NOW,
)
