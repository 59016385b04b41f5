"""Tells the CA of each program that was seen: once, and again while it is in use.

Belongs here: when, and what is sent. Doesn't: looking (``surroundings.py``), or who decides about the program.

A connection doesn't wait for it: noting a program is one look-up, the rest is done beside the connections, one program
after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared.model.errors import UnavailableError
from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program
from shared.model.wire.messages import FromSidecar, ProgramSeen
from sidecar.attest.facts import Attestation
from sidecar.sightings.surroundings import Surroundings, look_around

REPEAT_S: Final = 1_800.0
RETRY_S: Final = 30.0  # A look costs much more than a connection: without the CA not each connection causes one.
MAX_PROGRAMS: Final = 1_024
MAX_WAITING: Final = 64


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
        self._due: OrderedDict[Program, float] = OrderedDict()
        self._waiting: OrderedDict[Program, Attestation] = OrderedDict()
        self._has_work = asyncio.Event()

    def note(self, attestation: Attestation) -> None:
        """A program was attested; the CA is told soon, if it wasn't lately."""
        due = self._due.get(attestation.program)
        if due is not None and time.monotonic() < due:
            return
        self._note(attestation)

    def _note(self, attestation: Attestation) -> None:
        if len(self._waiting) >= MAX_WAITING:
            return  # Its next connection notes it again.
        self._due[attestation.program] = time.monotonic() + REPEAT_S
        while len(self._due) > MAX_PROGRAMS:
            self._due.popitem(last=False)
        self._waiting[attestation.program] = attestation
        self._has_work.set()

    async def run(self) -> None:
        """Tell the CA until cancelled."""
        while True:
            await self._has_work.wait()
            while self._waiting:
                program, attestation = self._waiting.popitem(last=False)
                try:
                    await self._report(attestation)
                except UnavailableError:
                    self._due[program] = time.monotonic() + RETRY_S
            self._has_work.clear()

    async def _report(self, attestation: Attestation) -> None:
        around = await asyncio.to_thread(self._look, attestation.process)
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
