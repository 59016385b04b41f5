"""Networks as numbers: the library's answers, faster; and ranges as prefixes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.policy.cidr import is_named, is_within, list_unmeant, parse_cidr, split_range, unmap

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(addresses, st.integers(min_value=0, max_value=128), addresses)
def test_a_network_holds_the_addresses_that_the_library_says(
    base: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int, other: ipaddress.IPv4Address
) -> None:
    network = ipaddress.ip_network((base, min(length, base.max_prefixlen)), strict=False)
    cidr = parse_cidr(str(network))
    assert is_within(cidr, base)
    assert is_within(cidr, other) == (other.version == network.version and other in network)
    assert is_within(parse_cidr(str(base)), base)


@pytest.mark.parametrize(
    "text",
    ["", "x", "10.0.0.1/8", "10.0.0.0/33", "256.0.0.0/8", "010.0.0.0/8", "10.0.0/8", "10.0.0.0/-1", "2001:db8::1/32",
     "10.0.0.0/8 ", "10.0.0.0/８", "::/129"],
)  # fmt: skip
def test_what_the_library_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ipaddress.ip_network(text)
    with pytest.raises(ValueError, match=r"."):
        parse_cidr(text)


@given(st.text(alphabet="0123456789./:abf", max_size=24))
def test_no_text_is_read_that_the_library_doesnt_read_in_the_same_way(text: str) -> None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            parse_cidr(text)
        return
    cidr = parse_cidr(text)
    assert (cidr.version, cidr.prefix << cidr.shift) == (network.version, int(network.network_address))


@given(st.integers(min_value=0, max_value=70_000), st.integers(min_value=0, max_value=2000))
def test_prefixes_cover_a_range_and_nothing_else(first: int, more: int) -> None:
    covered: list[int] = []
    for shift, prefix in split_range(first, first + more):
        covered += range(prefix << shift, (prefix + 1) << shift)
    assert covered == list(range(first, first + more + 1))


def test_a_v4_mapped_address_is_its_ipv4_address() -> None:
    assert str(unmap(ipaddress.ip_address("::ffff:198.18.0.1"))) == "198.18.0.1"
    for text in ("198.18.0.1", "2001:db8::1"):
        assert str(unmap(ipaddress.ip_address(text))) == text


@pytest.mark.parametrize(
    ("network", "address", "is_meant"),
    [
        ("0.0.0.0/0", "169.254.169.254", False),
        ("169.0.0.0/8", "169.254.169.254", False),
        ("169.254.0.0/16", "169.254.169.254", True),
        ("169.254.169.254/32", "169.254.169.254", True),
        ("0.0.0.0/0", "169.254.169.253", True),
        ("::/0", "fd00:ec2::254", False),
        ("fd00::/8", "fd20:ce::254", False),
        ("fd00:ec2::254/128", "fd00:ec2::254", True),
        ("::/0", "fd00:ec2::253", True),
        ("169.254.169.254/32", "169.254.169.1", False),
    ],
)
def test_a_metadata_address_is_only_named_by_a_narrow_network(network: str, address: str, is_meant: bool) -> None:
    parsed = ipaddress.ip_address(address)
    assert is_named(parse_cidr(network), parsed) is is_meant
    is_unmeant = parsed in list_unmeant(parse_cidr(network))
    assert is_unmeant is (not is_meant and is_within(parse_cidr(network), parsed))
