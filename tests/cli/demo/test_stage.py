"""What a stage is: the packet watch and both kinds of stage agree on the names of the legs."""

from __future__ import annotations

import dataclasses

import pytest

from cli.demo.listeners import build_listeners
from cli.demo.packets import Leg, PacketWatch
from cli.demo.stage import BESIDE, BETWEEN, Place, Stage


def test_the_legs_have_names_of_their_own_that_the_watch_tells_apart() -> None:
    legs = {BESIDE: Leg(name=BESIDE, packets=1, hits=1), BETWEEN: Leg(name=BETWEEN, packets=1, hits=0)}
    assert PacketWatch((), b"marker", legs).find_plaintext(beside=BESIDE, between=BETWEEN) is False


def test_a_stage_names_all_parties_and_only_those_with_a_sidecar_have_an_address() -> None:
    stage = build_listeners()
    assert isinstance(stage, Stage)
    assert (bool(stage.web.address), bool(stage.client.address)) == (True, True)
    assert (stage.ca, stage.outsider) == (Place(), Place())


def test_a_stage_can_t_be_changed_in_mid_story() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_listeners().capture = "redirect"  # type: ignore[misc]  # That is what the test is about.
