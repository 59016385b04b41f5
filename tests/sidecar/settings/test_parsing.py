"""A configuration's words: each has one form, and what isn't one is refused with the word itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import InputError
from sidecar.settings.parsing import (
    parse_address,
    parse_endpoint,
    parse_instance,
    parse_natural,
    parse_network,
    read_small_file,
)
from sidecar.sockets.address import format_endpoint


@pytest.mark.parametrize("text", ["1.2.3.4", ":5", "::1:5", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:-1", "host:5"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_endpoint(text)


def test_addresses_have_one_form() -> None:
    assert parse_address("2001:DB8:0::1") == "2001:db8::1"
    with pytest.raises(InputError):
        parse_address("fe80::1%eth0")


@pytest.mark.parametrize("text", ["198.18.0.2:5432", "[2001:db8::1]:1"])
def test_an_endpoint_is_written_as_it_is_read(text: str) -> None:
    assert format_endpoint(parse_endpoint(text)) == text


@pytest.mark.parametrize("text", ["198.18.0.1/15", "198.18.0.0/33", "x", "", "10.0.0.0/8; flush ruleset"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_network(text)


def test_networks_numbers_and_names_are_read() -> None:
    assert str(parse_network("2001:DB8::/32")) == "2001:db8::/32"
    assert str(parse_network("198.18.0.1")) == "198.18.0.1/32"
    assert parse_natural("0x1f", least=1, most=31) == 31
    assert parse_instance("web-1.a_b") == "web-1.a_b"
    for wrong in ("", "a" * 65, "-a", "a b"):
        with pytest.raises(InputError):
            parse_instance(wrong)


def test_a_file_that_is_missing_large_or_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with pytest.raises(InputError, match="No such file"):
        read_small_file(file, "thing", 4)
    file.write_bytes(b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_small_file(file, "thing", 4)
    file.write_bytes(b"12345")
    with pytest.raises(InputError, match="larger"):
        read_small_file(file, "thing", 4)
