"""A watch says nothing when it saw nothing: an absent marker proves something only beside a present one."""

from __future__ import annotations

import socket
import struct

import pytest

from cli.demo import packets
from cli.demo.packets import Leg, PacketWatch, Tap, read_tcp
from tests.cli.demo.interruption import interrupt_starts


def make_packet(payload: bytes) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", 40000, 8080, 0, 0, 5 << 4, 0, 0, 0, 0) + payload
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, b"\x7f\0\0\1", b"\x7f\0\0\1") + tcp


def test_ports_and_payload_are_read_without_the_padding() -> None:
    assert read_tcp(make_packet(b"hello") + b"\0\0\0") == (40000, 8080, b"hello")


@pytest.mark.parametrize("packet", [b"", b"\x45", make_packet(b"")[:30], b"\x60" + bytes(39)])
def test_what_is_no_whole_tcp_packet_is_passed_over(packet: bytes) -> None:
    assert read_tcp(packet) is None


@pytest.mark.parametrize(
    ("beside", "between", "expected"),
    [
        (Leg(name="beside", packets=4, hits=2), Leg(name="between", packets=9, hits=0), False),
        (Leg(name="beside", packets=4, hits=2), Leg(name="between", packets=9, hits=1), True),
        (Leg(name="beside", packets=4, hits=0), Leg(name="between", packets=9, hits=0), None),
        (Leg(name="beside", packets=4, hits=2), None, None),
    ],
)
def test_the_answer_needs_the_marker_beside_and_traffic_between(
    beside: Leg, between: Leg | None, expected: bool | None
) -> None:
    legs = {leg.name: leg for leg in (beside, between) if leg is not None}
    assert PacketWatch((), b"marker", legs).find_plaintext(beside="beside", between="between") is expected


def test_ctrl_c_while_the_watch_begins_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    left.settimeout(0.05)
    monkeypatch.setattr(packets, "_open_tap", lambda _: left)
    started = interrupt_starts(monkeypatch)
    tap = Tap(interface="none", netns=None, classify=lambda *_: None)
    with right, pytest.raises(KeyboardInterrupt), PacketWatch((tap,), b"marker"):
        pass
    assert [thread.is_alive() for thread in started] == [False]
    assert left.fileno() == -1
