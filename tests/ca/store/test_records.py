"""Records: grants, and when a rotation is over."""

from __future__ import annotations

from ca.store.records import FINISHED_STEPS, RotationStep, SidecarRecord
from tests.ca.founded import WEB


def test_a_sidecars_grant_is_what_it_joined_with_not_what_it_registered() -> None:
    record = SidecarRecord(instance="one", workload=WEB, allowed_addresses=("198.18.0.2", "198.18.0.3"), addresses=())
    assert record.grant.addresses == ("198.18.0.2", "198.18.0.3")


def test_a_rotation_is_under_way_until_it_is_retired_or_reverted() -> None:
    assert set(RotationStep) - FINISHED_STEPS == {RotationStep.PREPARED, RotationStep.ACTIVE}
