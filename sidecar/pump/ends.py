"""How pumping ends, for every pump.

Belongs here: the end as a value, waiting for it, which side a reset came from. Doesn't: when a pump ends, passing a
half-close on (``sidecar/sockets/ending.py``), and what the caller does with both connections then (``sidecar/steps.py``
and the stories).
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason


class PumpEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How pumping ended.

    Attributes:
        ending: for the record.
        refusal: the responder's reason, when it said REFUSE.
        revoked: the other side's reason, when it said RESET because it may not go on: bytes may have passed.
        is_retry_allowed: the OPEN was certainly not processed, and may be tried again.
        is_unanswered: the peer's kernel didn't even acknowledge OPEN: its node has gone, and its other tunnels too.
        early: where nothing was processed (so, too, after REFUSE): DATA that the application sent so far, at most
            ``MAX_EARLY_BYTES``. With it and ``has_ended`` a next try begins.
        has_ended: the application has ended its direction.
        unsent: what came for the side that isn't broken and couldn't be written yet.
        detail: for people.
    """

    ending: Ending
    refusal: Reason | None = None
    revoked: Reason | None = None
    is_retry_allowed: bool = False
    is_unanswered: bool = False
    early: bytes = b""
    has_ended: bool = False
    unsent: bytes = b""
    detail: str = ""


def reset_by(*, is_source: bool) -> Ending:
    """Return how a connection ended that one side reset: the side that opened it, or the other one."""
    return Ending.RESET_BY_SOURCE if is_source else Ending.RESET_BY_DESTINATION


class Finished(asyncio.Future[PumpEnd]):
    """A pump's end, once it has come.

    Who waits wakes up in the next turn of the event loop, where a callback would cost one turn more.
    """

    __slots__ = ("_waiters",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._waiters: tuple[asyncio.Future[Any], ...] = ()

    def set_result(self, end: PumpEnd, /) -> None:
        """Say how pumping ended, once."""
        super().set_result(end)
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():  # Cancelled, perhaps.
                waiter.set_result(end)

    def wake(self, waiter: asyncio.Future[Any]) -> None:
        """Give this future the end when it comes, or now."""
        if self.done():
            waiter.set_result(self.result())
        else:
            self._waiters = (*self._waiters, waiter)

    def wait(self) -> asyncio.Future[PumpEnd]:
        """Return what waits for the end. Cancelled, it leaves this as it is.

        Like ``asyncio.shield``, at less cost: an idle connection waits here for as long as it lives.
        """
        if self.done():
            return self
        waiter: asyncio.Future[PumpEnd] = self.get_loop().create_future()
        self._waiters = (*self._waiters, waiter)
        return waiter
