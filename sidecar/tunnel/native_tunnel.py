"""A tunnel whose plain DATA is moved by the compiled loop; everything else as ``tunnel.py`` does it.

Belongs here: calling the loop for one tunnel, lending a steady turn to a mover's thread, and what their results mean.
Doesn't: loop and mover (``sidecar/native/``), the threads' life (``lending.py``), states, control frames and ends
(``tunnel.py``). The key's use is counted here, and a used up room stops the loop.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from OpenSSL import SSL

from sidecar.tls.key_limit import MAX_KEY_BYTES
from sidecar.tls.records import name_error
from sidecar.tunnel.frames import FrameType
from sidecar.tunnel.lending import Worker, lending_of
from sidecar.tunnel.tunnel import Tunnel
from sidecar.tunnel.user import Loss, Renewal, TunnelUser

if TYPE_CHECKING:
    from shared.model.policy.reasons import Reason
    from sidecar.native._loop import Loop, Proof
    from sidecar.sockets.polling import Watch


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


# So many calls of the loop in a row that ended as they should, in either direction, before a turn is lent: a short one
# isn't worth it. Each time that it comes back, four times as many: what keeps coming back isn't either.
STEADY_CALLS: Final = 4
_MAX_STEADY_CALLS: Final = 256


class Lendable(NamedTuple):
    """What a mover needs of a user.

    Attributes:
        application: the descriptor that is read and written.
        watch: on it.
        proof: to be looked at before bytes pass; None: nothing has to be.
        is_held: the application may not be read.
    """

    application: int
    watch: Watch
    proof: Proof | None
    is_held: bool


class PassingUser(TunnelUser, Protocol):
    """A user for which DATA may be written to a socket without ``on_data``."""

    def find_sink(self) -> int:
        """Return the socket's descriptor, where one budget of DATA may be written now; -1: ``on_data`` must have it."""

    def on_passed(self, count: int, rest: bytes | None, code: int) -> None:
        """So many bytes were written to the sink; it didn't take ``rest``, or, with an errno, it broke."""

    def find_lendable(self) -> Lendable | None:
        """Return what is needed to move both directions without this user, if that may be done now."""

    def on_returned(self, taken: int, passed: int) -> None:
        """So many bytes were read from the application and written to it meanwhile."""

    def on_carried(self, carried: Carried) -> None:
        """The mover's last read ended this way, as of ``NativeTunnel.carry``."""


