"""Differences between clocks are told in one way everywhere."""

from __future__ import annotations

import pytest

from shared.model.wire.clock_offset import describe_offset, is_notable


def test_an_offset_is_told_as_ahead_or_behind() -> None:
    assert describe_offset("this machine's", -300.2) == "this machine's clock is 300 s behind the CA's"
    assert describe_offset("its", 7200) == "its clock is 7200 s ahead of the CA's"


@pytest.mark.parametrize(("offset_s", "said"), [(None, False), (9.9, False), (-10.0, True), (7200.0, True)])
def test_only_offsets_of_seconds_are_notable(offset_s: float | None, said: bool) -> None:
    assert is_notable(offset_s) is said
