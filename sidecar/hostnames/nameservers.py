"""Whom to ask: the nameservers of ``/etc/resolv.conf``. Reads that file, once.

Belongs here: reading ``nameserver`` lines (resolv.conf(5)). Doesn't: asking (``resolver.py``). The file is read when
the sidecar starts and never again: in a pod all containers share it, and a program that may write it could otherwise
choose who says what a rule's name means.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from sidecar.settings.configuration import MAX_NAMESERVERS
from sidecar.sockets.address import Endpoint

RESOLV_CONF: Final = Path("/etc/resolv.conf")
DNS_PORT: Final = 53
_MAX_BYTES: Final = 65_536


def read_nameservers(path: Path = RESOLV_CONF) -> tuple[Endpoint, ...]:
    """Return the nameservers of a file; none where it can't be read: then no name resolves."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except OSError:
        return ()
    return find_nameservers(content.decode(errors="replace"))


def find_nameservers(text: str) -> tuple[Endpoint, ...]:
    """Return the nameservers that a text in resolv.conf's notation names; what can't be asked is passed over."""
    found: dict[Endpoint, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            continue
        found[str(address), DNS_PORT] = None
    return tuple(found)[:MAX_NAMESERVERS]