class NativeTunnel(Tunnel):
    """A tunnel with the compiled loop.

    Arguments:
        native: the loop.
        arguments: those of ``Tunnel``, without a trace: the loop shows no frame.
    """

    __slots__ = ("_native", "_number", "_passing", "_patience", "_steady", "_watch_lent", "_worker")

    def __init__(self, native: Loop, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._native = native
        self._passing: PassingUser | None = None
        self._worker: Worker | None = None  # While the turn is lent to it, with the stay's number.
        self._number = 0
        self._watch_lent: Watch | None = None
        self._patience = self._steady = STEADY_CALLS

    def detach(self) -> None:
        """The tunnel has no user; what arrives waits."""
        if self._worker is not None:
            self.take_back()
        self._passing = None
        self._patience = self._steady = STEADY_CALLS
        super().detach()

    def close(self, *, is_peer_gone: bool = False) -> None:
        """End the tunnel, as ``Tunnel.close``."""
        if self._worker is not None:
            self.take_back()
        self._passing = None
        super().close(is_peer_gone=is_peer_gone)

    # ---- lending --------------------------------------------------------------------------------------------------

    @property
    def is_lent(self) -> bool:
        """Whether a mover has the turn now."""
        return self._worker is not None

    def note_steady(self) -> None:
        """A call of the loop ended as it should: after enough of them the turn is lent, if nothing is under way."""
        self._steady -= 1
        if self._steady > 0:
            return
        self._steady = self._patience
        user, turns = self._passing, self.turns
        epoch, send_room, receive_room = turns.plain_epoch, self._renew_at - self.sent, self._renew_at - self.received
        if (
            user is None
            or user is not self.user
            or epoch < 0
            or turns.own_plain_epoch < 0
            or not self._is_reading
            or not self.can_carry
            or self._reader.rest
            or min(send_room, receive_room) < 0
            or self._worker is not None
        ):
            return
        lendable = user.find_lendable()
        if lendable is None or self._is_closed:
            return
        try:
            lending = lending_of(self.loop, self._native)
            lending.allow(self.loop)
            worker = lending.find_worker(self.loop)
            # Not before the loop has let go of both: what is in epoll twice is reported twice.
            self._watch.lend()
            lendable.watch.lend()
            self._watch_lent = lendable.watch
            number = worker.mover.lend(
                self._tls.address,
                lendable.application,
                self.connection.fileno(),
                epoch,
                send_room,
                receive_room,
                lendable.proof,
                lendable.is_held,
            )
        except BaseException as error:
            self._regain()
            if isinstance(error, OSError):  # No descriptor or no thread is left: Python goes on.
                return
            raise
        self._worker, self._number = worker, number
        worker.note(number, self.take_back)

    def _regain(self) -> None:
        self._watch.regain()
        if self._watch_lent is not None:
            self._watch_lent.regain()
            self._watch_lent = None

    def count_lent(self) -> tuple[int, int]:
        """Return how many bytes a mover has read from the application and written to it, during this stay."""
        return (0, 0) if self._worker is None else self._worker.mover.counts(self._number)

    def take_back(self) -> None:
        """Own the turn again, if it is lent, and go on where the mover stopped."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.forget(self._number)
        user = self._passing
        self._patience = self._steady = min(4 * self._patience, _MAX_STEADY_CALLS)
        try:
            taken, send_used, passed, receive_used, upward, downward = worker.mover.recall(self._number)
        except MemoryError:
            self._regain()
            self.lose(Loss.BROKEN, "no memory for what was read")
            return
        self._regain()
        self.sent += send_used
        self.received += receive_used
        if user is None:
            return
        try:
            user.on_returned(taken, passed)
            # What waits for its sink comes before what ended the stay, which may end all.
            if downward is not None and (upward is None or upward[0] != _BLOCKED):
                self._note_received(user, 0, *downward)
                downward = None
            if upward is not None:
                status, rest, result, code, error = upward
                user.on_carried(self._note_carried(status, rest, result, code, error))
        except BaseException as fault:  # A fault of ours, as in ``_on_readable``.
            self.lose(Loss.BROKEN, f"{type(fault).__name__}: {fault}"[:300])
            raise
        if downward is not None:
            self._note_received(user, 0, *downward)

    def send(self, frame: FrameType, payload: bytes = b"") -> bool:
        """Send a control frame, as ``Tunnel.send``."""
        if self._worker is not None:
            self.take_back()
        return super().send(frame, payload)

    def write(self, record: bytes | memoryview) -> bool:
        """Write whole frames, as ``Tunnel.write``."""
        if self._worker is not None:
            self.take_back()
        return super().write(record)

    def pause(self) -> None:
        """Stop reading, as ``Tunnel.pause``."""
        if self._worker is not None:
            self.take_back()
        super().pause()

    def resume(self) -> None:
        """Read again, as ``Tunnel.resume``."""
        if self._worker is not None:
            self.take_back()
        super().resume()

    def lose(self, loss: Loss, detail: str) -> None:
        """Close the tunnel and tell its user, as ``Tunnel.lose``."""
        if self._worker is not None:
            self.take_back()
        super().lose(loss, detail)

    def reset(self, reason: Reason | None = None) -> None:
        """End the tunnel in the middle of a turn, as ``Tunnel.reset``."""
        if self._worker is not None:
            self.take_back()
        super().reset(reason)

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
        status, taken, used, rest, result, code = self._native.send(
            self._tls.address, source, epoch, room, self.connection.fileno()
        )
        self.sent += used
        return self._note_carried(status, rest, result, code), taken

    def _note_carried(self, status: int, rest: list[bytes] | None, result: int, code: int, error: int = 0) -> Carried:
        if status == _BLOCKED:  # Before all else: OpenSSL has encrypted the first of it already.
            self._pinned.extend(rest or ())
            self._watch.start_writing(self._on_writable)
            return Carried.FULL
        if status == _FAILED:
            self._judge_later(str(name_error(error) if error else self._tls.explain(result, code)))
            return Carried.FULL
        if self.sent > self._renew_at:
            self._note_use()
        if rest is not None:  # The key's room is used: this waits for new keys, or goes on record by record.
            written = [self._write_record(record) for record in rest]
            return Carried.OPEN if all(written) else Carried.FULL
        return _CARRIED[status]

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
        self._note_received(user, count, rest, left, broken, result, code)
        if rest is left is None and not broken and result > 0 and not self._is_closed:
            self.note_steady()

    def _note_received(
        self,
        user: PassingUser,
        count: int,
        rest: bytes | None,
        left: bytes | None,
        broken: int,
        result: int,
        code: int,
        error: int = 0,
    ) -> None:
        failure = self._explain(result, code, error) if result <= 0 else None
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

    def _explain(self, result: int, code: int, error: int) -> str:
        told = name_error(error) if error else self._tls.explain(result, code)
        return "the peer closed the tunnel" if isinstance(told, SSL.ZeroReturnError) else f"the tunnel broke: {told}"

    def _find_room(self, used: int) -> int:
        """How much may go through a key at once whose renewal wasn't possible in time: up to its limit."""
        return max(0, MAX_KEY_BYTES - used)
