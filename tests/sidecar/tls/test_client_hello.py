"""The ClientHello parser: real hellos, in every cut, and hostile ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL._util import lib

from shared.model.errors import ProtocolError
from sidecar.tls.client_hello import (
    MAX_CLIENT_HELLO_BYTES,
    ClientHello,
    NeedsMore,
    format_port_name,
    parse_client_hello,
    parse_port_name,
)


def _real_hello(name: bytes | None, groups: bytes = b"X25519MLKEM768:X25519") -> bytes:
    tls: Any = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    assert lib.SSL_set1_curves_list(tls._ssl, groups) == 1
    if name is not None:
        tls.set_tlsext_host_name(name)
    tls.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        tls.do_handshake()
    return bytes(tls.bio_read(65536))


HELLO = _real_hello(b"p5432")
# Of one that has a secret (``groups.py``).
SMALL = _real_hello(b"p5432", b"X25519:X25519MLKEM768")


def test_openssls_own_hello_names_its_server() -> None:
    assert parse_client_hello(HELLO) == ClientHello(server_name="p5432")
    assert parse_client_hello(_real_hello(None)) == ClientHello(server_name="")


def _name_secrets(hello: bytes, keys: bytes) -> bytes:
    """Have a ClientHello of one record end with this extension (RFC 8446, section 4.2.11)."""

    def vector(data: bytes) -> bytes:
        return len(data).to_bytes(2, "big") + data

    body = hello[9:]
    at = 35 + body[34]  # The session's ID.
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # The cipher suites.
    at += 1 + body[at]  # The compression methods.
    body = body[:at] + vector(body[at + 2 :] + b"\x00\x29" + vector(keys))
    return b"\x16\x03\x01" + vector(b"\x01" + len(body).to_bytes(3, "big") + body)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (b"\x00\x09\x00\x03abc\x00\x00\x00\x00\x00\x21\x20" + bytes(32), b"abc"),
        (b"\x00\x12\x00\x03abc\x00\x00\x00\x00\x00\x03def\x00\x00\x00\x00", b"abc"),
        (b"\x00\x05\x00\x03abc", b"abc"),
        (b"\x00\x02\x00\x00", b""),
    ],
)
def test_the_first_secret_is_read_whatever_follows(keys: bytes, name: bytes) -> None:
    assert parse_client_hello(_name_secrets(SMALL, keys)) == ClientHello(server_name="p5432", secret_name=name)


def test_a_large_hello_names_no_secret() -> None:
    """What a member fills it up with is computed beside the event loop."""
    keys = b"\x00\x09\x00\x03abc\x00\x00\x00\x00\x00\x21\x20" + bytes(32)
    assert parse_client_hello(_name_secrets(HELLO, keys)) == ClientHello(server_name="p5432")
    assert parse_client_hello(_name_secrets(SMALL, keys + bytes(1024))) == ClientHello(server_name="p5432")


@pytest.mark.parametrize(
    "keys",
    [
        b"",
        b"\x00",
        b"\x00\x05\x00",
        b"\x00\x05\x00\x04abc",
        b"\x00\x04\x00\x03abc",
        b"\x00\x01\x00\x00",
        b"\x00\x00\x00\x03abc",
        b"\xff\xff\xff\xffabc",
    ],
)
def test_a_secrets_name_that_ends_elsewhere_is_refused(keys: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(_name_secrets(SMALL, keys))


@given(st.binary(max_size=80))
def test_arbitrary_secrets_yield_a_name_of_theirs_or_a_protocol_error(keys: bytes) -> None:
    try:
        outcome = parse_client_hello(_name_secrets(SMALL, keys))
    except ProtocolError:
        return
    assert isinstance(outcome, ClientHello)
    assert outcome.secret_name == keys[4 : 4 + len(outcome.secret_name)]
    assert len(outcome.secret_name) <= max(0, len(keys) - 4)


def test_every_cut_asks_for_more_and_never_for_less_than_there_is() -> None:
    for cut in range(len(HELLO)):
        outcome = parse_client_hello(HELLO[:cut])
        assert isinstance(outcome, NeedsMore)
        assert cut < outcome.total_bytes <= len(HELLO)


def test_a_hello_spread_over_records_is_read() -> None:
    body = HELLO[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (body[:3], body[3:90], body[90:])
    )
    assert parse_client_hello(records) == ClientHello(server_name="p5432")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"G",
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03",
    ],
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_client_hello(data)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_yield_an_outcome_or_a_protocol_error(data: bytes) -> None:
    try:
        outcome = parse_client_hello(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data)
    except ProtocolError:
        return
    if isinstance(outcome, NeedsMore):
        assert outcome.total_bytes <= MAX_CLIENT_HELLO_BYTES


@pytest.mark.parametrize("port", [1, 80, 5432, 65535])
def test_port_names_round_trip(port: int) -> None:
    assert parse_port_name(format_port_name(port)) == port


@pytest.mark.parametrize("name", ["", "p", "p0", "p65536", "p080", "5432", "p-1", "p５", "web.example", "p999999"])
def test_other_names_are_no_ports(name: str) -> None:
    assert parse_port_name(name) is None
