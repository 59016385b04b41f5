"""The states of a pump, with their transitions as data.

Belongs here: what each direction of a pump is doing, and what has been answered to a tunnel's OPEN. Doesn't: moving
bytes (the pumps). A transition that isn't in its table is a fault of ours. Pure.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Flow(Enum):
    """One direction of a pump: bytes come from its source and go to its sink."""

    NEW = auto()  # Nothing is read from the source for it yet; what comes by itself is kept.
    OPEN = auto()  # The source is read, and everything read has been written.
    BLOCKED = auto()  # The sink takes no more at the moment: a rest may be kept, and the source isn't read.
    ENDING = auto()  # The source has ended. The rest, or the end itself, is still to be written.
    ENDED = auto()  # The source has ended, and the sink has been told.
    CUT = auto()  # The source broke. What it said before is still to be written; then the sink is reset.
    DROPPED = auto()  # The sink wants nothing more: what the source still says is discarded.
    STOPPED = auto()  # The pump has finished: nothing moves any more.

    # By identity, as members are compared: ``Enum``'s own is a Python function, and each change looks two up.
    __hash__ = object.__hash__


_F = Flow

FLOW_TRANSITIONS: Final[dict[Flow, frozenset[Flow]]] = {
    _F.NEW: frozenset({_F.OPEN, _F.BLOCKED, _F.ENDING, _F.ENDED, _F.DROPPED, _F.STOPPED}),
    _F.OPEN: frozenset({_F.BLOCKED, _F.ENDING, _F.ENDED, _F.CUT, _F.DROPPED, _F.STOPPED}),
    _F.BLOCKED: frozenset({_F.OPEN, _F.ENDING, _F.ENDED, _F.CUT, _F.DROPPED, _F.STOPPED}),
    _F.ENDING: frozenset({_F.ENDED, _F.CUT, _F.DROPPED, _F.STOPPED}),
    _F.ENDED: frozenset({_F.STOPPED}),
    _F.CUT: frozenset({_F.STOPPED}),
    _F.DROPPED: frozenset({_F.STOPPED}),
    _F.STOPPED: frozenset(),
}


class Answer(Enum):
    """What has been answered to OPEN, as both ends of a tunnel's turn see it."""

    NONE = auto()  # The initiator hasn't sent OPEN yet; the responder hasn't answered it.
    AWAITED = auto()  # The initiator has sent OPEN.
    ACCEPTED = auto()
    REFUSED = auto()

    __hash__ = object.__hash__


_A = Answer

ANSWER_TRANSITIONS: Final[dict[Answer, frozenset[Answer]]] = {
    _A.NONE: frozenset({_A.AWAITED, _A.ACCEPTED, _A.REFUSED}),
    _A.AWAITED: frozenset({_A.ACCEPTED, _A.REFUSED}),
    _A.ACCEPTED: frozenset(),
    _A.REFUSED: frozenset(),
}


def change_flow(before: Flow, after: Flow) -> Flow:
    """Return ``after``.

    Raises:
        RuntimeError: a flow can't go there from ``before``. A fault of ours.
    """
    if after not in FLOW_TRANSITIONS[before]:
        raise RuntimeError(f"a flow can't go from {before.name} to {after.name}")
    return after


def change_answer(before: Answer, after: Answer) -> Answer:
    """Return ``after``.

    Raises:
        RuntimeError: OPEN was answered already, or isn't awaiting this. A fault of ours.
    """
    if after not in ANSWER_TRANSITIONS[before]:
        raise RuntimeError(f"the answer to OPEN can't go from {before.name} to {after.name}")
    return after
