"""Where a redirected connection was going, as conntrack remembers it. One system call, never waits.

Source: ``include/uapi/linux/netfilter_ipv4.h`` (SO_ORIGINAL_DST) and ``netfilter_ipv6/ip6_tables.h``
(IP6T_SO_ORIGINAL_DST): both option 80, at level SOL_IP for IPv4 (also on an IPv6 socket with a mapped peer) and
IPPROTO_IPV6 for IPv6; the other level answers ENOENT.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache

from sidecar.sockets.address import Endpoint

_SO_ORIGINAL_DST = 80
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")
_MAPPED = "::ffff:"
MAX_SHARED = 1_024


@lru_cache(MAX_SHARED)
def _share(address: str) -> str:
    """Return one text for all connections of an address, most of which have the same.

    Not ``sys.intern``: what Python 3.12 interns stays for ever, and strangers choose how many addresses they have.
    """
    return address


def normalise_endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """Return a socket name's address and port; IPv4-mapped IPv6 becomes IPv4, scopes are cut off."""
    address = name[0]
    if address.startswith(_MAPPED) and "." in address:
        address = address[len(_MAPPED) :]
    if "%" in address:
        address = address.partition("%")[0]
    return _share(address), name[1]


def parse_sockaddr_in(data: bytes) -> Endpoint:
    """Read a ``struct sockaddr_in`` (16 bytes)."""
    port, address = _SOCKADDR_IN.unpack(data)
    return socket.inet_ntop(socket.AF_INET, address), port


def parse_sockaddr_in6(data: bytes) -> Endpoint:
    """Read a ``struct sockaddr_in6`` (28 bytes)."""
    port, address = _SOCKADDR_IN6.unpack(data)
    return normalise_endpoint((socket.inet_ntop(socket.AF_INET6, address), port))


def ask_original_destination(connection: socket.socket, source: Endpoint) -> Endpoint | None:
    """Return where the connection was going before the redirect; None when conntrack doesn't know it.

    A connection made straight to the listener yields the listener's own address or None: the caller refuses both.

    Arguments:
        source: the connection's peer, normalised: it tells the protocol.
    """
    try:
        if ":" in source[0]:
            return parse_sockaddr_in6(connection.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28))
        return parse_sockaddr_in(connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16))
    except OSError:
        return None
