"""The stream to the CA: joining, refusals, loss and resumption, deadlines."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from websockets.asyncio.server import ServerConnection

from shared.model.errors import ProtocolError, RefusedError, UnavailableError, VerificationError
from shared.model.identity.identity import Identity, IdentityKind, parse_workload
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import public_key_digest
from shared.model.trust.join_token import parse_join_token
from shared.model.trust.root_hint import format_root_hint
from shared.model.wire.messages import (
    BundleInstalled,
    CertificateRequest,
    EnrolPod,
    FromCA,
    FromSidecar,
    Lookup,
    Message,
    ProgramEvidence,
    Registration,
    Resume,
    Welcome,
    express_in,
)
from shared.runtime.sinks import LineSink
from sidecar.control import backoff, link, opening, uplink
from sidecar.control import feed as feed_module
from sidecar.control.ca_dial import ServerTimeError, make_context, open_stream
from sidecar.control.feed import CertificateExpiredError, Feed
from sidecar.control.joining import ByJoinToken, ByPod, Joining
from sidecar.control.opening import Opener, join
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import (
    Credential,
    CredentialError,
    IssuanceRefusedError,
    KeyRequest,
    accept_chain,
    make_key_request,
)
from sidecar.events import Events
from sidecar.mesh.trust import Trust
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA, make_authority, until

REGISTRATION = Registration(instance="one", version="0", addresses=(), tunnel_port=15008, capture="listeners")
PROGRAM = Program(digest="a" * 64)


class Parts:
    """What a feed is made of, and a receiver that does what ``Dispatch`` does with trust and credential.

    Attributes:
        credentials: the sidecar's own, one of each enrolment.
        failures: what ``accept`` raises next, if anything.
    """

    def __init__(self, ca: LittleCA, joining: Joining) -> None:
        self._null = os.open("/dev/null", os.O_WRONLY)
        self._sink = LineSink(self._null)
        self.ca = ca
        self.events = Events(self._sink)
        self.uplink = Uplink(is_join_repeatable=joining.is_repeatable)
        self.opener = Opener(ca=(ca.host, ca.port), joining=joining, registration=REGISTRATION, uplink=self.uplink)
        self.credentials: list[Credential] = []
        self.failures: list[CredentialError] = []

    async def join(self) -> Feed:
        """Join, and make the feed that follows."""
        self.trust, self.own = await join(self.opener, self.accept, self.events)
        return Feed(self.opener, trust=self.trust, credentials=self, receiver=self, events=self.events)

    def accept(self, welcome: Welcome, request: KeyRequest) -> tuple[Trust, Credential]:
        """Make a welcome's trust and own credential."""
        if self.failures:
            raise self.failures.pop()
        trust = Trust(welcome.bundle)
        own = accept_chain(request, welcome.chain, verifier=trust.verifier, generation=1, now=time.time())
        self.credentials.append(own)
        return trust, own

    def join_again(self, welcome: Welcome, request: KeyRequest) -> None:
        """Take a repeated enrolment."""
        _, self.own = self.accept(welcome, request)
        self.trust.begin_again(welcome.bundle)

    def resume(self, welcome: Welcome) -> None:
        """Nothing here follows from it."""

    def receive(self, message: FromCA) -> None:
        """Nothing here follows from it."""

    def renew(self, own: Credential) -> None:
        """Renew the own credential, as the store does."""
        self.own = own
        self.uplink.move()

    def expire(self) -> None:
        """End the own credential."""
        self.own = replace(self.own, not_after=time.time() - 1)

    async def request_certificate(self, timeout_s: float = 30) -> tuple[bytes, ...]:
        """Ask for a program's certificate."""
        csr = make_key_request().csr
        return await self.uplink.request_certificate(csr, PROGRAM, ProgramEvidence(), timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the stream, and what the events went to."""
        await self.uplink.close()
        self._sink.close(timeout_s=30)
        os.close(self._null)


@asynccontextmanager
async def parts_of(ca: LittleCA, token: str = "") -> AsyncIterator[Parts]:
    parts = Parts(ca, ByJoinToken(token=parse_join_token(token or ca.make_token("shop/web"))))
    try:
        yield parts
    finally:
        await parts.close()


@asynccontextmanager
async def joined(ca: LittleCA) -> AsyncIterator[Parts]:
    async with parts_of(ca) as parts:
        feed = await parts.join()
        running = asyncio.create_task(feed.run())
        try:
            yield parts
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_spent_token_is_refused_for_good() -> None:
    async with LittleCA().serving() as ca:
        token = ca.make_token("shop/web")
        async with parts_of(ca, token) as parts:
            await parts.join()
        async with parts_of(ca, token) as parts:
            with pytest.raises(RefusedError, match="spent"):
                await parts.join()


async def test_a_second_sidecar_by_a_token_tries_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LittleCA().serving() as ca, parts_of(ca) as parts:
        ca.refuse_with = "second_sidecar"
        joining = asyncio.create_task(parts.join())
        try:
            await until(lambda: joining.done() or "refuses this sidecar" in parts.uplink.fault)
            ca.refuse_with = ""
            await joining
            assert parts.uplink.fault == ""
        finally:
            joining.cancel()
            await asyncio.wait({joining})
        ca.refuse_with = "second_sidecar"
        monkeypatch.setattr(opening, "_SECOND_S", 0.0)
        with pytest.raises(RefusedError, match="refuses this sidecar"):
            await parts.join()


async def test_a_ca_whose_certificate_seems_to_have_ended_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose clock is ahead when it starts, until something sets it."""
    tries = []

    async def open_at_last(*arguments: object, **named: object) -> object:
        tries.append(arguments)
        if len(tries) < 3:
            raise ServerTimeError("ordered by the test", reason=Reason.PEER_EXPIRED)
        return await open_stream(*arguments, **named)  # type: ignore[arg-type]  # As it was called.

    monkeypatch.setattr(opening, "open_stream", open_at_last)
    async with LittleCA().serving() as ca, parts_of(ca) as parts:
        await parts.join()
        assert len(tries) == 3


async def test_the_token_is_not_sent_to_a_ca_with_another_root() -> None:
    async with LittleCA().serving() as ca:
        token = ca.make_token("shop/web")
        ca.root = make_authority("other")
    async with LittleCA(port=ca.port).serving() as impostor:
        async with parts_of(impostor, token) as parts:
            with pytest.raises(VerificationError):
                await parts.join()
        assert impostor.received == []


async def test_the_token_is_not_sent_to_a_server_that_is_not_the_ca() -> None:
    """Any leaf of the right root isn't enough: a sidecar's certificate must not pass for the CA's."""
    async with LittleCA(server_uri="spiffe://touchmark.test/ns/shop/sa/web/sidecar").serving() as ca:
        async with parts_of(ca) as parts:
            with pytest.raises(VerificationError):
                await parts.join()
        assert ca.received == []


async def test_after_a_loss_it_resumes_with_its_own_certificate_and_issues_again() -> None:
    ca = LittleCA()
    async with ca.serving():
        pass
    async with ca.serving(), joined(ca) as parts:
        await ca.streams[0].close()
        await until(lambda: any(isinstance(message, Resume) for message in ca.received))
        await until(lambda: parts.uplink.is_connected)
        chain = await parts.request_certificate()
        assert len(chain) == 2


async def test_a_question_ends_a_long_backoff_and_waits_for_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 600)
    monkeypatch.setattr(backoff, "LAST_S", 600)
    monkeypatch.setattr(feed_module, "_SOONEST_S", 0.05)
    ca = LittleCA()
    async with AsyncExitStack() as stack:
        async with ca.serving():
            parts = await stack.enter_async_context(joined(ca))
        await until(lambda: not parts.uplink.is_connected)
        monkeypatch.setattr(uplink, "_RECONNECT_GRACE_S", 0.2)
        parts.uplink.fault = ""
        with pytest.raises(UnavailableError):
            await parts.uplink.ask(Lookup(address="198.18.0.1"))
        await until(lambda: parts.uplink.fault)  # The try that the question caused doesn't meet the CA that comes now.
        await stack.enter_async_context(ca.serving())
        await asyncio.sleep(0.5)
        assert not parts.uplink.is_connected  # Nobody needs it.
        monkeypatch.setattr(uplink, "_RECONNECT_GRACE_S", 30)
        await parts.uplink.ask(Lookup(address="198.18.0.2"))
        await until(lambda: Lookup(address="198.18.0.2") in ca.received)


