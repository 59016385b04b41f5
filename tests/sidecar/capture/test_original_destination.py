"""Original destinations: the kernel's structures, and a connection that nobody redirected."""

from __future__ import annotations

import socket

import pytest

from sidecar.capture.original_destination import (
    MAX_SHARED,
    ask_original_destination,
    normalise_endpoint,
    parse_sockaddr_in,
    parse_sockaddr_in6,
)


def test_the_kernels_structures_are_read() -> None:
    assert parse_sockaddr_in(bytes.fromhex("0200 1538 c6120002 0000000000000000")) == ("198.18.0.2", 5432)
    data = b"\x0a\x00\x15\x38" + bytes(4) + socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(4)
    assert parse_sockaddr_in6(data) == ("2001:db8::1", 5432)


def test_names_have_one_form() -> None:
    assert normalise_endpoint(("::ffff:198.18.0.1", 1, 0, 0)) == ("198.18.0.1", 1)
    assert normalise_endpoint(("fe80::1%lo", 1, 0, 1)) == ("fe80::1", 1)


def test_connections_of_an_address_share_its_text_and_strangers_cant_have_any_number_kept() -> None:
    first, again, later = (normalise_endpoint((b"2001:db8::1".decode(), port, 0, 0))[0] for port in range(3))
    assert first is again is later
    for number in range(MAX_SHARED):
        normalise_endpoint((f"2001:db8:1::{number:x}", 1, 0, 0))
    assert normalise_endpoint((b"2001:db8::1".decode(), 1, 0, 0))[0] is not first


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_direct_connection_has_none_or_the_listeners_own(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        local = normalise_endpoint(listener.getsockname())
        with socket.create_connection(local) as client:
            connection, _ = listener.accept()
            with connection:
                assert ask_original_destination(connection, (address, client.getsockname()[1])) in (None, local)
