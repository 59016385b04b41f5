"""Failed dials: remembered by program, for a while, and bounded."""

from __future__ import annotations

import errno

from sidecar.sockets.dial import DialError
from sidecar.tunnel.dial_failures import MAX_REMEMBERED, DialFailures, is_about_address

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
    failures.note_answer(ADDRESS, now=1)
    failures.note_answer(ADDRESS, now=1)
    assert not failures.is_recent(ADDRESS, now=1)


def test_a_failure_counts_for_its_program_and_port_alone() -> None:
    failures = DialFailures(memory_s=5)
    failures.note(ADDRESS, program="one", now=0)
    failures.note(ADDRESS, program="two", port=80, now=0)
    assert failures.is_recent(ADDRESS, program="one", now=1)
    assert failures.is_recent(ADDRESS, program="two", port=80, now=1)
    for program, port in (("", 0), ("one", 80), ("two", 0), ("two", 443)):
        assert not failures.is_recent(ADDRESS, program=program, port=port, now=1)


def test_an_answer_outweighs_a_dial_that_began_before_it() -> None:
    failures = DialFailures(memory_s=5)
    failures.note_answer(ADDRESS, now=5)
    failures.note(ADDRESS, began=0, now=10)
    assert not failures.is_recent(ADDRESS, now=10)
    failures.note(ADDRESS, began=6, now=16)
    assert failures.is_recent(ADDRESS, now=16)


def test_what_this_machine_ran_out_of_says_nothing_of_the_address() -> None:
    assert is_about_address(DialError(errno.ECONNREFUSED, "refused"))
    assert is_about_address(DialError(errno.ETIMEDOUT, "no answer in time"))
    assert not is_about_address(DialError(errno.EMFILE, "too many open files"))
    assert not is_about_address(DialError(errno.EADDRNOTAVAIL, "no port is left"))


def test_beyond_the_bound_the_oldest_is_forgotten() -> None:
    failures = DialFailures(memory_s=5)
    failures.note(ADDRESS, now=0)
    for port in range(MAX_REMEMBERED):
        failures.note(("198.18.0.4", port), now=0)
    assert not failures.is_recent(ADDRESS, now=1)
    assert len(failures) == MAX_REMEMBERED
    failures.note_answer(ADDRESS, now=5)
    for port in range(MAX_REMEMBERED):
        failures.note_answer(("198.18.0.4", port), now=0)
    failures.note(ADDRESS, began=0, now=10)
    assert failures.is_recent(ADDRESS, now=10)
