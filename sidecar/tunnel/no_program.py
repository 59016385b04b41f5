"""Why a peer's certificate shows no program: a responder's is awaited before the first turn; for the record's reason.

Belongs here: waiting for WHY, and which reasons count of WHY and of OPEN. Doesn't: the frames (``frames.py``,
``tunnel.py``), the verdict: an end without a program is unidentified whatever its sidecar says of the cause.
"""

from __future__ import annotations

import asyncio
from typing import Final

from shared.model.policy.reasons import Reason
from sidecar.tunnel.tunnel import Loss, Tunnel

# WHY follows the handshake at once; a responder that doesn't say it in this time is taken not to.
WAIT_S: Final = 1.0
# What may be the cause. Any other reason of a peer's would change what is evaluated (``mtls_unavailable``) or
# mislead; a listener that ends (``process_vanished``) is one that may be gone, as one that isn't approved.
_CAUSES: Final = frozenset({
    Reason.NO_LISTENER, Reason.LISTENERS_DIFFER, Reason.PROCESS_TRACED,
    Reason.EXECUTABLE_UNREADABLE, Reason.EXECUTABLE_TOO_LARGE, Reason.EXECUTABLE_CHANGED, Reason.EXECUTABLE_FORGED,
    Reason.USER_NAMESPACE_DIFFERS, Reason.PROCESS_ORIGIN, Reason.SOCKET_SHARED, Reason.PROGRAM_CHANGED,
    Reason.HOLDERS_UNKNOWN, Reason.CODE_NOT_APPROVED, Reason.SOCKET_AMBIGUOUS, Reason.DESTINATION_NOT_SERVED,
})  # fmt: skip

# Of an initiator: what attestation or the CA may have said of the program that dials, also in release 0.1's codes. A
# policy's reason, or one that allows, would be taken for this side's own decision.
_CAUSES_OF_CLIENTS: Final = frozenset({
    Reason.NO_OWNER, Reason.PROCESS_VANISHED, Reason.SENDER_GONE, Reason.PROCESS_TRACED, Reason.EXECUTABLE_UNREADABLE,
    Reason.EXECUTABLE_TOO_LARGE, Reason.EXECUTABLE_CHANGED, Reason.EXECUTABLE_FORGED, Reason.USER_NAMESPACE_DIFFERS,
    Reason.PROCESS_ORIGIN, Reason.SOCKET_NOT_OWN, Reason.SOCKET_SHARED, Reason.PROGRAM_CHANGED, Reason.HOLDERS_UNKNOWN,
    Reason.CODE_NOT_APPROVED, Reason.SOCKET_AMBIGUOUS, Reason.PROGRAM_NOT_APPROVED, Reason.CA_UNAVAILABLE,
    Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED,
})  # fmt: skip


def choose_why(claimed: Reason | None) -> Reason:
    """Return why an initiator shows no program, as its OPEN says; ``peer_unidentified`` where that can't be a cause."""
    return claimed if claimed in _CAUSES_OF_CLIENTS else Reason.PEER_UNIDENTIFIED


async def learn_why(tunnel: Tunnel) -> Reason | None:
    """Return why the responder shows no program; None where it shows one.

    A peer of ``touchmark/1`` doesn't say, nor does one that would lie: ``listener_not_approved`` stands for that.
    """
    if tunnel.peer.identity.program is not None:
        return None
    if tunnel.says_why and tunnel.why is None and not tunnel.turns.epoch:
        waiter = _Waiter(tunnel.loop)
        tunnel.attach(waiter)
        try:
            async with asyncio.timeout(WAIT_S):
                await waiter.said
        except TimeoutError:
            pass
        finally:
            if tunnel.user is waiter:
                tunnel.detach()
    return tunnel.why if tunnel.why in _CAUSES else Reason.LISTENER_NOT_APPROVED


class _Waiter:
    """The user of a tunnel before its first turn."""

    __slots__ = ("said",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.said: asyncio.Future[None] = loop.create_future()

    def on_data(self, payloads: list[memoryview]) -> None:
        """Nothing may come: the turns have refused it before."""

    def on_frame(self, frame: int, payload: bytes) -> None:
        """WHY has come, or CLOSING."""
        self._finish()

    def on_drained(self) -> None:
        """Nothing was written."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The tunnel is gone."""
        self._finish()

    def _finish(self) -> None:
        if not self.said.done():
            self.said.set_result(None)