@pytest.mark.parametrize(("protocols", "version"), [((), ""), (("touchmark.1",), "9.8.7"), (("touchmark.2",), "9.8.7")])
async def test_it_speaks_the_protocol_that_the_ca_chose(
    monkeypatch: pytest.MonkeyPatch, protocols: tuple[str, ...], version: str
) -> None:
    """A CA of release 0.1 chooses none."""
    spoken = set()

    def express(protocol: int, message: Message) -> Message | None:
        spoken.add(protocol)
        return express_in(protocol, message)

    monkeypatch.setattr(link, "express_in", express)
    async with LittleCA(protocols=protocols).serving() as ca, joined(ca) as parts:
        await parts.request_certificate()
        assert parts.uplink.ca_version == version
    assert spoken == {2 if protocols == ("touchmark.2",) else 1}


async def test_every_dial_says_which_roots_are_known_here() -> None:
    """The CA shows a chain to one of them, also while its root is rotated."""
    other = make_authority("next root")
    async with LittleCA().serving() as ca, joined(ca) as parts:
        pin, next_pin = public_key_digest(ca.root.certificate), public_key_digest(other.certificate)
        assert ca.server_names == [format_root_hint([pin])] * 2  # The look for the pinned root, and the stream.
        both = (ca.root.der, other.der)
        assert parts.trust.install(msgspec.structs.replace(ca.bundle, roots=both, sequence=ca.sequence + 1))
        await ca.streams[0].close()
        await until(lambda: len(ca.server_names) == 3 and parts.uplink.is_connected)
        assert ca.server_names[2] == format_root_hint([pin, next_pin])


