"""Tells the CA of each program that was seen: twice, and again while it is in use.

Belongs here: when, and what is sent. Doesn't: looking (``surroundings.py``), or who decides about the program.

A connection doesn't wait for it: noting a program is one look-up, the rest is done beside the connections, one program
after the other.

Twice, because much isn't known yet at a program's first connection: what it has loaded is looked at meanwhile, and the
CA knows a container's image only once the pod's status names the container, some seconds after its start.

What processes have loaded that accept connections is told apart, and at once: before the record of the connection that
showed it. The CA calls nothing ready of which it wasn't told that.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from shared.model.errors import UnavailableError
from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program
from shared.model.wire.messages import FromSidecar, ProgramSeen
from sidecar.attest.facts import Attestation
from sidecar.sightings.surroundings import Surroundings, look_around

REPEAT_S: Final = 1_800.0
RETRY_S: Final = 30.0  # A look costs much more than a connection: without the CA not each connection causes one.
SECOND_S: Final = 30.0
MAX_PROGRAMS: Final = 1_024
MAX_WAITING: Final = 64
MAX_SECOND: Final = 64
MAX_ACCEPTED: Final = 256
_NOTHING: Final = Surroundings()

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(slots=True, kw_only=True)
class _Known:
    """When the CA is told of a program again.

    Attributes:
        due: from then on by its next connection.
        patience_s: until the next look, where its process had ended before this one; longer each time.
        is_told_twice: or will be.
    """

    due: float
    patience_s: float = RETRY_S
    is_told_twice: bool = False


class Sightings:
    """Which programs the CA was told of.

    Arguments:
        send: queues a message to the CA; raises ``UnavailableError`` while there is no stream.
        tell_code: says what a program has loaded, where that is known.
        look: says what stands around a process; off the event loop.
    """

    def __init__(
        self,
        *,
        send: Callable[[FromSidecar], None],
        tell_code: Callable[[Attestation], LoadedCode | None] = lambda _: None,
        look: Callable[..., Surroundings] = look_around,
    ) -> None:
        self._send = send
        self._tell_code = tell_code
        self._look = look
        self._known: OrderedDict[Program, _Known] = OrderedDict()
        self._waiting: OrderedDict[Program, Attestation] = OrderedDict()
        # When each is told for the second time, and what the first look saw.
        self._second: deque[tuple[float, Attestation, Surroundings]] = deque()
        self._has_work = asyncio.Event()
        # When the CA is told again what processes had loaded that accepted; of each process what was told last. Neither
        # keeps an execution, with its descriptors.
        self._accepted: OrderedDict[tuple[Program, int], float] = OrderedDict()
        self._accepted_of: OrderedDict[tuple[int, int], tuple[LoadedCode, float]] = OrderedDict()

    def note_accepted(self, attestation: Attestation, code: LoadedCode) -> None:
        """A process that has accepted a connection was looked at: the CA is told what it has loaded, if not lately.

        Arguments:
            code: the same object as long as it is unchanged: comparing is too slow for each connection.
        """
        process, now = (attestation.process.pid, attestation.process.start_time), time.monotonic()
        last = self._accepted_of.get(process)
        if last is not None and last[0] is code and now < last[1]:
            return
        key = attestation.program, hash(code)
        due = self._accepted.get(key, 0.0)
        if now >= due:
            told = self._tell_code(attestation)
            if told is None:
                return  # It has ended since, and nothing is known of it any more: the next one is told.
            try:
                self._send(
                    ProgramSeen(
                        program=attestation.program,
                        path=attestation.process.shown_path,
                        code=told,
                        has_accepted=True,
                    )
                )
                due = now + REPEAT_S
            except UnavailableError:
                due = now + RETRY_S
            _put(self._accepted, key, due)
        _put(self._accepted_of, process, (code, due))

    def note(self, attestation: Attestation) -> None:
        """A program was attested; the CA is told soon, if it wasn't lately."""
        known = self._known.get(attestation.program)
        if known is not None and time.monotonic() < known.due:
            return
        self._note(attestation)

    def _note(self, attestation: Attestation) -> None:
        if len(self._waiting) >= MAX_WAITING:
            return  # Its next connection notes it again.
        due = time.monotonic() + REPEAT_S
        self._known.setdefault(attestation.program, _Known(due=due)).due = due
        while len(self._known) > MAX_PROGRAMS:
            self._known.popitem(last=False)
        self._waiting[attestation.program] = attestation
        self._has_work.set()

    async def run(self) -> None:
        """Tell the CA until cancelled."""
        while True:
            await self._wait_for_work()
            self._has_work.clear()
            while self._waiting:
                program, attestation = self._waiting.popitem(last=False)
                try:
                    self._plan(attestation, await self._report(attestation))
                except UnavailableError:
                    self._retry(program)
            while self._second and self._second[0][0] <= time.monotonic():
                _, attestation, before = self._second.popleft()
                try:
                    await self._report(attestation, before)
                except UnavailableError:
                    self._retry(attestation.program)

    async def _wait_for_work(self) -> None:
        delay_s = self._second[0][0] - time.monotonic() if self._second else None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._has_work.wait()

    def _plan(self, attestation: Attestation, around: Surroundings) -> None:
        """Plan what follows after a look that the CA was told of."""
        known = self._known.get(attestation.program)
        if known is None:
            return
        if around == _NOTHING:
            # A short one, that had ended: its next process may live until it is looked at.
            known.due = time.monotonic() + known.patience_s
            known.patience_s = min(2 * known.patience_s, REPEAT_S)
        if not known.is_told_twice and len(self._second) < MAX_SECOND:
            known.is_told_twice = True
            self._second.append((time.monotonic() + SECOND_S, attestation, around))

    def _retry(self, program: Program) -> None:
        if (known := self._known.get(program)) is not None:
            known.due = time.monotonic() + RETRY_S
            known.is_told_twice = False

    async def _report(self, attestation: Attestation, before: Surroundings = _NOTHING) -> Surroundings:
        """Look, and tell the CA; of a process that has ended meanwhile what was seen ``before``.

        Raises:
            UnavailableError: there is no stream.
        """
        around = await asyncio.to_thread(self._look, attestation.process)
        around = before if around == _NOTHING else around
        self._send(
            ProgramSeen(
                program=attestation.program,
                path=attestation.process.shown_path,
                package=around.package,
                container=around.container,
                parents=around.parents,
                code=self._tell_code(attestation),
            )
        )
        return around


def _put(kept: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MAX_ACCEPTED:
        kept.popitem(last=False)
