"""Who may send which frame when: the tunnel's states, with their transitions as data.

One ``Turns`` object a tunnel end holds both sides' states, as the websockets and h11 libraries do, so that our own
faults (``RuntimeError``) and the peer's (``ProtocolError``) are told apart by the method that raised. Pure.

A turn (epoch) begins with OPEN and ends when both sides have sent END; then both are idle again and the next OPEN may
come. REFUSE is the responder's END. ABORT is what the initiator may say instead of END: the turn ends when the
responder has answered it with ABORT. It may not follow the initiator's END, so that it never comes after a turn's end.
RESET ends the tunnel; it may cross END, so that the turn has ended where it arrives. CLOSING is outside the turns: it
carries the epoch of the last OPEN that the responder processed. An initiator whose OPEN crossed CLOSING, or the last
turn's RESET, may retry elsewhere, once.
"""

from __future__ import annotations

from enum import IntEnum, auto

from shared.model.errors import ProtocolError
from sidecar.tls.role import Role
from sidecar.tunnel.frames import MAX_EARLY_BYTES, FrameType


class SideState(IntEnum):
    """What one side has said in this turn. An integer, because the transitions are looked up for every frame."""

    IDLE = auto()
    DECIDING = auto()  # The responder, between OPEN and its answer.
    SENDING = auto()
    ENDED = auto()
    ABORTING = auto()  # The initiator, until the responder has said ABORT, too.
    DEAD = auto()


_S = SideState
_F = FrameType
_DATA = int(FrameType.DATA)
# Looked up for every frame: a global is found sooner than an enumeration's member.
_INITIATOR, _DECIDING, _SENDING = Role.INITIATOR, SideState.DECIDING, SideState.SENDING
_ANSWERED = (SideState.SENDING, SideState.ENDED)

# (state of the sender, frame) → its next state. What isn't here is a protocol error.
INITIATOR_TRANSITIONS: dict[tuple[SideState, int], SideState] = {
    (_S.IDLE, _F.OPEN): _S.SENDING,
    (_S.SENDING, _F.DATA): _S.SENDING,
    (_S.SENDING, _F.END): _S.ENDED,
    (_S.SENDING, _F.ABORT): _S.ABORTING,
    (_S.SENDING, _F.RESET): _S.DEAD,
    (_S.ENDED, _F.RESET): _S.DEAD,
}
RESPONDER_TRANSITIONS: dict[tuple[SideState, int], SideState] = {
    (_S.DECIDING, _F.ACCEPT): _S.SENDING,
    (_S.DECIDING, _F.REFUSE): _S.ENDED,
    (_S.DECIDING, _F.RESET): _S.DEAD,
    (_S.SENDING, _F.DATA): _S.SENDING,
    (_S.SENDING, _F.END): _S.ENDED,
    (_S.SENDING, _F.ABORT): _S.IDLE,
    (_S.ENDED, _F.ABORT): _S.IDLE,
    (_S.SENDING, _F.RESET): _S.DEAD,
    (_S.ENDED, _F.RESET): _S.DEAD,
}