async def test_who_knows_only_a_root_that_is_gone_is_told_what_to_do() -> None:
    async with LittleCA().serving() as ca:
        token = ca.make_token("shop/web")
    ca.lose_everything()
    async with ca.serving():
        async with parts_of(ca, token) as parts:
            with pytest.raises(VerificationError) as caught:
                await parts.join()
            assert "make a new join token" in caught.value.hint
        gone = make_authority("gone")
        with pytest.raises(VerificationError, match="doesn't hold") as caught:
            await open_stream((ca.host, ca.port), make_context([gone.der], None), TRUST_DOMAIN, mark=0, timeout_s=20)
        assert "ConfigMap" in caught.value.hint and "new join token" in caught.value.hint


async def test_a_refusal_and_silence_are_told_apart() -> None:
    async with LittleCA().serving() as ca, joined(ca) as parts:
        ca.refuse_issuance = "program_not_approved"
        with pytest.raises(IssuanceRefusedError) as caught:
            await parts.request_certificate()
        assert caught.value.reason == "program_not_approved"
        ca.is_mute = True
        with pytest.raises(UnavailableError):
            await parts.request_certificate(timeout_s=0.2)


async def test_a_question_that_a_lost_stream_left_open_is_asked_again_on_the_next() -> None:
    async with LittleCA().serving() as ca, joined(ca) as parts:
        ca.is_mute = True
        waiting = asyncio.create_task(parts.request_certificate())
        await until(lambda: ca.of_type(CertificateRequest))
        ca.is_mute = False
        ca.streams[0].transport.abort()
        assert len(await waiting) == 2
        first, second = ca.of_type(CertificateRequest)
        assert first == second


async def test_a_question_is_given_up_when_no_other_stream_is_had_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "_RECONNECT_GRACE_S", 0.1)
    ca = LittleCA()
    async with AsyncExitStack() as stack:
        async with ca.serving():
            parts = await stack.enter_async_context(joined(ca))
            ca.is_mute = True
            waiting = asyncio.create_task(parts.request_certificate())
            await until(lambda: ca.of_type(CertificateRequest))
        with pytest.raises(UnavailableError, match="there is no other"):
            await waiting
        assert parts.uplink.pending.list_requests() == []


def serial_of(ca: LittleCA) -> object:
    """The serial number of the certificate that the newest stream was opened with."""
    certificate = ca.streams[-1].transport.get_extra_info("peercert")
    return certificate["serialNumber"] if certificate else None


async def test_a_renewed_credential_gets_a_new_stream_and_loses_no_request() -> None:
    async with LittleCA().serving() as ca, joined(ca) as parts:
        ca.is_mute = True
        waiting = asyncio.create_task(parts.request_certificate())
        await until(lambda: ca.of_type(CertificateRequest))
        ca.is_mute = False
        request = make_key_request()
        own = Identity(trust_domain=TRUST_DOMAIN, workload=parse_workload("shop/web"), kind=IdentityKind.SIDECAR)
        chain = ca.issue(request.csr, own)
        verifier = Trust(ca.bundle).verifier
        parts.renew(accept_chain(request, chain, verifier=verifier, generation=2, now=time.time()))
        was_connected = True
        while not ca.of_type(Resume):
            was_connected = was_connected and parts.uplink.is_connected
            await asyncio.sleep(0)
        assert was_connected  # The old stream serves until the new one does.
        assert len(await waiting) == 2
        leaf = x509.load_der_x509_certificate(chain[0])
        assert int(str(serial_of(ca)), 16) == leaf.serial_number
        await until(lambda: len(ca.streams) == 1)


