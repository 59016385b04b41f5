"""The sock_diag codec: what it builds has the kernel's layout, what it reads is checked."""

import struct
from socket import AF_INET, AF_INET6

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.attest.netlink.sock_diag import (
    ESTABLISHED,
    LISTEN,
    KernelSocket,
    NetlinkError,
    build_dump,
    build_lookup,
    covers,
    normalise_address,
    parse_reply,
)


def message(kind: int, body: bytes, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def socket_body(family: int, state: int, local: bytes, attributes: bytes = b"") -> bytes:
    ports = struct.pack("!HH", 5432, 0)
    address = local.ljust(16, b"\0")
    tail = struct.pack("=IQIIIII", 0, 99, 0, 0, 0, 1000, 4242)
    return struct.pack("=BBBB", family, state, 0, 0) + ports + address + bytes(16) + tail + attributes


def test_a_lookup_has_the_kernels_layout() -> None:
    built = build_lookup(("198.18.0.1", 0x1234), ("::ffff:198.18.0.2", 80), sequence=7)
    assert len(built) == struct.unpack_from("=I", built)[0] == 72
    assert built[16] == AF_INET
    assert built[24:28] == b"\x12\x34\x00\x50"
    assert built[28:32] == bytes((198, 18, 0, 1))
    assert built[44:48] == bytes((198, 18, 0, 2))


def test_addresses_of_two_families_make_no_tuple() -> None:
    with pytest.raises(ValueError, match="families"):
        build_lookup(("198.18.0.1", 1), ("2001:db8::1", 2), sequence=1)
    with pytest.raises(ValueError, match="not an IP address"):
        build_lookup(("nonsense", 1), ("198.18.0.1", 2), sequence=1)


def test_a_dump_asks_for_listeners_of_a_port() -> None:
    built = build_dump(AF_INET6, sequence=3, port=5432)
    assert struct.unpack_from("=I", built, 20) == (1 << LISTEN,)
    assert struct.unpack_from("!H", built, 24) == (5432,)


def test_a_reply_yields_sockets_until_it_is_done() -> None:
    only_v6 = struct.pack("=HHB3x", 5, 11, 1)
    data = message(20, socket_body(AF_INET6, LISTEN, bytes(16), only_v6)) + message(3, bytes(4))
    reply = parse_reply(data, sequence=7)
    assert reply.is_done
    (found,) = reply.sockets
    assert (found.local, found.uid, found.inode, found.cookie) == (("::", 5432), 1000, 4242, 99)
    assert found.is_v6only
    assert not parse_reply(data, sequence=8).sockets


def test_what_a_socket_received_is_read_where_the_kernel_tells_it() -> None:
    info = struct.pack("=HH", 4 + 136, 2) + bytes(128) + struct.pack("=Q", 70_000)
    for attributes, expected in ((info, 70_000), (struct.pack("=HH", 12, 2) + bytes(8), -1), (b"", -1)):
        (found,) = parse_reply(message(20, socket_body(AF_INET, ESTABLISHED, bytes(4), attributes)), sequence=7).sockets
        assert found.received == expected
    with pytest.raises(NetlinkError, match="wrong length"):
        parse_reply(message(20, socket_body(AF_INET, ESTABLISHED, bytes(4), info[:-1])), sequence=7)


def test_the_kernels_refusal_keeps_its_number() -> None:
    with pytest.raises(NetlinkError) as caught:
        parse_reply(message(2, struct.pack("=i", -2) + bytes(16)), sequence=7)
    assert caught.value.errno == 2


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    try:
        parse_reply(data, sequence=7)
    except NetlinkError:
        pass


@given(st.binary(max_size=200))
def test_no_body_crashes_the_parser(body: bytes) -> None:
    try:
        parse_reply(message(20, body), sequence=7)
    except NetlinkError:
        pass


@pytest.mark.parametrize(
    ("own", "is_v6only", "address", "expected"),
    [
        ("198.18.0.1", False, "198.18.0.1", True),
        ("198.18.0.1", False, "198.18.0.2", False),
        ("0.0.0.0", False, "198.18.0.2", True),
        ("0.0.0.0", False, "2001:db8::1", False),
        ("::", False, "198.18.0.2", True),
        ("::", True, "198.18.0.2", False),
        ("::", True, "2001:db8::1", True),
    ],
)
def test_a_listener_covers_its_address_or_all(own: str, is_v6only: bool, address: str, expected: bool) -> None:
    listener = KernelSocket(
        family=AF_INET6, state=LISTEN, local=(own, 1), peer=("::", 0), uid=0, inode=1, cookie=1, is_v6only=is_v6only
    )
    assert covers(listener, address) is expected


def test_mapped_addresses_and_zones_are_normalised() -> None:
    assert normalise_address("::ffff:198.18.0.1") == "198.18.0.1"
    assert normalise_address("fe80::1%eth0") == "fe80::1"