class Turns:
    """Both sides' states on one end of a tunnel.

    Attributes:
        epoch: of the current turn, or of the last one while idle; 0 before the first. Counts modulo 256.
        is_closing: CLOSING was sent or received: no further turn begins.
    """

    __slots__ = ("_early", "epoch", "initiator", "is_closing", "responder", "role")

    def __init__(self, role: Role) -> None:
        self.role = role
        self.epoch = 0
        self.initiator = SideState.IDLE
        self.responder = SideState.IDLE
        self.is_closing = False
        self._early = 0

    @property
    def is_idle(self) -> bool:
        """Whether no turn is under way."""
        return self.initiator is SideState.IDLE and self.responder is SideState.IDLE

    @property
    def may_abort(self) -> bool:
        """Whether this end may end the turn by ABORT: the initiator, once OPEN is answered, until it has said END."""
        return self.role is _INITIATOR and self.initiator is _SENDING and self.responder in _ANSWERED

    @property
    def is_aborting(self) -> bool:
        """Whether the initiator has said ABORT, and the responder hasn't answered it."""
        return self.initiator is SideState.ABORTING and self.responder in _ANSWERED

    def send(self, frame: FrameType, size: int = 0) -> int:
        """Note that this end sends a frame; returns the epoch to write.

        Raises:
            RuntimeError: this end may not send it now. A fault of ours.
        """
        if frame == _DATA and (epoch := self.own_plain_epoch) >= 0:
            return epoch
        if frame is FrameType.CLOSING:
            if self.role is not Role.RESPONDER or self.is_closing:
                raise RuntimeError("only a responder says CLOSING, once")
            self.is_closing = True
            return self.epoch
        if not self._apply(self.role, frame, size):
            raise RuntimeError(f"{frame.name} can't be sent as {self.role.name} in {self.initiator}/{self.responder}")
        return self.epoch

    def receive(self, frame: int, epoch: int, size: int = 0) -> None:
        """Note that the peer sent a frame.

        Raises:
            ProtocolError: it may not send it now, or the epoch is another.
        """
        if frame == _DATA and epoch == self.plain_epoch:
            return
        peer = Role.RESPONDER if self.role is Role.INITIATOR else Role.INITIATOR
        if frame == FrameType.CLOSING:
            self._receive_closing(epoch)
            return
        if frame == FrameType.RESET and self._has_crossed(epoch):
            self.is_closing = True
            self.responder = SideState.DEAD
            return
        if frame == FrameType.OPEN:
            if epoch != (self.epoch + 1) & 0xFF:
                raise ProtocolError(f"OPEN of epoch {epoch} after {self.epoch}")
        elif epoch != self.epoch:
            raise ProtocolError(f"a frame of epoch {epoch} in {self.epoch}")
        if not self._apply(peer, frame, size):
            raise ProtocolError(f"frame {frame} may not come in {self.initiator.name}/{self.responder.name}")

    def is_over(self, epoch: int) -> bool:
        """Whether this turn was the last one and has ended here: the peer's RESET crossed this end's END."""
        return epoch == self.epoch and self.is_idle

    @property
    def plain_epoch(self) -> int:
        """The epoch of DATA that the peer may send now and that changes no state; -1 while there is none.

        Most frames by far are such DATA, so they are spared the tables.
        """
        if self.role is _INITIATOR:
            return self.epoch if self.responder is _SENDING else -1
        return self.epoch if self.initiator is _SENDING and self.responder is not _DECIDING else -1

    @property
    def own_plain_epoch(self) -> int:
        """The same of DATA that this end may send."""
        if self.role is _INITIATOR:
            return self.epoch if self.initiator is _SENDING and self.responder is not _DECIDING else -1
        return self.epoch if self.responder is _SENDING else -1

    def disown(self) -> int:
        """Note that the responder says CLOSING instead of processing the OPEN that came; returns the epoch to write.

        Raises:
            RuntimeError: it has answered already, or has said CLOSING.
        """
        if self.role is not Role.RESPONDER or self.responder is not SideState.DECIDING or self.is_closing:
            raise RuntimeError("only an unanswered OPEN can be disowned")
        self.is_closing = True
        self.epoch = (self.epoch - 1) & 0xFF
        self.initiator = self.responder = SideState.IDLE
        return self.epoch

    def is_retry_allowed(self) -> bool:
        """Whether the current turn's OPEN was certainly not processed: the peer's last word is of the epoch before."""
        return self.is_closing and self.role is Role.INITIATOR and self.responder is SideState.DEAD

    def _receive_closing(self, epoch: int) -> None:
        if self.role is not Role.INITIATOR or self.is_closing:
            raise ProtocolError("CLOSING may not come now")
        if epoch == self.epoch:
            self.is_closing = True
            return
        if not self._has_crossed(epoch):
            raise ProtocolError(f"CLOSING of epoch {epoch} in {self.epoch}")
        self.is_closing = True
        self.responder = SideState.DEAD

    def _has_crossed(self, epoch: int) -> bool:
        """Whether the responder said this before it saw the OPEN that waits for its answer."""
        is_last = epoch == (self.epoch - 1) & 0xFF
        return is_last and self.role is Role.INITIATOR and self.responder is SideState.DECIDING

    def _apply(self, sender: Role, frame: int, size: int) -> bool:
        if sender is Role.INITIATOR:
            after = INITIATOR_TRANSITIONS.get((self.initiator, frame))
            if after is None:
                return False
            if frame == FrameType.OPEN:
                if self.responder is not SideState.IDLE or (self.is_closing and self.role is Role.INITIATOR):
                    return False
                self.epoch = (self.epoch + 1) & 0xFF
                self._early = 0
                # A responder that has said CLOSING doesn't process this OPEN, nor what follows it.
                self.responder = SideState.DECIDING
            elif frame == FrameType.ABORT:
                if self.responder not in _ANSWERED:
                    return False
            elif self.responder is SideState.DECIDING:
                self._early += size
                if self._early > MAX_EARLY_BYTES:
                    return False
            self.initiator = after
        else:
            after = RESPONDER_TRANSITIONS.get((self.responder, frame))
            if after is None or (frame == FrameType.ABORT and self.initiator is not SideState.ABORTING):
                return False
            self.responder = after
            if after is SideState.IDLE:
                self.initiator = after
        if self.initiator is SideState.ENDED and self.responder is SideState.ENDED:
            self.initiator = self.responder = SideState.IDLE
        return True
