"""A tunnel whose plain DATA is moved by the compiled loop; everything else as ``tunnel.py`` does it.

Belongs here: calling the loop for one tunnel, and what its results mean. Doesn't: the loop (``sidecar/native/``),
states, control frames and ends (``tunnel.py``). The key's use is counted here, and a used up room stops the loop.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

from OpenSSL import SSL

from sidecar.tls.key_limit import MAX_KEY_BYTES
from sidecar.tunnel.frames import FrameType
from sidecar.tunnel.tunnel import Tunnel
from sidecar.tunnel.user import Loss, Renewal, TunnelUser

if TYPE_CHECKING:
    from sidecar.native._loop import Loop


class Carried(Enum):
    """How a call of ``NativeTunnel.carry`` ended."""

    OPEN = auto()  # Both may go on.
    FULL = auto()  # The tunnel takes no more DATA before ``on_drained``.
    ENDED = auto()  # The source has ended.
    BROKEN = auto()  # The source broke.


# What the loop returns (`sidecar/native/loop.c`): WAITING, ENDED, BROKEN, BLOCKED, LIMIT, FAILED.
_BLOCKED: Final = 3
_FAILED: Final = 5
# Looked up for every call: a global is found sooner than an enumeration's member.
_NO_RENEWAL: Final = Renewal.NONE
_CARRIED: Final = (Carried.OPEN, Carried.ENDED, Carried.BROKEN, Carried.FULL, Carried.OPEN, Carried.FULL)


class PassingUser(TunnelUser, Protocol):
    """A user for which DATA may be written to a socket without ``on_data``."""

    def find_sink(self) -> int:
        """Return the socket's descriptor, where one budget of DATA may be written now; -1: ``on_data`` must have it."""

    def on_passed(self, count: int, rest: bytes | None, code: int) -> None:
        """So many bytes were written to the sink; it didn't take ``rest``, or, with an errno, it broke."""


class NativeTunnel(Tunnel):
    """A tunnel with the compiled loop.

    Arguments:
        native: the loop.
        arguments: those of ``Tunnel``, without a trace: the loop shows no frame.
    """

    __slots__ = ("_native", "_passing")

    def __init__(self, native: Loop, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._native = native
        self._passing: PassingUser | None = None

    def detach(self) -> None:
        """The tunnel has no user; what arrives waits."""
        self._passing = None
        super().detach()

    def close(self, *, is_peer_gone: bool = False) -> None:
        """End the tunnel, as ``Tunnel.close``."""
        self._passing = None
        super().close(is_peer_gone=is_peer_gone)

    # ---- writing --------------------------------------------------------------------------------------------------

    @property
    def can_carry(self) -> bool:
        """Whether ``carry`` may be called: nothing waits that goes before its DATA."""
        return not (self._pinned or self._held or self._is_closed) and self._renewal is _NO_RENEWAL

    def carry(self, source: int) -> tuple[Carried, int]:
        """Read a socket and write DATA, at most one budget; return how that ended, and how many bytes were taken.

        Arguments:
            source: the socket's descriptor.

        Raises:
            RuntimeError: this end may not send DATA now. A fault of ours.
        """
        epoch, room = self.turns.own_plain_epoch, self._renew_at - self.sent
        if epoch < 0:
            epoch = self.turns.send(FrameType.DATA)
        if room < 0:
            room = self._find_room(self.sent)
        status, taken, used, rest, result, code = self._native.send(self._tls.address, source, epoch, room)
        self.sent += used
        if status == _BLOCKED:  # Before all else: OpenSSL has encrypted the first of it already.
            self._pinned.extend(rest or ())
            self._watch.start_writing(self._on_writable)
            return Carried.FULL, taken
        if status == _FAILED:
            self._judge_later(str(self._tls.explain(result, code)))
            return Carried.FULL, taken
        if self.sent > self._renew_at:
            self._note_use()
        if rest is not None:  # The key's room is used: this waits for new keys, or goes on record by record.
            written = [self._write_record(record) for record in rest]
            return Carried.OPEN if all(written) else Carried.FULL, taken
        return _CARRIED[status], taken

    # ---- reading --------------------------------------------------------------------------------------------------

    def pass_to(self, user: PassingUser) -> None:
        """While this is the user, write DATA to its sink without ``on_data``."""
        self._passing = user

    def _on_readable(self) -> None:
        """Pass on what comes, at most one budget; as ``Tunnel`` does where nothing can pass this way now."""
        user, epoch = self._passing, self.turns.plain_epoch
        if (
            user is None
            or user is not self.user
            or epoch < 0
            or self._held
            or self._reader.rest
            or self._renewal is not _NO_RENEWAL
        ):
            super()._on_readable()
            return
        sink = user.find_sink()
        if self._is_closed:
            return
        if sink < 0:
            super()._on_readable()
            return
        room = self._renew_at - self.received
        if room < 0:
            room = self._find_room(self.received)
        count, used, rest, left, broken, result, code = self._native.receive(self._tls.address, sink, epoch, room)
        self.received += used
        failure = self._explain(result, code) if result <= 0 else None
        try:
            user.on_passed(count, rest, broken)
        except BaseException as error:  # A fault of ours: what was taken isn't known, so nothing may follow.
            self.lose(Loss.BROKEN, f"{type(error).__name__}: {error}"[:300])
            raise
        if left is not None and not self._is_closed:
            self._process(memoryview(left))
        elif self.received > self._renew_at and not self._is_closed:
            self._note_use()
        if failure is not None:
            self.lose(Loss.BROKEN, failure)

    def _explain(self, result: int, code: int) -> str:
        error = self._tls.explain(result, code)
        return "the peer closed the tunnel" if isinstance(error, SSL.ZeroReturnError) else f"the tunnel broke: {error}"

    def _find_room(self, used: int) -> int:
        """How much may go through a key at once whose renewal wasn't possible in time: up to its limit."""
        return max(0, MAX_KEY_BYTES - used)
