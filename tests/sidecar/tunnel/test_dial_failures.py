"""Failed dials: remembered for a while, and bounded."""

from __future__ import annotations

from sidecar.tunnel.dial_failures import MAX_REMEMBERED, DialFailures

ADDRESS = ("198.18.0.2", 15008)


def test_a_failure_is_remembered_for_a_while() -> None:
    failures = DialFailures(memory_s=5)
    failures.note(ADDRESS, now=0)
    assert failures.is_recent(ADDRESS, now=4.9)
    assert not failures.is_recent(ADDRESS, now=5)
    failures.reap(now=4.9)
    assert len(failures) == 1
    failures.reap(now=5)
    assert len(failures) == 0


def test_an_address_that_answers_again_is_forgotten() -> None:
    failures = DialFailures(memory_s=5)
    failures.note(ADDRESS, now=0)
    failures.forget(ADDRESS)
    failures.forget(ADDRESS)
    assert not failures.is_recent(ADDRESS, now=1)


def test_beyond_the_bound_the_oldest_is_forgotten() -> None:
    failures = DialFailures(memory_s=5)
    failures.note(ADDRESS, now=0)
    for port in range(MAX_REMEMBERED):
        failures.note(("198.18.0.4", port), now=0)
    assert not failures.is_recent(ADDRESS, now=1)
    assert len(failures) == MAX_REMEMBERED
