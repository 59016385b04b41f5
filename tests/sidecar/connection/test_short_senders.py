"""Which ports are remembered, for how long, and how many."""

from __future__ import annotations

from sidecar.connection.short_senders import MAX_PORTS, REMEMBERED_S, ShortSenders


def test_a_port_is_remembered_for_a_day_since_it_was_noted_last() -> None:
    now = 100.0
    senders = ShortSenders(lambda: now)
    assert senders.find_end() is None
    senders.note(514)
    now += REMEMBERED_S - 1
    assert (senders.is_dialled(514), senders.is_dialled(515), senders.find_end()) == (True, False, 1.0)
    senders.note(514)
    now += REMEMBERED_S - 1
    assert senders.is_dialled(514)
    now += 2
    assert not senders.is_dialled(514)
    assert senders.find_end() is None


def test_ports_are_bounded_and_the_oldest_goes() -> None:
    senders = ShortSenders(lambda: 1.0)
    for port in range(1, MAX_PORTS + 1):
        senders.note(port)
    senders.note(1)
    senders.note(60_000)
    assert senders.is_dialled(1) and senders.is_dialled(60_000) and not senders.is_dialled(2)
    assert sum(senders.is_dialled(port) for port in range(65_536)) == MAX_PORTS


def test_who_wants_to_know_is_told_each_time() -> None:
    told: list[int] = []
    senders = ShortSenders()
    senders.note(1)
    senders.on_note(lambda: told.append(1))
    senders.note(1)
    senders.note(2)
    senders.on_note(None)
    senders.note(3)
    assert len(told) == 2
