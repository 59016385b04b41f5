"""Readiness: joined, accepting, not draining, with a certificate that holds; and why not."""

from __future__ import annotations

from typing import Any, cast

from sidecar.probing.life import Life
from sidecar.probing.readiness import Readiness


def test_each_stage_says_why_it_is_not_ready() -> None:
    fault, expired = [""], [False]
    life = Life()
    readiness = Readiness(life, find_fault=lambda: fault[0])
    assert readiness.judge().body == b"not joined yet: waiting for the CA\n"
    fault[0] = "the CA refuses this sidecar"
    assert (readiness.judge().status, b"refuses this sidecar" in readiness.judge().body) == (503, True)
    life.begin_serving(cast("Any", None), has_expired=lambda: expired[0])
    assert readiness.judge().status == 200  # A CA that is away changes nothing.
    expired[0] = True
    assert (readiness.judge().status, b"certificate has ended" in readiness.judge().body) == (503, True)
    life.begin_draining()
    assert (readiness.judge().status, readiness.judge().body) == (503, b"draining\n")
