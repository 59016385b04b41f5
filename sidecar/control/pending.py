"""Certificate requests that wait for the CA's answer, by number.

Belongs here: their bound, and what ends the wait. Doesn't: sending them (``uplink.py``). No I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from shared.model.errors import TouchmarkError, UnavailableError
from shared.model.identity.program import Program
from shared.model.wire.messages import CertificateIssued, CertificateRefused, CertificateRequest, ProgramEvidence
from sidecar.credential.credential import IssuanceRefusedError

MAX_REQUESTS = 1024
_Answer = asyncio.Future[tuple[bytes, ...]]


class PendingRequests:
    """At most ``MAX_REQUESTS`` requests, each with the future of its answer."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._waiting: dict[int, tuple[CertificateRequest, _Answer]] = {}

    @property
    def is_full(self) -> bool:
        """Tell whether no more may be added."""
        return len(self._waiting) >= MAX_REQUESTS

    @contextmanager
    def add(
        self, csr: bytes, program: Program | None, evidence: ProgramEvidence
    ) -> Iterator[tuple[CertificateRequest, _Answer]]:
        """Number a request and keep it until the context ends.

        Raises:
            UnavailableError: there are too many.
        """
        if self.is_full:
            raise UnavailableError("too many certificates are being asked for")
        request = CertificateRequest(request=next(self._numbers), csr=csr, program=program, evidence=evidence)
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._waiting[request.request] = request, answer
        try:
            yield request, answer
        finally:
            del self._waiting[request.request]

    def list_requests(self) -> list[CertificateRequest]:
        """Return what a new stream has to ask again."""
        return [request for request, _ in self._waiting.values()]

    def answer(self, message: CertificateIssued | CertificateRefused) -> None:
        """Give the CA's answer to its waiter. One that nothing waits for any more is dropped."""
        waiting = self._waiting.get(message.request)
        if waiting is None or waiting[1].done():
            return
        if isinstance(message, CertificateIssued):
            waiting[1].set_result(message.chain)
        else:
            waiting[1].set_exception(IssuanceRefusedError(message.message, reason=message.reason))

    def fail(self, error: TouchmarkError) -> None:
        """End every wait with ``error``."""
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
