"""The netlink socket on which the kernel is asked about TCP sockets of this network namespace. Does I/O, never waits.

The kernel answers ``sock_diag`` within the system call that asks, so nothing here blocks: an empty receive queue is a
failure, not a reason to wait. One object belongs to one thread.
"""

from __future__ import annotations

import errno
import socket
from itertools import count

from sidecar.attest.netlink.sock_diag import (
    LISTEN,
    MAX_REPLY_BYTES,
    TIME_WAIT,
    KernelSocket,
    NetlinkError,
    build_dump,
    build_listener_dump,
    build_lookup,
    make_socket,
    normalise_address,
    parse_reply,
)
from sidecar.native.engine import current_look
from sidecar.sockets.address import Endpoint

_NETLINK_SOCK_DIAG = 4
_MAX_REPLIES = 4_096
_CONNECTED = 0xFFF & ~(1 << LISTEN | 1 << TIME_WAIT)


class KernelSockets:
    """Asks the kernel for TCP sockets, exactly or by port.

    Raises:
        OSError: the kernel offers no ``sock_diag``, or the process has no descriptors left.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._socket.setblocking(False)
        self._numbers = count(1)
        self._lists_at_once = True

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def find(self, source: Endpoint, destination: Endpoint) -> KernelSocket | None:
        """Look up the one connected socket with this 4-tuple that is bound to no network device.

        Once it is connected, what answers it reaches it and no other one: the kernel gives its 4-tuple to no later
        socket (``inet_hashtables.c``, ``__inet_check_established``), and finds an earlier one, which is bound to a
        device, behind it. To unbind a socket takes CAP_NET_RAW. ``list_all`` finds those that are bound as well.

        Raises:
            ValueError: an address is malformed.
            NetlinkError: the kernel refused, or its reply is malformed.
        """
        number = next(self._numbers) & 0xFFFFFFFF
        request = build_lookup(source, destination, sequence=number)
        try:
            found = self._look_up(request, number)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        for candidate in found:
            # Without a connected socket the kernel answers with the listener that such a peer would reach.
            if candidate.state != LISTEN and candidate.local[1] == source[1] and candidate.peer[1] == destination[1]:
                return candidate
        return None

    def list_all(self, source: Endpoint, destination: Endpoint) -> list[KernelSocket]:
        """List all sockets with this 4-tuple, those that are bound to a device among them: a walk over all, slow.

        Two programs can hold sockets with one 4-tuple, one of them bound to a device. TIME_WAIT isn't a socket.

        Raises:
            ValueError: an address is malformed.
            NetlinkError: the kernel refused, or its reply is malformed.
        """
        source = (normalise_address(source[0]), source[1])
        destination = (normalise_address(destination[0]), destination[1])
        return [
            candidate
            for family in (socket.AF_INET, socket.AF_INET6)
            for candidate in self._dump(family, _CONNECTED, source[1], destination[1])
            if candidate.local == source and candidate.peer == destination
        ]

    def listeners(self, port: int) -> list[KernelSocket]:
        """List every socket that listens on a port, IPv4 and IPv6, each of a SO_REUSEPORT group by itself.

        Raises:
            NetlinkError: the kernel refused, or its reply is malformed.
        """
        sockets: list[KernelSocket] | None = None
        if self._lists_at_once:
            number = next(self._numbers) & 0xFFFFFFFF
            try:
                sockets = self._ask(build_listener_dump(port, sequence=number), number, is_dump=True)
            except NetlinkError as error:
                if not error.errno:
                    raise
                self._lists_at_once = False  # A kernel without the older request: two walks instead of one.
        if sockets is None:
            sockets = self._dump(socket.AF_INET, 1 << LISTEN, port, 0)
            sockets += self._dump(socket.AF_INET6, 1 << LISTEN, port, 0)
        return [found for found in sockets if found.state == LISTEN and found.local[1] == port]

    def _dump(self, family: int, states: int, port: int, peer_port: int) -> list[KernelSocket]:
        number = next(self._numbers) & 0xFFFFFFFF
        try:
            request = build_dump(family, sequence=number, states=states, port=port, peer_port=peer_port)
            return self._ask(request, number, is_dump=True)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # A kernel without IPv6 has no handler for its family.
                return []
            raise

    def _look_up(self, request: bytes, number: int) -> list[KernelSocket]:
        """Ask for one socket: compiled, or as for a dump."""
        if (look := current_look()) is None:
            return self._ask(request, number, is_dump=False)
        try:
            found = look.lookup(self._socket.fileno(), request, number)
        except BlockingIOError as error:
            raise NetlinkError("sock_diag gave no answer") from error
        except OSError as error:
            if error.errno == errno.EBADMSG:
                raise NetlinkError("malformed answer of sock_diag") from error
            raise NetlinkError(f"sock_diag failed with error {error.errno}", errno=error.errno or 0) from error
        if found is None:
            raise NetlinkError("sock_diag gave no answer")
        return [make_socket(*found)]

    def _ask(self, request: bytes, number: int, *, is_dump: bool) -> list[KernelSocket]:
        self._socket.sendto(request, (0, 0))
        found: list[KernelSocket] = []
        for _ in range(_MAX_REPLIES):
            try:
                data, (port, _groups) = self._socket.recvfrom(MAX_REPLY_BYTES)
            except BlockingIOError as error:
                raise NetlinkError("sock_diag gave no answer") from error
            if port != 0:  # Only the kernel speaks from port 0; other processes may write to this socket as well.
                continue
            reply = parse_reply(data, sequence=number)
            found.extend(reply.sockets)
            if reply.is_done or (reply.sockets and not is_dump):
                return found
        raise NetlinkError(f"sock_diag hasn't said all in {_MAX_REPLIES} messages")  # A part of a list proves nothing.
