"""Which addresses one program couldn't dial lately, so that not each of its connections waits for them again.

Belongs here: what is remembered, of whom, for how long, and its bound. Doesn't: dialling, the clock (times are
arguments). Pure.

Failures are remembered by program: a handshake that one program provokes to fail, or its dials that a full backlog
drops, would otherwise send every other program's connections plainly (permissive) or refuse them.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import Final

from sidecar.sockets.address import Endpoint

MAX_REMEMBERED: Final = 1024
# connect(2), socket(2): this machine ran out of something, or forbids it. The address is not to blame.
_OURS: Final = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EPERM,
    errno.EACCES,
})  # fmt: skip
# A program ("" where none is known), the address, and the application's port where a failure is about that port alone.
_Key = tuple[str, Endpoint, int]


class DialFailures:
    """Failed dials by program and address: a sidecar's at its tunnel port, a Service's endpoint, or a whole Service.

    Arguments:
        memory_s: how long a failure is remembered.
    """

    def __init__(self, *, memory_s: float = 5.0) -> None:
        self._memory_s = memory_s
        self._until: OrderedDict[_Key, float] = OrderedDict()  # Oldest first.
        self._answered: OrderedDict[_Key, float] = OrderedDict()  # When the address last answered; oldest first.

    def __len__(self) -> int:
        return len(self._until)

    def note(
        self, address: Endpoint, *, program: str = "", port: int = 0, began: float | None = None, now: float
    ) -> None:
        """Remember that dialling the address has failed; ``now`` is the loop's time, as everywhere here.

        Arguments:
            program: whose dial it was; empty for one without a program, or where it concerns all.
            port: of the application, where only dials meant for that port failed; 0 for all.
            began: when the dial began; an answer since then outweighs it.
        """
        key = (program, address, port)
        if began is not None and self._answered.get(key, began) > began:
            return
        self._until.pop(key, None)
        self._until[key] = now + self._memory_s
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)

    def is_recent(self, address: Endpoint, *, program: str = "", port: int = 0, now: float) -> bool:
        """Tell whether the program's dial to the address failed within the memory."""
        until = self._until.get((program, address, port))
        return until is not None and now < until

    def note_answer(self, address: Endpoint, *, program: str = "", port: int = 0, now: float) -> None:
        """The address answers: forget its failure, and don't count dials that began before."""
        key = (program, address, port)
        self._until.pop(key, None)
        self._answered.pop(key, None)
        self._answered[key] = now
        if len(self._answered) > MAX_REMEMBERED:
            self._answered.popitem(last=False)

    def reap(self, *, now: float) -> None:
        """Drop what is too old to count."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)


def is_about_address(error: OSError) -> bool:
    """Tell whether a failed dial says something of the address, and not of this machine's limits."""
    return error.errno not in _OURS
