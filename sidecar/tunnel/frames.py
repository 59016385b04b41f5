"""The tunnel's frames as bytes: header, OPEN's and REFUSE's payload.

Belongs here: encoding and strict decoding. Doesn't: who may send what when (``turns.py``). Pure.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from enum import IntEnum
from functools import lru_cache

import msgspec

from shared.model.errors import ProtocolError
from shared.model.policy.reasons import ALLOWING, Reason, express_in_first_codes
from sidecar.sockets.address import Endpoint

HEADER = struct.Struct("!BBH")
HEADER_BYTES = HEADER.size
# Header and payload together fill one TLS record (RFC 8446, section 5.1: 2**14 bytes of plaintext).
MAX_FRAME_BYTES = 16 * 1024
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
# What an initiator may send before ACCEPT: it keeps a copy for the one retry, the responder buffers it while it dials.
MAX_EARLY_BYTES = 64 * 1024
CONNECTION_ID_BYTES = 8
_MAX_WHY_BYTES = 64
_CODE = re.compile(rb"[a-z0-9_]{1,64}")
_REMEMBERED_ADDRESSES = 4096


class FrameType(IntEnum):
    """What a frame says."""

    OPEN = 1
    ACCEPT = 2
    REFUSE = 3
    DATA = 4
    END = 5
    RESET = 6
    CLOSING = 7
    REKEY = 8
    WHY = 9
    ABORT = 10


# Stated bounds per type: a longer payload is a protocol error before it is looked at.
_MAX_PAYLOADS: dict[int, int] = {
    FrameType.OPEN: CONNECTION_ID_BYTES + 2 * (1 + 16 + 2) + 1 + _MAX_WHY_BYTES,
    FrameType.ACCEPT: 0,
    FrameType.REFUSE: _MAX_WHY_BYTES,
    FrameType.DATA: MAX_PAYLOAD_BYTES,
    FrameType.END: 0,
    FrameType.RESET: _MAX_WHY_BYTES,
    FrameType.CLOSING: 0,
    FrameType.REKEY: 0,
    FrameType.WHY: _MAX_WHY_BYTES,
    FrameType.ABORT: 0,
}


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """OPEN's payload: which application connection the initiator asks for.

    Attributes:
        connection: the connection's id, ``CONNECTION_ID_BYTES`` in lower-case hexadecimal; the same in both records.
        destination: the address and port that the application dialled.
        source: the application's own address and port; a *claim*, for the record only.
        why: why the source shows no program, when its sidecar's own credential carries it; else None.
    """

    connection: str
    destination: Endpoint
    source: Endpoint
    why: Reason | None = None


def check_header(frame_type: int, length: int) -> None:
    """Check a frame's type and length against the bounds.

    Raises:
        ProtocolError: the type is unknown or the payload is too long for it.
    """
    most = _MAX_PAYLOADS.get(frame_type)
    if most is None:
        raise ProtocolError(f"unknown frame type {frame_type}")
    if length > most or (frame_type == FrameType.DATA and length == 0):
        raise ProtocolError(f"a frame of type {frame_type} with {length} bytes")


def encode_frame(frame_type: FrameType, epoch: int, payload: bytes = b"") -> bytes:
    """Write one whole frame."""
    check_header(frame_type, len(payload))
    return HEADER.pack(frame_type, epoch, len(payload)) + payload


def encode_opening(opening: Opening) -> bytes:
    """Write OPEN's payload."""
    why = encode_reason(opening.why) if opening.why else b""
    return b"".join(
        (
            bytes.fromhex(opening.connection),
            _encode_endpoint(opening.destination),
            _encode_endpoint(opening.source),
            bytes((len(why),)),
            why,
        )
    )


def decode_opening(payload: bytes) -> Opening:
    """Read OPEN's payload.

    Raises:
        ProtocolError: it is truncated, has bytes left over, or a field is out of range.
    """
    if len(payload) < CONNECTION_ID_BYTES:
        raise ProtocolError("OPEN is truncated")
    destination, offset = _decode_endpoint(payload, CONNECTION_ID_BYTES)
    source, offset = _decode_endpoint(payload, offset)
    if len(payload) <= offset or len(payload) != offset + 1 + payload[offset]:
        raise ProtocolError("OPEN is truncated or has bytes left over")
    if not destination[1]:
        raise ProtocolError("OPEN names port 0")
    why = payload[offset + 1 :]
    return Opening(
        connection=payload[:CONNECTION_ID_BYTES].hex(),
        destination=destination,
        source=source,
        why=decode_why(why),
    )


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """REFUSE's payload.

    Attributes:
        reason: ``PROTOCOL_ERROR`` where the code isn't one of ours.
        detail: then the peer's code; else empty.
    """

    reason: Reason
    detail: str = ""


def encode_reason(reason: Reason) -> bytes:
    """Write a reason code, as REFUSE's payload, so that each release can read it.

    Release 0.1 ends the tunnel on a code that it doesn't know, and neither the ALPN nor OPEN says which release the
    peer is: what came later is always written as the nearest code of 0.1. The own record keeps the true one.
    """
    return express_in_first_codes(reason).value.encode()


def encode_code(reason: Reason) -> bytes:
    """Write a reason code for a peer of ``touchmark/2``, which reads what it doesn't know as such."""
    return reason.value.encode()


def decode_refusal(payload: bytes) -> Refusal:
    """Read the payload of REFUSE, and of a RESET that has one.

    A code that isn't known comes from a newer release, and refuses all the same; so does one that is no refusal.

    Raises:
        ProtocolError: it isn't a code at all.
    """
    code = _decode_code(payload)
    try:
        reason = Reason(code)
    except ValueError:
        return Refusal(reason=Reason.PROTOCOL_ERROR, detail=f"the peer refused with {code}, which isn't known here")
    if reason in ALLOWING:
        return Refusal(reason=Reason.PROTOCOL_ERROR, detail=f"the peer refused with {code}, which is no refusal")
    return Refusal(reason=reason)


def decode_why(payload: bytes) -> Reason | None:
    """Read OPEN's ``why`` or WHY, a claim for the record only: None where there is none, or its code isn't known."""
    if not payload:
        return None
    try:
        return Reason(_decode_code(payload))
    except ValueError:
        return None


def _decode_code(payload: bytes) -> str:
    if not _CODE.fullmatch(payload):
        raise ProtocolError("a reason that is no code")
    return payload.decode("ascii")


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    return _pack_address(endpoint[0]) + endpoint[1].to_bytes(2, "big")


@lru_cache(maxsize=_REMEMBERED_ADDRESSES)
def _pack_address(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return bytes((len(packed),)) + packed


@lru_cache(maxsize=_REMEMBERED_ADDRESSES)
def _format_address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _decode_endpoint(payload: bytes, offset: int) -> tuple[Endpoint, int]:
    size = payload[offset] if offset < len(payload) else 0
    end = offset + 1 + size + 2
    if size not in (4, 16) or end > len(payload):
        raise ProtocolError("an endpoint is truncated or of an unknown family")
    address = _format_address(payload[offset + 1 : offset + 1 + size])
    return (address, int.from_bytes(payload[end - 2 : end], "big")), end