async def test_a_failed_move_to_a_new_stream_keeps_the_old_one() -> None:
    async with LittleCA().serving() as ca, joined(ca) as parts:
        ca.refuse_with = "unavailable"
        parts.renew(parts.own)
        await until(lambda: len(ca.of_type(Resume)) >= 2)  # It is tried again.
        assert len(await parts.request_certificate()) == 2


async def test_an_expired_sidecar_says_so_and_ends() -> None:
    async with LittleCA().serving() as ca, parts_of(ca) as parts:
        feed = await parts.join()
        parts.expire()
        await ca.streams[0].close()
        async with asyncio.timeout(120):
            with pytest.raises(CertificateExpiredError, match="expired") as caught:
                await feed.run()
        assert "touchmark ca join-token shop/web" in caught.value.hint
        assert caught.value.exit_code == 7


async def test_a_clock_that_is_set_ahead_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate seems to have ended, and the CA takes it: it goes by its own clock, as TLS does in this test."""
    async with LittleCA().serving() as ca, parts_of(ca) as parts:
        feed = await parts.join()
        running = asyncio.create_task(feed.run())
        parts.uplink.send(BundleInstalled(sequence=1))
        await until(lambda: ca.of_type(BundleInstalled))  # It is served, by the clock that was right.
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        assert feed.has_expired()
        await ca.streams[0].close()
        await until(lambda: ca.of_type(Resume) or running.done())
        assert not running.done()
        await parts.uplink.close()
        async with asyncio.timeout(120):
            await running


async def test_it_closes_its_stream_properly_and_resumes_nothing() -> None:
    async with LittleCA().serving() as ca, parts_of(ca) as parts:
        feed = await parts.join()
        running = asyncio.create_task(feed.run())
        await until(lambda: ca.streams)
        stream = ca.streams[0]
        await parts.uplink.close()
        async with asyncio.timeout(120):
            await running
        await until(lambda: not ca.streams)
        assert stream.close_code == 1001  # Going away: its addresses are free for others.
        assert not ca.of_type(Resume)


class PodParts(Parts):
    """The parts of a feed that joins by a pod's token, with its files."""

    def __init__(self, ca: LittleCA, directory: Path) -> None:
        self.token, self.trust_file = directory / "token", directory / "roots.pem"
        self.token.write_text("first\n")
        self.trust_file.write_bytes(ca.roots_pem)
        ca.pod_tokens["first"] = "shop/web"
        joining = ByPod(
            token_file=self.token,
            trust_file=self.trust_file,
            trust_domain=TRUST_DOMAIN,
            workload=parse_workload("shop/web"),
        )
        super().__init__(ca, joining)

    def enrolments(self) -> list[str]:
        """The tokens that the CA saw, in order."""
        return [message.token for message in self.ca.received if isinstance(message, EnrolPod)]


@asynccontextmanager
async def a_pod(ca: LittleCA, directory: Path) -> AsyncIterator[PodParts]:
    pod = PodParts(ca, directory)
    running: asyncio.Task[None] | None = None
    try:
        feed = await pod.join()
        running = asyncio.create_task(feed.run())
        yield pod
        assert not running.done(), running
    finally:
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        await pod.close()


async def test_a_pod_whose_certificate_ended_joins_again_with_the_token_of_now(tmp_path: Path) -> None:
    async with LittleCA().serving() as ca, a_pod(ca, tmp_path) as pod:
        pod.token.write_text("second")
        ca.pod_tokens = {"second": "shop/web"}
        pod.expire()
        await ca.streams[0].close()
        await until(lambda: len(pod.credentials) == 2)
        assert pod.enrolments() == ["first", "second"]
        first, second = pod.credentials
        assert first.key.public_key() != second.key.public_key()
        assert pod.own is second
        assert len(await pod.request_certificate(timeout_s=60))


async def test_a_pods_certificate_that_ends_while_the_stream_lives_is_replaced_by_joining_again(tmp_path: Path) -> None:
    ca = LittleCA(life_s=2)
    async with ca.serving(), a_pod(ca, tmp_path) as pod:
        await until(lambda: len(pod.credentials) >= 2)
        assert not ca.of_type(Resume)


async def test_a_pod_that_the_ca_does_not_know_any_more_joins_again(tmp_path: Path) -> None:
    async with LittleCA().serving() as ca, a_pod(ca, tmp_path) as pod:
        ca.refuse_resume = True
        await ca.streams[0].close()
        await until(lambda: len(pod.credentials) == 2)
        assert len(ca.of_type(Resume)) == 1


