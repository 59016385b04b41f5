"""Certificate requests that wait: each answer reaches its own waiter, there is a bound, and a loss ends every wait."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.errors import UnavailableError
from shared.model.identity.program import Program
from shared.model.wire.messages import CertificateIssued, CertificateRefused, ProgramEvidence
from sidecar.control import pending as pending_module
from sidecar.control.pending import PendingRequests
from sidecar.credential.credential import IssuanceRefusedError

PROGRAM = Program(digest="a" * 64)


async def test_each_answer_reaches_its_own_waiter_and_late_ones_are_dropped() -> None:
    pending = PendingRequests()
    with (
        pending.add(b"one", PROGRAM, ProgramEvidence()) as (one, first),
        pending.add(b"two", None, ProgramEvidence()) as (two, second),
    ):
        assert pending.list_requests() == [one, two]
        pending.answer(CertificateIssued(request=two.request, chain=(b"leaf",)))
        pending.answer(CertificateRefused(request=one.request, reason="program_not_approved", message="no"))
        pending.answer(CertificateIssued(request=one.request, chain=(b"late",)))
        assert await second == (b"leaf",)
        with pytest.raises(IssuanceRefusedError, match="no"):
            await first
    assert pending.list_requests() == []
    pending.answer(CertificateIssued(request=one.request, chain=(b"late",)))


async def test_a_lost_stream_ends_every_wait() -> None:
    pending = PendingRequests()
    with pending.add(b"one", PROGRAM, ProgramEvidence()) as (_, answer):
        pending.fail(UnavailableError("the stream to the CA broke"))
        with pytest.raises(UnavailableError, match="broke"):
            await asyncio.wait_for(answer, 30)


async def test_beyond_the_bound_no_request_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_module, "MAX_REQUESTS", 1)
    pending = PendingRequests()
    with pending.add(b"one", PROGRAM, ProgramEvidence()):
        assert pending.is_full
        with pytest.raises(UnavailableError, match="too many"), pending.add(b"two", PROGRAM, ProgramEvidence()):
            pass
    assert not pending.is_full
