"""The messages of ``sock_diag`` for TCP: requests built, replies parsed. Pure.

Layouts: ``linux/netlink.h``, ``linux/sock_diag.h``, ``linux/inet_diag.h``; described in ``sock_diag(7)``. Sending them
is ``kernel_sockets.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from socket import AF_INET, AF_INET6, IPPROTO_TCP, htons, inet_ntop, inet_pton

import msgspec

from sidecar.sockets.address import Endpoint

# include/net/tcp_states.h
ESTABLISHED = 1
SYN_SENT = 2
FIN_WAIT1 = 4
FIN_WAIT2 = 5
TIME_WAIT = 6
LISTEN = 10
MAX_REPLY_BYTES = 65_536

_TCPDIAG_GETSOCK = 18
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x001
_NLM_F_DUMP = 0x300
_INET_DIAG_INFO = 2
_INET_DIAG_SKV6ONLY = 11
_ASK_FOR_INFO = 1 << (_INET_DIAG_INFO - 1)
# linux/tcp.h: tcpi_bytes_received of struct tcp_info (since Linux 4.1).
_BYTES_RECEIVED = struct.Struct("=128xQ")
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=IHHIIBBBxIHH16s16sIII")
_REQUEST_BYTES = _REQUEST.size
_pack_request = _REQUEST.pack
_ALL_FAMILIES_REQUEST = struct.Struct("=IHHIIBBBBHH16s16sIIIII")
_SOCKET = struct.Struct("=BBBBHH16s16sIQIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_ANY = b"\0" * 16
_MAPPED = b"\0" * 10 + b"\xff\xff"


class NetlinkError(Exception):
    """The kernel refused a request, or its reply can't be read.

    Arguments:
        errno: the kernel's error number, 0 when the reply is malformed.
    """

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class KernelSocket(msgspec.Struct, frozen=True, kw_only=True):
    """One TCP socket as the kernel describes it.

    Attributes:
        local: its own address and port; v4-mapped addresses are written as IPv4.
        peer: the other end's; ``("0.0.0.0", 0)`` or ``("::", 0)`` for a listener.
        inode: 0 when no process holds it any more.
        cookie: never reused while the machine runs.
        is_v6only: of a listener on an IPv6 address: it takes no IPv4 connections.
        received: bytes from its peer; -1 where that wasn't asked or isn't told.
    """

    family: int
    state: int
    local: Endpoint
    peer: Endpoint
    uid: int
    inode: int
    cookie: int
    is_v6only: bool = False
    received: int = -1


@lru_cache(maxsize=4096)
def normalise_address(address: str) -> str:
    """Write an IP address in its shortest form, without a zone, v4-mapped IPv6 as IPv4.

    Raises:
        ValueError: it isn't an IP address.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def build_lookup(source: Endpoint, destination: Endpoint, *, sequence: int) -> bytes:
    """Ask for the one socket with this 4-tuple. The kernel falls back to a listener: compare what it answers.

    Arguments:
        source: the socket's own address and port.
        destination: its peer's.
        sequence: of the request, 32 bits; the reply repeats it.

    Raises:
        ValueError: an address is malformed, or both are of different families.
    """
    family, local = _pack_address(source[0])
    peer_family, peer = _pack_address(destination[0])
    if family != peer_family:
        raise ValueError(f"different address families: {source[0]} and {destination[0]}")
    # One is built for every look at a connection, so it is written out here.
    return _pack_request(
        _REQUEST_BYTES, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, 0,
        family, IPPROTO_TCP, _ASK_FOR_INFO, _ALL_STATES, htons(source[1]), htons(destination[1]), local, peer, 0,
        _NO_COOKIE, _NO_COOKIE,
    )  # fmt: skip


def build_dump(family: int, *, sequence: int, states: int = 1 << LISTEN, port: int = 0, peer_port: int = 0) -> bytes:
    """Ask for every socket of a family in any of these states, by local and peer port; 0 means any."""
    extra = 0 if states == 1 << LISTEN else _ASK_FOR_INFO
    return _pack_request(
        _REQUEST_BYTES, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0,
        family, IPPROTO_TCP, extra, states, htons(port), htons(peer_port), _ANY, _ANY, 0, _NO_COOKIE, _NO_COOKIE,
    )  # fmt: skip


