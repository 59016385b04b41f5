"""Addresses of TCP endpoints as values: an IP address in canonical text, and a port.

Belongs here: the one ``Endpoint`` type, writing it, and its address as ``ipaddress`` knows it. Doesn't: reading what a
user wrote (``settings/parsing.py``), socket names from the kernel (``capture/original_destination.py``). Pure.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Endpoint = tuple[str, int]
"""A textual IP address (IPv4-mapped IPv6 normalised to IPv4, no scope) and a port."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REMEMBERED_ADDRESSES = 4096


def format_endpoint(endpoint: Endpoint) -> str:
    """Write ``198.18.0.2:5432`` or ``[2001:db8::1]:5432``; empty for no address."""
    address, port = endpoint
    if not address:
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@lru_cache(maxsize=_REMEMBERED_ADDRESSES)
def parse_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an endpoint's address as policies compare it; None for an empty one."""
    return ipaddress.ip_address(address) if address else None


@lru_cache(maxsize=_REMEMBERED_ADDRESSES)
def is_loopback(address: str) -> bool:
    """Tell whether only this network namespace reaches the address; a wildcard is reached from elsewhere."""
    parsed = parse_ip(address)
    return parsed is not None and parsed.is_loopback
