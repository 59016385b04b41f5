"""Obtains credentials for listening programs ahead of their first peer: strangers must not be able to cause issuance.

Belongs here: which listeners there are, and asking for their credentials. Doesn't: attestation or issuance themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from shared.model.errors import TouchmarkError
from shared.model.identity.program import Program
from shared.model.wire.messages import ProgramEvidence
from sidecar.attest.facts import Attestation
from sidecar.credential.credential import Credential
from sidecar.events import Events
from sidecar.sockets.address import Endpoint

MAX_LISTENERS = 256
_PERIOD_S = 1.0


class ListenerAttestor(Protocol):
    """What attests listeners: ``attest.attestor.Attestor``."""

    def attest_listener_now(self, address: str, port: int) -> Attestation | None: ...

    async def attest_listener(self, address: str, port: int) -> Attestation: ...


class Obtaining(Protocol):
    """What holds credentials: ``CredentialStore``."""

    def get(self, program: Program) -> Credential | None: ...

    async def obtain(self, program: Program, evidence: ProgramEvidence) -> Credential: ...


class AheadOfPeers:
    """Looks at the listeners once a second, and at once after ``wake``.

    Arguments:
        list_applications: returns where applications listen now.
        describe: says what was seen of a program; raises ``AttestationError`` if it mayn't have a credential.
    """

    def __init__(
        self, *, attestor: ListenerAttestor, credentials: Obtaining, events: Events,
        list_applications: Callable[[], Iterable[Endpoint]],
        describe: Callable[[Attestation], Awaitable[ProgramEvidence]],
    ) -> None:  # fmt: skip
        self._attestor = attestor
        self._credentials = credentials
        self._events = events
        self._list_applications = list_applications
        self._describe = describe
        self._wake = asyncio.Event()
        self._faults: dict[Endpoint, str] = {}

    def wake(self) -> None:
        """Look again soon: policy has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD_S):
                    await self._wake.wait()
            self._wake.clear()

    async def look(self) -> None:
        """Look once at every listener."""
        try:
            endpoints = sorted(set(self._list_applications()))[:MAX_LISTENERS]
        except (OSError, TouchmarkError) as error:
            self._events.emit("listeners_not_listed", message=str(error)[:300])
            return
        self._faults = {endpoint: fault for endpoint, fault in self._faults.items() if endpoint in endpoints}
        for endpoint in endpoints:
            try:
                await self._look_at(endpoint)
                self._faults.pop(endpoint, None)
            except TouchmarkError as error:
                # Each fault is reported once: it shows again in the decision on each peer.
                if self._faults.get(endpoint) != error.code:
                    self._faults[endpoint] = error.code
                    self._events.emit(
                        "listener_without_credential", address=endpoint[0], port=endpoint[1], code=error.code,
                        message=error.message[:300],
                    )  # fmt: skip

    async def _look_at(self, endpoint: Endpoint) -> None:
        attestation = self._attestor.attest_listener_now(*endpoint)
        if attestation is None:
            attestation = await self._attestor.attest_listener(*endpoint)
        if self._credentials.get(attestation.program) is None:
            await self._credentials.obtain(attestation.program, await self._describe(attestation))
