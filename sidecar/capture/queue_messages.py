"""The messages of the kernel's packet queue (``nfnetlink_queue``): requests built, packets parsed. Pure.

Layouts: ``linux/netlink.h``, ``linux/netfilter/nfnetlink.h`` and ``nfnetlink_queue.h``; of the packets RFC 9293 §3.1,
RFC 791 §3.1 and RFC 8200 §3. Sending and receiving is ``connect_queue.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, AF_UNSPEC, IPPROTO_TCP, inet_ntop

from sidecar.sockets.address import Endpoint

MAX_MESSAGE_BYTES = 65_536
# Both address families' headers with all options that IPv4 may have, and the two ports.
COPIED_BYTES = 80

_NLMSG_ERROR = 2
_NLM_F_REQUEST = 0x001
_NLM_F_ACK = 0x004
_SUBSYSTEM_QUEUE = 3 << 8
_MSG_PACKET, _MSG_VERDICT, _MSG_CONFIG = 0, 1, 2
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_CMD_BIND = 1
_COPY_PACKET = 2
_FLAG_FAIL_OPEN = 1
_PACKET_HDR, _VERDICT_HDR, _PAYLOAD = 1, 2, 10
_ATTRIBUTE_TYPE = 0x3FFF
_NF_ACCEPT = 1

_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_COMMAND = struct.Struct("!BBH")
_PARAMS = struct.Struct("!IB")
_NUMBER = struct.Struct("!I")
_VERDICT = struct.Struct("!II")
_ERROR = struct.Struct("=i")
_PORTS = struct.Struct("!HH")


class QueueMessageError(Exception):
    """What was received can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedPacket:
    """A packet that waits in the queue.

    Attributes:
        number: names it towards the kernel.
        ends: its source and destination, where it is TCP directly in IP.
    """

    number: int
    ends: tuple[Endpoint, Endpoint] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The kernel's answer to a request; ``errno`` is 0 where it did what it was asked."""

    sequence: int
    errno: int


def build_bind(queue: int, *, sequence: int) -> bytes:
    """Ask for the packets of a queue that nobody has."""
    return _build(_MSG_CONFIG, queue, _pack(_CFG_CMD, _COMMAND.pack(_CMD_BIND, 0, AF_UNSPEC)), sequence, is_asked=True)


def build_settings(queue: int, *, max_packets: int, sequence: int) -> bytes:
    """Ask for the head of each packet, and to let pass what the queue or this socket has no room for."""
    attributes = (
        _pack(_CFG_PARAMS, _PARAMS.pack(COPIED_BYTES, _COPY_PACKET))
        + _pack(_CFG_MAXLEN, _NUMBER.pack(max_packets))
        + _pack(_CFG_MASK, _NUMBER.pack(_FLAG_FAIL_OPEN))
        + _pack(_CFG_FLAGS, _NUMBER.pack(_FLAG_FAIL_OPEN))
    )
    return _build(_MSG_CONFIG, queue, attributes, sequence, is_asked=True)


def build_accept(queue: int, number: int) -> bytes:
    """Let a packet pass. The kernel answers only where it can't."""
    return _build(_MSG_VERDICT, queue, _pack(_VERDICT_HDR, _VERDICT.pack(_NF_ACCEPT, number)), 0, is_asked=False)


def parse_messages(data: bytes) -> Iterator[QueuedPacket | Answer]:
    """Read one received buffer.

    Raises:
        QueueMessageError: it is malformed.
    """
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise QueueMessageError("truncated netlink header")
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise QueueMessageError("netlink message of a wrong length")
        body = data[offset + _HEADER.size : offset + length]
        if kind == _NLMSG_ERROR:
            if len(body) < _ERROR.size:
                raise QueueMessageError("truncated netlink error")
            yield Answer(sequence=sequence, errno=-_ERROR.unpack_from(body)[0])
        elif kind == _SUBSYSTEM_QUEUE | _MSG_PACKET:
            yield _parse_packet(body)
        offset += (length + 3) & ~3


def parse_ends(packet: bytes) -> tuple[Endpoint, Endpoint] | None:
    """Return a TCP packet's source and destination; None where TCP doesn't follow IP directly, or is cut off."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        family, start, protocol = AF_INET, (packet[0] & 15) * 4, packet[9]
        source, destination = packet[12:16], packet[16:20]
    elif version == 6 and len(packet) >= 40:
        family, start, protocol, source, destination = AF_INET6, 40, packet[6], packet[8:24], packet[24:40]
    else:
        return None
    if protocol != IPPROTO_TCP or len(packet) < start + _PORTS.size or start < 20:
        return None
    from_port, to_port = _PORTS.unpack_from(packet, start)
    return (inet_ntop(family, source), from_port), (inet_ntop(family, destination), to_port)


def _parse_packet(body: bytes) -> QueuedPacket:
    number: int | None = None
    ends: tuple[Endpoint, Endpoint] | None = None
    offset = _FAMILY.size
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            raise QueueMessageError("netlink attribute of a wrong length")
        value = body[offset + _ATTRIBUTE.size : offset + length]
        if kind & _ATTRIBUTE_TYPE == _PACKET_HDR and len(value) >= _NUMBER.size:
            (number,) = _NUMBER.unpack_from(value)
        elif kind & _ATTRIBUTE_TYPE == _PAYLOAD:
            ends = parse_ends(value)
        offset += (length + 3) & ~3
    if number is None:
        raise QueueMessageError("a queued packet without a number")
    return QueuedPacket(number=number, ends=ends)


def _build(kind: int, queue: int, attributes: bytes, sequence: int, *, is_asked: bool) -> bytes:
    flags = _NLM_F_REQUEST | (_NLM_F_ACK if is_asked else 0)
    body = _FAMILY.pack(AF_UNSPEC, 0, queue) + attributes
    return _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM_QUEUE | kind, flags, sequence, 0) + body


def _pack(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
