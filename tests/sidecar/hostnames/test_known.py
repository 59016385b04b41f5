"""How long an address counts as one of a name's."""

from __future__ import annotations

from sidecar.hostnames.known import GRACE_S, KEPT_S, MAX_ADDRESSES, MAX_TTL_S, KnownName, version_of
from sidecar.hostnames.resolver import VERSIONS, Resolved

ONE, OTHER = "192.0.2.7", "192.0.2.8"
NONE = "no answer in time"


def take(known: KnownName, now: float, *addresses: str, ttl_s: int = 30, failed: tuple[int, ...] = ()) -> None:
    """Take answers of both kinds, or failures."""
    for version in VERSIONS:
        of_it = tuple(address for address in addresses if version_of(address) == version)
        known.take(
            Resolved(version=version, failure=NONE)
            if version in failed
            else Resolved(version=version, addresses=of_it, ttl_s=ttl_s),
            now,
        )


def test_a_name_that_was_never_answered_has_no_address() -> None:
    known = KnownName()
    assert not known.holds(ONE, 0)
    take(known, 0, failed=VERSIONS)
    assert not known.holds(ONE, 0)
    assert known.failures == {4: NONE, 6: NONE}


def test_an_address_counts_for_a_while_after_the_last_answer_that_had_it() -> None:
    known = KnownName()
    take(known, 0, ONE)
    take(known, 100, OTHER)
    assert known.holds(ONE, KEPT_S - 1)
    assert known.holds(OTHER, KEPT_S + 1)
    assert not known.holds(ONE, KEPT_S)
    take(known, 200, ONE)
    assert known.holds(ONE, KEPT_S + 100)


def test_a_long_ttl_counts_but_not_without_end() -> None:
    known = KnownName()
    take(known, 0, ONE, ttl_s=1000)
    assert known.holds(ONE, 999)
    assert not known.holds(ONE, 1000)
    take(known, 0, ONE, ttl_s=10**9)
    assert not known.holds(ONE, MAX_TTL_S)


def test_while_nameservers_fail_the_last_answer_counts_and_not_without_end() -> None:
    known = KnownName()
    take(known, 0, ONE)
    take(known, 200, failed=VERSIONS)
    assert known.holds(ONE, GRACE_S - 1)
    take(known, GRACE_S - 1, failed=VERSIONS)
    assert known.holds(ONE, GRACE_S - 1)
    assert not known.holds(ONE, GRACE_S)
    take(known, GRACE_S, failed=VERSIONS)
    assert not known.holds(ONE, 0)


def test_an_answer_without_addresses_isnt_a_failure() -> None:
    known = KnownName()
    take(known, 0, ONE)
    take(known, 100, failed=VERSIONS)
    take(known, 400)
    assert not known.holds(ONE, 400)
    assert not known.failures


def test_one_kind_that_always_fails_doesnt_keep_the_others_addresses() -> None:
    known = KnownName()
    take(known, 0, ONE, failed=(6,))
    assert known.holds(ONE, KEPT_S - 1)
    assert not known.holds(ONE, KEPT_S)


def test_a_failure_of_one_kind_prolongs_no_address_of_the_other() -> None:
    known = KnownName()
    take(known, 0, ONE, "2001:db8::7")
    take(known, 200, OTHER, failed=(6,))
    assert not known.holds(ONE, KEPT_S), "the nameservers have said since that it has gone"
    assert known.holds("2001:db8::7", GRACE_S - 1)
    take(known, 400, failed=VERSIONS)
    assert known.holds(OTHER, 200 + GRACE_S - 1), "one kind was never answered again, this one was"
    assert not known.holds(OTHER, 200 + GRACE_S)
    assert not known.holds("2001:db8::7", GRACE_S)


def test_no_name_has_more_addresses_than_are_kept_and_the_newest_are() -> None:
    known = KnownName()
    many = [f"198.18.{number // 200}.{number % 200}" for number in range(3 * MAX_ADDRESSES)]
    for first in range(0, len(many), 10):
        take(known, first, *many[first : first + 10])
    held = [address for address in many if known.holds(address, len(many))]
    assert held == many[-MAX_ADDRESSES:]


def test_it_says_how_often_it_failed_in_a_row_and_whether_there_was_nothing() -> None:
    known = KnownName()
    for _ in range(100):
        take(known, 0, failed=VERSIONS)
    assert (known.count_failures(4), known.found_nothing) == (16, False)
    take(known, 0)
    assert (known.count_failures(4), known.found_nothing) == (0, True)
    take(known, 0, ONE)
    assert not known.found_nothing
    take(known, 0, failed=VERSIONS)
    assert known.count_failures(4) == 1


def test_each_kind_is_known_by_its_own_answers() -> None:
    known = KnownName()
    assert not known.was_asked(4)
    known.take(Resolved(version=4, addresses=(ONE,), ttl_s=30), 0)
    assert known.holds(ONE, 1), "whatever becomes of the other kind"
    assert known.was_asked(4) and not known.was_asked(6) and not known.found_nothing
    known.take(Resolved(version=6, failure=NONE), 5)
    assert (known.was_asked(6), known.failures, known.count_failures(4), known.count_failures(6)) == (
        True, {6: NONE}, 0, 1
    )  # fmt: skip
    many = tuple(f"2001:db8::{number:x}" for number in range(2 * MAX_ADDRESSES))
    known.take(Resolved(version=6, addresses=many, ttl_s=30), 6)
    assert known.holds(ONE, 7) and sum(known.holds(each, 7) for each in many) == MAX_ADDRESSES
