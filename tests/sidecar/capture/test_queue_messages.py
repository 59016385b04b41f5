"""Messages of the packet queue: what is asked, and what is read of a packet."""

from __future__ import annotations

import socket
import struct

import pytest

from sidecar.capture.queue_messages import (
    Answer,
    QueuedPacket,
    QueueMessageError,
    build_accept,
    build_bind,
    build_settings,
    parse_ends,
    parse_messages,
)

V4 = (
    bytes([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0])
    + socket.inet_aton("198.18.0.1")
    + socket.inet_aton("198.18.0.2")
)
V6 = (
    bytes([0x60, 0, 0, 0, 0, 20, 6, 64])
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
)
PORTS = struct.pack("!HH", 54_714, 5_432)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, *, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def packet(number: int, payload: bytes) -> bytes:
    header = struct.pack("!IHB", number, 0x0800, 3)
    return message(0x300, struct.pack("!BBH", 2, 0, 7) + attribute(1, header) + attribute(10, payload))


def test_requests_are_laid_out_as_the_kernel_reads_them() -> None:
    assert build_bind(7, sequence=1) == bytes.fromhex(
        "1c00000002030500010000000000000000000007" + "080001000100" + "0000"
    )
    assert build_accept(7, 9) == bytes.fromhex(
        "2000000001030100000000000000000000000007" + "0c000200" + "0000000100000009"
    )
    settings = build_settings(7, max_packets=1_024, sequence=2)
    assert attribute(2, struct.pack("!IB", 80, 2)) in settings
    assert settings.endswith(
        attribute(3, struct.pack("!I", 1_024)) + attribute(4, b"\0\0\0\1") + attribute(5, b"\0\0\0\1")
    )


def test_a_packets_ends_are_the_sockets_own() -> None:
    assert parse_ends(V4 + PORTS) == (("198.18.0.1", 54_714), ("198.18.0.2", 5_432))
    with_options = bytes([0x46]) + V4[1:] + bytes(4)
    assert parse_ends(with_options + PORTS) == (("198.18.0.1", 54_714), ("198.18.0.2", 5_432))
    assert parse_ends(V6 + PORTS) == (("2001:db8::1", 54_714), ("2001:db8::2", 5_432))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        V4[:19],
        V4 + PORTS[:3],
        V6[:39],
        V4[:9] + bytes([17]) + V4[10:] + PORTS,
        V6[:6] + bytes([0]) + V6[7:] + PORTS,  # An extension header.
        bytes([0x44]) + V4[1:] + PORTS,
        bytes([0x55]) + V4[1:] + PORTS,
    ],
)
def test_what_isnt_plainly_tcp_has_no_ends(data: bytes) -> None:
    assert parse_ends(data) is None


def test_packets_and_answers_are_read_from_one_buffer() -> None:
    answer = message(2, struct.pack("=i", -1) + bytes(16), sequence=5)
    found = list(parse_messages(packet(9, V4 + PORTS) + answer + packet(10, b"?") + message(3, b"")))
    assert found == [
        QueuedPacket(number=9, ends=(("198.18.0.1", 54_714), ("198.18.0.2", 5_432))),
        Answer(sequence=5, errno=1),
        QueuedPacket(number=10, ends=None),
    ]


@pytest.mark.parametrize(
    "data",
    [
        bytes(15),
        struct.pack("=IHHII", 15, 0x300, 0, 0, 0),
        struct.pack("=IHHII", 99, 0x300, 0, 0, 0),
        message(2, b"\0"),
        message(0x300, struct.pack("!BBH", 2, 0, 7)),
        message(0x300, struct.pack("!BBH", 2, 0, 7) + struct.pack("=HH", 99, 1)),
        message(0x300, struct.pack("!BBH", 2, 0, 7) + struct.pack("=HH", 3, 1)),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(QueueMessageError):
        list(parse_messages(data))
