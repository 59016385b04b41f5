"""Networks as numbers, and tables that find what was filed under the prefixes of a number. Pure.

Belongs here: reading a CIDR, and look-ups whose time doesn't grow with what is filed elsewhere. Doesn't: which rule
matches (``matching.py``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

import msgspec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_OCTET: Final = "(0|[1-9][0-9]{0,2})"
_IPV4: Final = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}/([0-9]{{1,2}})")

# Where clouds give a node's credentials to any program that asks; the latter two are AWS's and Google's by IPv6.
METADATA_ADDRESSES: Final = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "fd20:ce::254")))
# A network names such an address if it is no wider than link-local (RFC 3927), or than the cloud's own /32.
_METADATA_SHIFTS: Final = {4: 16, 6: 96}


class Cidr(msgspec.Struct, frozen=True, gc=False):
    """A network: the IP version, the number of its bits that aren't given, and the bits that are.

    An address lies in it if its own number, shifted right by ``shift``, is ``prefix``.
    """

    version: int
    shift: int
    prefix: int


def parse_cidr(text: str) -> Cidr:
    """Read a network in CIDR notation (RFC 4632, RFC 4291); an address alone is the network of that address.

    Raises:
        ValueError: it isn't one, or has bits beyond its prefix length.
    """
    # What nearly all rules have, a fifth of the time that the library takes; anything odd is the library's to judge.
    if (match := _IPV4.fullmatch(text)) is not None:
        a, b, c, d, length = map(int, match.groups())
        shift, number = 32 - length, a << 24 | b << 16 | c << 8 | d
        if max(a, b, c, d) < 256 and shift >= 0 and not number & ((1 << shift) - 1):
            return Cidr(4, shift, number >> shift)
    network = ipaddress.ip_network(text)
    shift = network.max_prefixlen - network.prefixlen
    return Cidr(network.version, shift, int(network.network_address) >> shift)


def unmap(address: Address) -> Address:
    """Return the IPv4 address of a v4-mapped one, else the address itself."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_within(cidr: Cidr, address: Address) -> bool:
    """Return whether an address, which isn't a v4-mapped one, lies in a network."""
    return address.version == cidr.version and int(address) >> cidr.shift == cidr.prefix


def is_named(cidr: Cidr, address: Address) -> bool:
    """Return whether an allow rule's network means an address that lies in it.

    A cloud's metadata address is only meant by a network about as narrow as itself: who writes ``0.0.0.0/0`` means the
    internet, and not the node's credentials.
    """
    return is_within(cidr, address) and (
        address not in METADATA_ADDRESSES or cidr.shift <= _METADATA_SHIFTS[address.version]
    )


def list_unmeant(cidr: Cidr) -> list[Address]:
    """Return the metadata addresses that lie in an allow rule's network, and that it doesn't mean; sorted."""
    found = [each for each in METADATA_ADDRESSES if is_within(cidr, each) and not is_named(cidr, each)]
    return sorted(found, key=int)


def split_range(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest prefixes, as shift and prefix, that cover the numbers ``first`` to ``last`` and no others."""
    while first <= last:
        shift = (first & -first).bit_length() - 1 if first else last.bit_length()
        while first + (1 << shift) - 1 > last:
            shift -= 1
        yield shift, first >> shift
        first += 1 << shift
