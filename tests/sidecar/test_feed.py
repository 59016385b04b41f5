"""The stream to the CA: joining, refusals, loss and resumption, deadlines."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.model.errors import RefusedError, UnavailableError, VerificationError
from shared.model.join_token import parse_join_token
from shared.model.messages import ProgramEvidence, Registration, Resume
from shared.model.program import Program
from shared.runtime.sinks import LineSink
from sidecar.credential.credential import IssuanceRefusedError, accept_chain, make_key_request
from sidecar.events import Events
from sidecar.feed import Feed
from sidecar.trust import Trust
from tests.sidecar.little_ca import LittleCA, make_authority, until

REGISTRATION = Registration(instance="one", version="0", addresses=(), tunnel_port=15008, capture="listeners")
PROGRAM = Program(digest="a" * 64)


@asynccontextmanager
async def a_feed(ca: LittleCA, token: str = "") -> AsyncIterator[Feed]:
    null = os.open("/dev/null", os.O_WRONLY)
    sink = LineSink(null)
    parsed = parse_join_token(token or ca.make_token("shop/web"))
    feed = Feed(ca=(ca.host, ca.port), token=parsed, registration=REGISTRATION, events=Events(sink))
    try:
        yield feed
    finally:
        await feed.close()
        sink.close(timeout_s=2)
        os.close(null)


@asynccontextmanager
async def joined(ca: LittleCA) -> AsyncIterator[Feed]:
    async with a_feed(ca) as feed:
        welcome, request = await feed.join()
        verifier = Trust(welcome.bundle).verifier
        now = time.time()
        feed.credential = accept_chain(request, welcome.chain, verifier=verifier, generation=1, now=now)
        running = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_spent_token_is_refused_for_good() -> None:
    async with LittleCA().serving() as ca:
        token = ca.make_token("shop/web")
        async with a_feed(ca, token) as feed:
            await feed.join()
        async with a_feed(ca, token) as feed:
            with pytest.raises(RefusedError, match="spent"):
                await feed.join()


async def test_the_token_is_not_sent_to_a_ca_with_another_root() -> None:
    async with LittleCA().serving() as ca:
        token = ca.make_token("shop/web")
        ca.root = make_authority("other")
    async with LittleCA(port=ca.port).serving() as impostor:
        async with a_feed(impostor, token) as feed:
            with pytest.raises(VerificationError):
                await feed.join()
        assert impostor.received == []


async def test_the_token_is_not_sent_to_a_server_that_is_not_the_ca() -> None:
    """Any leaf of the right root isn't enough: a sidecar's certificate must not pass for the CA's."""
    async with LittleCA(server_uri="spiffe://touchmark.test/ns/shop/sa/web/sidecar").serving() as ca:
        async with a_feed(ca) as feed:
            with pytest.raises(VerificationError):
                await feed.join()
        assert ca.received == []


async def test_after_a_loss_it_resumes_with_its_own_certificate_and_issues_again() -> None:
    ca = LittleCA()
    async with ca.serving():
        pass
    async with a_feed(ca), ca.serving(), joined(ca) as feed:
        await ca.streams[0].close()
        await until(lambda: any(isinstance(message, Resume) for message in ca.received))
        await until(lambda: feed.is_connected)
        chain = await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=5)
        assert len(chain) == 2


async def test_a_refusal_and_silence_are_told_apart() -> None:
    async with LittleCA().serving() as ca, joined(ca) as feed:
        ca.refuse_issuance = "program_not_approved"
        with pytest.raises(IssuanceRefusedError) as caught:
            await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=5)
        assert caught.value.reason == "program_not_approved"
        ca.is_mute = True
        with pytest.raises(UnavailableError):
            await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=0.2)
