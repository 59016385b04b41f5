"""The rooms: nobody takes another class's places, nor all of its own; idle tunnels make room."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.rooms import PeerRoom, Place, Room, group_address, make_rooms


@dataclass(eq=False)
class Idle:
    """A tunnel that waits."""

    is_waiting: bool = True

    def expire(self) -> None:
        self.is_waiting = False


def take(place: Place | None) -> Place:
    assert place is not None
    return place


def test_one_address_gets_every_place_but_the_reserve_which_is_for_those_that_hold_few() -> None:
    room = Room(128)
    places = [take(room.enter("198.18.0.1")) for _ in range(128)]
    assert room.enter("198.18.0.1") is None
    assert not room.has_place("198.18.0.1")
    others = [take(room.enter(f"198.18.1.{number}")) for number in range(16)]
    assert room.enter("198.18.2.1") is None
    assert len(room) == 144
    for place in (*places, *others, *places):
        place.leave()  # The second time nothing happens.
    assert len(room) == 0


def test_a_class_that_is_full_leaves_the_others_their_places() -> None:
    rooms = make_rooms(8)
    while rooms.strangers.enter("198.18.0.1"):
        pass
    while rooms.peers.enter("198.18.0.2"):
        pass
    assert (len(rooms.strangers), len(rooms.peers)) == (8, 8)
    with take(rooms.outbound.enter("")):
        assert len(rooms.outbound) == 1
    assert len(rooms.outbound) == 0
    assert (rooms.outbound.limit, rooms.peers.limit) == (8, 8)


def test_a_full_room_of_peers_ends_the_tunnel_that_was_idle_longest_and_never_a_busy_one() -> None:
    room = PeerRoom(3)
    first, second, busy = Idle(), Idle(), Idle()
    for waiter in (first, second, busy):
        room.note_idle(waiter, take(room.enter("198.18.0.1")))
    room.note_busy(busy)
    assert room.enter("198.18.0.1") is not None
    assert (first.is_waiting, second.is_waiting, busy.is_waiting) == (False, True, True)
    second.is_waiting = False  # Its next connection has just come: it is busy already.
    assert room.enter("198.18.0.1") is None
    assert busy.is_waiting
    assert len(room) == 3


def test_one_newcomer_ends_one_idle_tunnel_also_where_the_reserve_is_taken() -> None:
    room = PeerRoom(64)
    while room.enter("198.18.0.1") is not None:
        pass
    idle = [Idle() for _ in range(8)]
    for number, waiter in enumerate(idle):
        room.note_idle(waiter, take(room.enter(f"198.18.1.{number}")))
    assert len(room) == 72
    assert room.enter("198.18.0.1") is not None
    assert [waiter.is_waiting for waiter in idle] == [False, *[True] * 7]
    assert len(room) == 72


def test_a_room_without_places_has_none() -> None:
    assert Room(0).enter("198.18.0.1") is None
    assert PeerRoom(0).enter("198.18.0.1") is None


def test_an_ipv6_network_counts_as_one_and_what_is_no_address_as_itself() -> None:
    assert group_address("2001:db8::1") == group_address("2001:db8::ffff:2") != group_address("2001:db8:0:1::1")
    assert group_address("fe80::1%lo") == group_address("fe80::2")
    assert group_address("198.18.0.1") == "198.18.0.1"
    assert group_address("no:address") == "no:address"
