"""Endpoints as text and as values."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sidecar.sockets.address import format_endpoint, is_loopback, parse_ip


def test_endpoints_are_written_with_brackets_around_ipv6() -> None:
    assert format_endpoint(("198.18.0.2", 80)) == "198.18.0.2:80"
    assert format_endpoint(("2001:db8::1", 80)) == "[2001:db8::1]:80"


def test_no_address_is_written_as_nothing_and_parsed_to_none() -> None:
    assert format_endpoint(("", 0)) == ""
    assert parse_ip("") is None
    assert parse_ip("198.18.0.2") == ip_address("198.18.0.2")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("198.18.0.1", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
