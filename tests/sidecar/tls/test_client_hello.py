"""The ClientHello parser: real hellos, in every cut, and hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from shared.model.errors import ProtocolError
from sidecar.tls.client_hello import (
    MAX_CLIENT_HELLO_BYTES,
    ClientHello,
    NeedsMore,
    format_port_name,
    parse_client_hello,
    parse_port_name,
)


def _real_hello(name: bytes | None) -> bytes:
    tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    if name is not None:
        tls.set_tlsext_host_name(name)
    tls.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        tls.do_handshake()
    return tls.bio_read(65536)


HELLO = _real_hello(b"p5432")


def test_openssls_own_hello_names_its_server() -> None:
    assert parse_client_hello(HELLO) == ClientHello(server_name="p5432")
    assert parse_client_hello(_real_hello(None)) == ClientHello(server_name="")


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