async def test_a_ca_that_lost_its_keys_is_joined_again_once_the_trust_file_says_so(tmp_path: Path) -> None:
    """The roots are read at every dial; TLS refuses the old certificate without a word, and that heals as well."""
    ca = LittleCA()
    async with ca.serving():
        pass
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(AsyncExitStack())
        await serving.enter_async_context(ca.serving())
        pod = await stack.enter_async_context(a_pod(ca, tmp_path))
        await serving.aclose()
        ca.lose_everything()
        await stack.enter_async_context(ca.serving())
        await until(lambda: "certificate doesn't hold" in pod.uplink.fault)
        assert pod.enrolments() == ["first"]  # The impostor, for all we know, has heard nothing.
        pod.trust_file.write_bytes(ca.roots_pem)
        await until(lambda: len(pod.credentials) == 2, timeout_s=30)
        assert pod.credentials[1].issuer == "another issuer"


async def test_a_ca_whose_bundle_went_back_is_joined_again(tmp_path: Path) -> None:
    ca = LittleCA()
    ca.sequence = 5
    async with ca.serving(), a_pod(ca, tmp_path) as pod:
        ca.sequence = 3
        await ca.streams[0].close()
        await until(lambda: len(pod.credentials) == 2)


async def test_a_pods_sidecar_never_gives_up_joining_and_says_why_it_waits(tmp_path: Path) -> None:
    async with LittleCA().serving() as ca:
        pod = PodParts(ca, tmp_path)
        ca.pod_tokens.clear()
        pod.trust_file.unlink()
        joining = asyncio.create_task(pod.join())
        try:
            await until(lambda: "trust's file" in pod.uplink.fault)
            pod.trust_file.write_bytes(make_authority("other").certificate.public_bytes(Encoding.PEM))
            await until(lambda: "certificate doesn't hold" in pod.uplink.fault)
            assert pod.enrolments() == []
            pod.trust_file.write_bytes(ca.roots_pem)
            await until(lambda: "not a pod's token" in pod.uplink.fault)
            ca.pod_tokens["first"] = "shop/web"
            async with asyncio.timeout(60):
                await joining
            assert pod.uplink.fault == ""
        finally:
            joining.cancel()
            await asyncio.wait({joining})
            await pod.close()


async def test_a_welcome_that_is_of_no_use_is_given_up_and_asked_for_again(tmp_path: Path) -> None:
    async with LittleCA().serving() as ca:
        pod = PodParts(ca, tmp_path)
        pod.failures.append(CredentialError("not yet valid", reason=Reason.CA_UNAVAILABLE))
        await pod.join()
        assert len(pod.enrolments()) == 2
        await until(lambda: len(ca.streams) == 1)
        await pod.close()


async def test_a_pod_that_is_not_renewed_proves_itself_again_and_leaves_its_stream_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first stream open the CA would take it for a second sidecar."""
    async with LittleCA().serving() as ca, a_pod(ca, tmp_path) as pod:
        greet = ca._greet
        open_then: list[int] = []

        def note(stream: ServerConnection, first: FromSidecar) -> FromCA:
            open_then.append(len(ca.streams))
            return greet(stream, first)

        monkeypatch.setattr(ca, "_greet", note)
        pod.uplink.prove_again()
        await until(lambda: len(pod.credentials) == 2)
        await until(lambda: pod.uplink.is_connected)
        assert open_then == [0]


async def test_a_ca_that_opens_no_stream_yet_is_waited_for_and_then_resumed(tmp_path: Path) -> None:
    """A restarted CA reads the cluster first: thousands of pods must not be reviewed anew for that."""
    async with LittleCA().serving() as ca, a_pod(ca, tmp_path) as pod:
        ca.is_busy = True
        await ca.streams[0].close()
        await until(lambda: ca.refused_by_http >= 4)
        ca.is_busy = False
        await until(lambda: ca.of_type(Resume))
        assert len(pod.enrolments()) == 1


async def test_a_stream_whose_welcome_cant_be_taken_isnt_served(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Uplink(is_join_repeatable=False)
    current = Mock()

    async def resume(*_: object) -> Mock:
        way.attach(current, Mock(ca_version=""), clock_offset_s=0.0)
        return Mock(bundle=Mock(sequence=1))

    opener = Mock(uplink=way, resume=resume, joining=Mock(is_repeatable=False))
    receiver = Mock(resume=Mock(side_effect=ProtocolError("a bundle that can't be used")))
    feed = Feed(opener, trust=Mock(), credentials=Mock(), receiver=receiver, events=Mock())
    monkeypatch.setattr(feed_module, "tell_offset", Mock())
    with pytest.raises(ProtocolError):
        await feed._resume()
    assert way.link is None
    current.abort.assert_called_once_with()
