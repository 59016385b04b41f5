"""Which TCP ports something listens on in this network namespace, by one sock_diag dump. Does I/O, never waits."""

from __future__ import annotations

import itertools
import socket

from sidecar.attest.netlink.sock_diag import LISTEN, MAX_REPLY_BYTES, NetlinkError, build_dump, parse_reply
from sidecar.sockets.address import Endpoint

_NETLINK_SOCK_DIAG = 4
_MAX_REPLIES = 1024
_numbers = itertools.count(1)


def list_listening() -> list[Endpoint]:
    """Return the address and port of every listening TCP socket, IPv4 and IPv6.

    Raises:
        NetlinkError: the kernel refused or didn't answer.
        OSError: there is no netlink socket to be had.
    """
    found: list[Endpoint] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.setblocking(False)
        for family in (socket.AF_INET, socket.AF_INET6):
            number = next(_numbers) & 0xFFFFFFFF
            kernel.sendto(build_dump(family, sequence=number, states=1 << LISTEN), (0, 0))
            for _ in range(_MAX_REPLIES):
                try:
                    data, (port, _groups) = kernel.recvfrom(MAX_REPLY_BYTES)
                except BlockingIOError as error:
                    raise NetlinkError("sock_diag gave no answer") from error
                if port != 0:
                    continue
                reply = parse_reply(data, sequence=number)
                found.extend(each.local for each in reply.sockets if each.state == LISTEN)
                if reply.is_done:
                    break
    return found
