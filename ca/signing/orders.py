"""What the CA and its signing process say to each other, as bytes. Pure.

Belongs here: the messages, their frames and bounds. Doesn't: what is done with them (``work.py``), or the socket.

A frame is four bytes of length and so many of MessagePack. The CA sends ``Orders``, the signing process ``Answers``,
also of no order: then it has opened the authority.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from ca.evidence.csr import MAX_CSR_BYTES
from shared.model.errors import ProtocolError

# At once in a frame, and how many the signing process has before it: enough that it never waits for the next.
MAX_ORDERS: Final = 32
MAX_OUTSTANDING: Final = 64
# The request, and what else an order has: an identity of 2,048 bytes, details of 2,048, numbers.
_MAX_ORDER_BYTES: Final = MAX_CSR_BYTES + 8_192
MAX_FRAME_BYTES: Final = MAX_ORDERS * _MAX_ORDER_BYTES
_LENGTH_BYTES: Final = 4


class Handover(msgspec.Struct, frozen=True, array_like=True):
    """The authority that signs from now on, in place of the one before.

    Attributes:
        certificate: DER.
        key: PKCS #8, DER.
        not_before, not_after: seconds since the epoch.
    """

    authority_id: str
    certificate: bytes
    key: bytes
    not_before: float
    not_after: float

    def __repr__(self) -> str:
        return f"Handover({self.authority_id!r})"


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One certificate to be made.

    Attributes:
        number: comes back with its answer.
        csr: the request, DER, unchecked.
        identity: a SPIFFE ID.
        serial: big-endian.
        now: seconds since the epoch.
        path, approved_by, instance: the certificate's details.
    """

    number: int
    csr: bytes
    identity: str
    serial: bytes
    now: float
    lifetime_s: float
    path: str
    approved_by: str
    instance: str


class Orders(msgspec.Struct, frozen=True, array_like=True):
    """A frame to the signing process: first the authority, where it is another one."""

    authority: Handover | None
    orders: list[Order]


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """Why a certificate wasn't made: an error's code, message, hint and reason."""

    code: str
    message: str
    hint: str = ""
    reason: str = ""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """A leaf that was signed and checked (DER; from when until when it is valid), or why there is none."""

    number: int
    der: bytes = b""
    not_before: float = 0.0
    not_after: float = 0.0
    fault: Fault | None = None


Answers = list[Answer]
_T = TypeVar("_T")
_encoder: Final = msgspec.msgpack.Encoder()


def write_frame(message: Orders | Answers) -> bytes:
    """Write one message with its length."""
    data = _encoder.encode(message)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


class FrameReader:
    """What has come in, cut into frames."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def take(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that are complete with this.

        Raises:
            ProtocolError: a frame is longer than any is.
        """
        self._waiting += data
        at = 0
        while len(self._waiting) - at >= _LENGTH_BYTES:
            begin = at + _LENGTH_BYTES
            size = int.from_bytes(self._waiting[at:begin], "big")
            if size > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes between the CA and its signing process")
            if len(self._waiting) - begin < size:
                break
            at = begin + size
            yield bytes(self._waiting[begin:at])
        del self._waiting[:at]
