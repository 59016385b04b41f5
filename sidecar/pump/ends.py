"""How pumping ends, for every pump.

Belongs here: the end as a value, waiting for it, which side a reset came from. Doesn't: when a pump ends, passing a
half-close on (``sidecar/sockets/ending.py``), and what the caller does with both connections then (``sidecar/steps.py``
and the stories).
"""

from __future__ import annotations

import asyncio
from functools import partial

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


def wait_for_end(finished: asyncio.Future[PumpEnd]) -> asyncio.Future[PumpEnd]:
    """Return what waits for a pump's end. Cancelled, it leaves ``finished`` as it is.

    Like ``asyncio.shield``, at less cost: an idle connection waits here for as long as it lives.
    """
    if finished.done():
        return finished
    waiter: asyncio.Future[PumpEnd] = finished.get_loop().create_future()
    finished.add_done_callback(partial(_wake, waiter))
    return waiter


def _wake(waiter: asyncio.Future[PumpEnd], finished: asyncio.Future[PumpEnd]) -> None:
    if not waiter.done():  # Cancelled, perhaps.
        waiter.set_result(finished.result())
