"""What a tunnel tells its user, and how far it has come with new keys: the values beside ``tunnel.py``. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol

from OpenSSL import SSL

from shared.model.trust.certificate import VerifiedPeer

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential


class Loss(Enum):
    """Why a tunnel was lost."""

    BROKEN = auto()  # The connection ended or failed.
    PROTOCOL = auto()  # The peer broke the protocol.
    RECORD_LIMIT = auto()


class Renewal(Enum):
    """How far a tunnel has come with new keys. Frames sent until then wait."""

    NONE = auto()
    ASKED = auto()  # Initiator: REKEY was sent, the last frame with the old keys; the responder's is awaited.
    ANSWERED = auto()  # Responder: REKEY is its last frame with the old keys, and perhaps not yet written.
    HANDSHAKE = auto()  # Both have said REKEY: the connection belongs to the handshake.


class Renewed(NamedTuple):
    """What a handshake gave."""

    tls: SSL.Connection
    peer: VerifiedPeer
    credential: Credential


Rekey = Callable[[], Awaitable[Renewed]]


class TunnelUser(Protocol):
    """Who is called back by a tunnel."""

    def on_data(self, payloads: list[memoryview]) -> None:
        """DATA came. The views are valid only during the call."""

    def on_frame(self, frame: int, payload: bytes) -> None:
        """Another frame came; the tunnel's turns have been advanced."""

    def on_drained(self) -> None:
        """What ``write`` couldn't write at once has been written."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The tunnel is gone. Nothing comes after this."""
