"""How long an address counts as one of a name's."""

from __future__ import annotations

from sidecar.hostnames.known import GRACE_S, KEPT_S, MAX_ADDRESSES, MAX_TTL_S, KnownName
from sidecar.hostnames.resolver import Resolved

ONE, OTHER = "192.0.2.7", "192.0.2.8"
FAILED = Resolved(failures={4: "no answer in time", 6: "no answer in time"})


def answer(*addresses: str, ttl_s: int = 30) -> Resolved:
    return Resolved(addresses=addresses, ttl_s=ttl_s)


def test_a_name_that_was_never_answered_has_no_address() -> None:
    known = KnownName()
    assert not known.holds(ONE, 0)
    known.take(FAILED, 0)
    assert not known.holds(ONE, 0)
    assert known.failures == {4: "no answer in time", 6: "no answer in time"}


def test_an_address_counts_for_a_while_after_the_last_answer_that_had_it() -> None:
    known = KnownName()
    known.take(answer(ONE), 0)
    known.take(answer(OTHER), 100)
    assert known.holds(ONE, KEPT_S - 1)
    assert known.holds(OTHER, KEPT_S + 1)
    assert not known.holds(ONE, KEPT_S)
    known.take(answer(ONE), 200)
    assert known.holds(ONE, KEPT_S + 100)


def test_a_long_ttl_counts_but_not_without_end() -> None:
    known = KnownName()
    known.take(answer(ONE, ttl_s=1000), 0)
    assert known.holds(ONE, 999)
    assert not known.holds(ONE, 1000)
    known.take(answer(ONE, ttl_s=10**9), 0)
    assert not known.holds(ONE, MAX_TTL_S)


def test_while_nameservers_fail_the_last_answer_counts_and_not_without_end() -> None:
    known = KnownName()
    known.take(answer(ONE), 0)
    known.take(FAILED, 200)
    assert known.holds(ONE, GRACE_S - 1)
    known.take(FAILED, GRACE_S - 1)
    assert known.holds(ONE, GRACE_S - 1)
    assert not known.holds(ONE, GRACE_S)
    known.take(FAILED, GRACE_S)
    assert not known.holds(ONE, 0)


def test_an_answer_without_addresses_isnt_a_failure() -> None:
    known = KnownName()
    known.take(answer(ONE), 0)
    known.take(FAILED, 100)
    known.take(answer(), 400)
    assert not known.holds(ONE, 400)
    assert not known.failures


def test_one_kind_that_always_fails_doesnt_keep_the_others_addresses() -> None:
    known = KnownName()
    half = Resolved(addresses=(ONE,), ttl_s=30, failures={6: "it answers SERVFAIL"})
    known.take(half, 0)
    assert known.holds(ONE, KEPT_S - 1)
    assert not known.holds(ONE, KEPT_S)


def test_a_failure_of_one_kind_prolongs_no_address_of_the_other() -> None:
    known = KnownName()
    known.take(answer(ONE, "2001:db8::7"), 0)
    known.take(Resolved(addresses=(OTHER,), ttl_s=30, failures={6: "it answers SERVFAIL"}), 200)
    assert not known.holds(ONE, KEPT_S), "the nameservers have said since that it has gone"
    assert known.holds("2001:db8::7", GRACE_S - 1)
    known.take(FAILED, 400)
    assert known.holds(OTHER, 200 + GRACE_S - 1), "one kind was never answered again, this one was"
    assert not known.holds(OTHER, 200 + GRACE_S)
    assert not known.holds("2001:db8::7", GRACE_S)


def test_no_name_has_more_addresses_than_are_kept_and_the_newest_are() -> None:
    known = KnownName()
    many = [f"198.18.{number // 200}.{number % 200}" for number in range(3 * MAX_ADDRESSES)]
    for first in range(0, len(many), 10):
        known.take(answer(*many[first : first + 10]), first)
    held = [address for address in many if known.holds(address, len(many))]
    assert held == many[-MAX_ADDRESSES:]


def test_it_says_how_often_it_failed_in_a_row_and_whether_there_was_nothing() -> None:
    known = KnownName()
    for _ in range(100):
        known.take(FAILED, 0)
    assert (known.failed_in_a_row, known.found_nothing) == (16, False)
    known.take(answer(), 0)
    assert (known.failed_in_a_row, known.found_nothing) == (0, True)
    known.take(answer(ONE), 0)
    assert not known.found_nothing
    known.take(FAILED, 0)
    assert known.failed_in_a_row == 1
