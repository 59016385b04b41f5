"""What waits for a sidecar is bounded, and of a state only the newest waits."""

from __future__ import annotations

import pytest

from ca.distribution.outbox import Outbox, OutboxFullError


def drain(outbox: Outbox) -> list[bytes]:
    return [outbox.take() for _ in range(len(outbox))]


def test_messages_leave_in_their_order() -> None:
    outbox = Outbox()
    for data in (b"1", b"2", b"3"):
        outbox.put(data)
    assert drain(outbox) == [b"1", b"2", b"3"]


def test_a_newer_state_takes_the_place_of_the_one_that_waits() -> None:
    outbox = Outbox(max_messages=2)
    outbox.put(b"old", key=("namespace", "shop"))
    outbox.put(b"answer")
    for number in range(100):
        outbox.put(b"state %d" % number, key=("namespace", "shop"))
    assert drain(outbox) == [b"state 99", b"answer"]


def test_too_many_messages_are_refused_and_those_that_wait_stay() -> None:
    outbox = Outbox(max_messages=2)
    outbox.put(b"1")
    outbox.put(b"2")
    with pytest.raises(OutboxFullError):
        outbox.put(b"3")
    with pytest.raises(OutboxFullError):
        outbox.put(b"3", key="new")
    assert drain(outbox) == [b"1", b"2"]
    outbox.put(b"4")
    assert len(outbox) == 1


def test_too_many_bytes_are_refused_also_by_replacement() -> None:
    outbox = Outbox(max_bytes=10)
    outbox.put(b"12345", key="a")
    outbox.put(b"12345", key="b")
    with pytest.raises(OutboxFullError):
        outbox.put(b"1")
    with pytest.raises(OutboxFullError):
        outbox.put(b"123456", key="a")
    outbox.put(b"1", key="a")
    outbox.put(b"1234")
    assert drain(outbox) == [b"1", b"12345", b"1234"]


def test_what_was_sent_no_longer_counts() -> None:
    outbox = Outbox(max_bytes=10, max_messages=1)
    for _ in range(50):
        outbox.put(b"1234567890")
        assert outbox.take() == b"1234567890"


def test_one_message_always_fits() -> None:
    outbox = Outbox(max_bytes=10)
    outbox.put(b"x" * 1000)
    assert drain(outbox) == [b"x" * 1000]


def test_who_sends_is_told_of_each_message_that_is_queued() -> None:
    outbox, told = Outbox(max_messages=2), list[int]()
    outbox.put(b"before")
    outbox.on_put = lambda: told.append(len(outbox))
    outbox.put(b"1")
    with pytest.raises(OutboxFullError):
        outbox.put(b"2")
    assert told == [2]
    assert [outbox.take(), outbox.take()] == [b"before", b"1"]
    with pytest.raises(LookupError):
        outbox.take()
