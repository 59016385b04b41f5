"""Endpoints as text and as values."""

from __future__ import annotations

from ipaddress import ip_address

from sidecar.sockets.address import format_endpoint, parse_ip


def test_endpoints_are_written_with_brackets_around_ipv6() -> None:
    assert format_endpoint(("198.18.0.2", 80)) == "198.18.0.2:80"
    assert format_endpoint(("2001:db8::1", 80)) == "[2001:db8::1]:80"


def test_no_address_is_written_as_nothing_and_parsed_to_none() -> None:
    assert format_endpoint(("", 0)) == ""
    assert parse_ip("") is None
    assert parse_ip("198.18.0.2") == ip_address("198.18.0.2")
