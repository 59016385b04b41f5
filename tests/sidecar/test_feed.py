"""The stream to the CA: joining, refusals, loss and resumption, deadlines."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cryptography import x509

from shared.model.errors import RefusedError, UnavailableError, VerificationError
from shared.model.identity import Identity, IdentityKind, parse_workload
from shared.model.join_token import parse_join_token
from shared.model.messages import CertificateRequest, ProgramEvidence, Registration, Resume
from shared.model.program import Program
from shared.runtime.sinks import LineSink
from sidecar.credential.credential import IssuanceRefusedError, accept_chain, make_key_request
from sidecar.events import Events
from sidecar.feed import CertificateExpiredError, Feed
from sidecar.trust import Trust
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA, make_authority, until

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
        chain = await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=30)
        assert len(chain) == 2


async def test_a_refusal_and_silence_are_told_apart() -> None:
    async with LittleCA().serving() as ca, joined(ca) as feed:
        ca.refuse_issuance = "program_not_approved"
        with pytest.raises(IssuanceRefusedError) as caught:
            await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=30)
        assert caught.value.reason == "program_not_approved"
        ca.is_mute = True
        with pytest.raises(UnavailableError):
            await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=0.2)


def serial_of(ca: LittleCA) -> object:
    """The serial number of the certificate that the newest stream was opened with."""
    certificate = ca.streams[-1].transport.get_extra_info("peercert")
    return certificate["serialNumber"] if certificate else None


async def test_a_renewed_credential_gets_a_new_stream_and_loses_no_request() -> None:
    async with LittleCA().serving() as ca, joined(ca) as feed:
        ca.is_mute = True
        waiting = asyncio.create_task(
            feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=30)
        )
        await until(lambda: ca.of_type(CertificateRequest))
        ca.is_mute = False
        request = make_key_request()
        own = Identity(trust_domain=TRUST_DOMAIN, workload=parse_workload("shop/web"), kind=IdentityKind.SIDECAR)
        chain = ca.issue(request.csr, own)
        verifier = Trust(ca.bundle).verifier
        feed.renew(accept_chain(request, chain, verifier=verifier, generation=2, now=time.time()))
        was_connected = True
        while not ca.of_type(Resume):
            was_connected = was_connected and feed.is_connected
            await asyncio.sleep(0)
        assert was_connected  # The old stream serves until the new one does.
        assert len(await waiting) == 2
        leaf = x509.load_der_x509_certificate(chain[0])
        assert int(str(serial_of(ca)), 16) == leaf.serial_number
        await until(lambda: len(ca.streams) == 1)


async def test_a_failed_move_to_a_new_stream_keeps_the_old_one() -> None:
    async with LittleCA().serving() as ca, joined(ca) as feed:
        ca.refuse_with = "unavailable"
        assert feed.credential is not None
        feed.renew(feed.credential)
        await until(lambda: len(ca.of_type(Resume)) >= 2)  # It is tried again.
        assert (
            len(await feed.request_certificate(make_key_request().csr, PROGRAM, ProgramEvidence(), timeout_s=30)) == 2
        )


async def test_an_expired_sidecar_says_so_and_ends() -> None:
    async with LittleCA().serving() as ca, a_feed(ca) as feed:
        welcome, request = await feed.join()
        verifier = Trust(welcome.bundle).verifier
        feed.credential = accept_chain(request, welcome.chain, verifier=verifier, generation=1, now=time.time())
        feed.credential = replace(feed.credential, not_after=time.time() - 1)
        await ca.streams[0].close()
        async with asyncio.timeout(30):
            with pytest.raises(CertificateExpiredError, match="expired") as caught:
                await feed.run()
        assert "touchmark ca join-token shop/web" in caught.value.hint
        assert caught.value.exit_code == 7


async def test_it_closes_its_stream_properly_and_resumes_nothing() -> None:
    async with LittleCA().serving() as ca, a_feed(ca) as feed:
        await feed.join()
        running = asyncio.create_task(feed.run())
        await until(lambda: ca.streams)
        stream = ca.streams[0]
        await feed.close()
        async with asyncio.timeout(30):
            await running
        await until(lambda: not ca.streams)
        assert stream.close_code == 1000
        assert not ca.of_type(Resume)