def build_listener_dump(port: int, *, sequence: int) -> bytes:
    """Ask for every socket that listens on a port, of both families in one walk over the kernel's table.

    This is the request of ``linux/inet_diag.h`` from before ``sock_diag`` (``struct inet_diag_req``): only there may
    the family be left open. The reply has the same layout.
    """
    return _ALL_FAMILIES_REQUEST.pack(
        _ALL_FAMILIES_REQUEST.size, _TCPDIAG_GETSOCK, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0,
        0, 0, 0, 0, _swap(port), 0, _ANY, _ANY, 0, _NO_COOKIE, _NO_COOKIE, 1 << LISTEN, 0,
    )  # fmt: skip


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What one received buffer says: sockets, and whether more will come."""

    sockets: tuple[KernelSocket, ...]
    is_done: bool


def parse_reply(data: bytes, *, sequence: int) -> Reply:
    """Read one received buffer of replies. Messages of another sequence are skipped.

    Raises:
        NetlinkError: the kernel refused (its ``errno``), or the buffer is malformed.
    """
    sockets: list[KernelSocket] = []
    for kind, number, body in _split_messages(data):
        if number != sequence:
            continue
        if kind == _NLMSG_DONE:
            return Reply(sockets=tuple(sockets), is_done=True)
        if kind == _NLMSG_ERROR:
            if len(body) < _ERROR.size:
                raise NetlinkError("truncated netlink error")
            (code,) = _ERROR.unpack_from(body)
            raise NetlinkError(f"sock_diag failed with error {-code}", errno=-code)
        if kind in (_SOCK_DIAG_BY_FAMILY, _TCPDIAG_GETSOCK):
            sockets.append(_parse_socket(body))
    return Reply(sockets=tuple(sockets), is_done=False)


def make_socket(
    family: int,
    state: int,
    local: bytes,
    port: int,
    peer: bytes,
    peer_port: int,
    uid: int,
    inode: int,
    cookie: int,
    received: int,
) -> KernelSocket:
    """Make a connected socket of what ``sidecar/native/look.c`` has parsed: addresses of 16 bytes, ports as they are.

    Raises:
        NetlinkError: it is of another family.
    """
    if family not in (AF_INET, AF_INET6):
        raise NetlinkError(f"inet_diag message of an unknown family: {family}")
    return KernelSocket(
        family=family,
        state=state,
        local=(_format_address(family, local), port),
        peer=(_format_address(family, peer), peer_port),
        uid=uid,
        inode=inode,
        cookie=cookie,
        received=-1 if state == LISTEN else received,
    )


def covers(listener: KernelSocket, address: str) -> bool:
    """Tell whether a listener can be handed a connection to this (normalised) address: its own, or a wildcard."""
    own = listener.local[0]
    if own == address:
        return True
    if ":" in address:
        return own == "::"
    return own == "0.0.0.0" or (own == "::" and not listener.is_v6only)


def _split_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise NetlinkError("truncated netlink header")
        length, kind, _flags, number, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise NetlinkError("netlink message of a wrong length")
        yield kind, number, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _parse_socket(body: bytes) -> KernelSocket:
    if len(body) < _SOCKET.size:
        raise NetlinkError("truncated inet_diag message")
    family, state, _, _, port, peer_port, local, peer, _, cookie, _, _, _, uid, inode = _SOCKET.unpack_from(body)
    if family not in (AF_INET, AF_INET6):
        raise NetlinkError(f"inet_diag message of an unknown family: {family}")
    return KernelSocket(
        family=family,
        state=state,
        local=(_format_address(family, local), _swap(port)),
        peer=(_format_address(family, peer), _swap(peer_port)),
        uid=uid,
        inode=inode,
        cookie=cookie,
        is_v6only=family == AF_INET6 and state == LISTEN and _has_v6only(body),
        received=-1 if state == LISTEN else _count_received(body),
    )


def _has_v6only(body: bytes) -> bool:
    start, end = _find_attribute(body, _INET_DIAG_SKV6ONLY)
    return end > start and body[start] != 0


def _count_received(body: bytes) -> int:
    start, end = _find_attribute(body, _INET_DIAG_INFO)
    if end - start < _BYTES_RECEIVED.size:
        return -1
    (received,) = _BYTES_RECEIVED.unpack_from(body, start)
    return int(received)


def _find_attribute(body: bytes, wanted: int) -> tuple[int, int]:
    """Return where an attribute's value begins and ends; twice 0 when there is none."""
    offset = _SOCKET.size
    while offset + _ATTRIBUTE.size < len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            raise NetlinkError("netlink attribute of a wrong length")
        if kind == wanted:
            return offset + _ATTRIBUTE.size, offset + length
        offset += (length + 3) & ~3
    return 0, 0


@lru_cache(maxsize=4096)
def _pack_address(address: str) -> tuple[int, bytes]:
    try:
        if ":" not in address:
            return AF_INET, inet_pton(AF_INET, address) + b"\0" * 12
        packed = inet_pton(AF_INET6, address.partition("%")[0])
    except OSError as error:
        raise ValueError(f"not an IP address: {address[:80]!r}") from error
    if packed.startswith(_MAPPED):
        return AF_INET, packed[12:] + b"\0" * 12
    return AF_INET6, packed


@lru_cache(maxsize=4096)
def _format_address(family: int, packed: bytes) -> str:
    if family == AF_INET:
        return inet_ntop(AF_INET, packed[:4])
    if packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[12:])
    return inet_ntop(AF_INET6, packed)


def _swap(port: int) -> int:
    """Turn a port between network and host order (the same both ways); a layout of ``struct`` can't mix orders."""
    return htons(port)
