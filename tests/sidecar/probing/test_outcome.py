"""What comes of a probe, as the kubelet takes it."""

from __future__ import annotations

import pytest

from sidecar.probing.outcome import Outcome, fail


@pytest.mark.parametrize(("status", "is_success"), [(200, True), (399, True), (199, False), (400, False), (503, False)])
def test_two_hundred_to_three_hundred_ninety_nine_is_success(status: int, is_success: bool) -> None:
    assert Outcome(status=status).is_success is is_success


def test_what_nobody_answered_is_our_own_word() -> None:
    outcome = fail("nobody is there ✗")
    assert (outcome.status, outcome.has_answer, outcome.body.decode()) == (502, False, "nobody is there ✗")
