"""The one stream between this sidecar and its CA: enrols, resumes after every loss, carries questions and answers.

Belongs here: the stream's life, deadlines and bounds. Doesn't: dialling and TLS (``feed_dial.py``), what messages mean
to policy, directory and trust (``receiving.py``). On loss everything keeps what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from shared.model.errors import ProtocolError, RefusedError, UnavailableError, VerificationError
from shared.model.join_token import JoinToken, format_join_token
from shared.model.messages import (
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
    Enrol,
    FromCA,
    FromSidecar,
    ProgramEvidence,
    Refusal,
    Registration,
    Resume,
    Welcome,
    decode_from_ca,
    encode_message,
)
from shared.model.program import Program
from sidecar.credential.credential import Credential, IssuanceRefusedError, KeyRequest, make_key_request
from sidecar.events import Events
from sidecar.feed_dial import fetch_pinned_root, make_context, open_stream

MAX_QUEUED = 4096
MAX_REQUESTS = 1024
_DIAL_S = 10.0
_WELCOME_S = 15.0
_SEND_S = 15.0
_CLOSE_S = 1.0
_FIRST_BACKOFF_S = 0.2
_LAST_BACKOFF_S = 15.0
_RECONNECT_GRACE_S = 1.0


class CertificateExpiredError(RefusedError):
    """The sidecar's own certificate has ended: nothing but a new join token brings it back."""

    code = "certificate_expired"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Link:
    """One stream, and what waits to be sent on it."""

    stream: ClientConnection
    outgoing: asyncio.Queue[FromSidecar]


class Feed:
    """The stream to the CA.

    Arguments:
        ca: host and port.
        token: the join token of the first enrolment.
        registration: what this sidecar says of itself.
        mark: SO_MARK of its socket; 0 for none.

    Attributes:
        credential: the sidecar's own; the resuming stream authenticates with it.
        roots: DER of the roots that the CA's server must lead to.
        installed_sequence: of the trust bundle in force.
        on_welcome: called with each welcome after the first.
        on_message: called with every message that isn't an answer of this object's.
    """

    def __init__(
        self, *, ca: tuple[str, int], token: JoinToken, registration: Registration, events: Events, mark: int = 0
    ) -> None:
        self._ca = ca
        self._token = token
        self._registration = registration
        self._events = events
        self._mark = mark
        self._numbers = count(1)
        self._requests: dict[int, tuple[CertificateRequest, asyncio.Future[tuple[bytes, ...]]]] = {}
        self._connected = asyncio.Event()
        self._has_renewed = asyncio.Event()
        self._link: _Link | None = None
        self._is_closing = False
        self.credential: Credential | None = None
        self.roots: tuple[bytes, ...] = ()
        self.installed_sequence = 0
        self.on_welcome: Callable[[Welcome], None] | None = None
        self.on_message: Callable[[FromCA], None] | None = None

    @property
    def is_connected(self) -> bool:
        """Tell whether the stream is open now."""
        return self._link is not None

    async def join(self) -> tuple[Welcome, KeyRequest]:
        """Enrol with the join token, trying again while the CA can't be reached; return its welcome and our key.

        Raises:
            RefusedError: the CA refuses the token.
            VerificationError: whoever answers isn't the CA that made the token.
        """
        request = make_key_request()  # One key for all tries.
        backoff = _Backoff()
        while True:
            try:
                root = await fetch_pinned_root(self._ca, self._token.root_pin, mark=self._mark, timeout_s=_DIAL_S)
                self.roots = (root,)
                message = Enrol(token=self._token_text(), csr=request.csr, registration=self._registration)
                return await self._open(message, self._token.trust_domain), request
            except UnavailableError as error:
                delay_s = backoff.next()
                self._events.emit("ca_unreachable", message=error.message, retry_s=round(delay_s, 3))
                await asyncio.sleep(delay_s)

    async def run(self) -> None:
        """Serve the stream that ``join`` opened, resume it after every loss and under every new credential, until
        cancelled or closed.

        Raises:
            CertificateExpiredError: the sidecar's own certificate ended while no stream could be had.
        """
        backoff = _Backoff()
        loop = asyncio.get_running_loop()
        while not self._is_closing:
            if (link := self._link) is not None:
                started = loop.time()
                await self._serve(link)
                if loop.time() - started > _LAST_BACKOFF_S:
                    backoff = _Backoff()
                continue
            await asyncio.sleep(backoff.next())
            if self.credential is not None and self.credential.not_after <= time.time():
                raise CertificateExpiredError(
                    "this sidecar's certificate has expired while the CA couldn't be reached",
                    hint=f"make a new token with `touchmark ca join-token {self._token.workload}` and start it again",
                )
            await self._resume()

    def renew(self, credential: Credential) -> None:
        """Take the sidecar's renewed credential, and move to a stream under it while the present one serves on."""
        self.credential = credential
        self._has_renewed.set()

    def send(self, message: FromSidecar) -> None:
        """Queue a message.

        Raises:
            UnavailableError: there is no stream, or it is so slow that the queue is full.
        """
        if self._link is None:
            raise UnavailableError("there is no stream to the CA", hint="`touchmark ca status`")
        try:
            self._link.outgoing.put_nowait(message)
        except asyncio.QueueFull as error:
            raise UnavailableError("the stream to the CA is too slow") from error

    async def request_certificate(
        self, csr: bytes, program: Program | None, evidence: ProgramEvidence, *, timeout_s: float
    ) -> tuple[bytes, ...]:
        """Ask for a leaf and return its chain.

        Raises:
            IssuanceRefusedError: the CA refused.
            UnavailableError: there is no stream, or no answer in time.
        """
        if len(self._requests) >= MAX_REQUESTS:
            raise UnavailableError("too many certificates are being asked for")
        await self._wait_connected(min(timeout_s, _RECONNECT_GRACE_S))
        number = next(self._numbers)
        future: asyncio.Future[tuple[bytes, ...]] = asyncio.get_running_loop().create_future()
        request = CertificateRequest(request=number, csr=csr, program=program, evidence=evidence)
        self._requests[number] = request, future
        try:
            self.send(request)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise UnavailableError("the CA didn't answer in time", hint="`touchmark ca status`") from error
        finally:
            del self._requests[number]

    async def close(self, *, timeout_s: float = _CLOSE_S) -> None:
        """Close the stream properly, within a deadline; nothing is resumed afterwards."""
        self._is_closing = True
        if (link := self._link) is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await link.stream.close()
            except TimeoutError:
                link.stream.transport.abort()

    def _token_text(self) -> str:
        return format_join_token(self._token)

    async def _wait_connected(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError as error:
            raise UnavailableError("there is no stream to the CA", hint="`touchmark ca status`") from error

    async def _open(self, first: Enrol | Resume, trust_domain: str) -> Welcome:
        context = make_context(self.roots, self.credential)
        stream = await open_stream(self._ca, context, trust_domain, mark=self._mark, timeout_s=_DIAL_S)
        try:
            async with asyncio.timeout(_WELCOME_S):
                await stream.send(encode_message(first), text=True)
                answer = _decode(await stream.recv())
        except (TimeoutError, ConnectionClosed) as error:
            await stream.close()
            raise UnavailableError(f"the CA gave no welcome: {str(error) or 'deadline exceeded'}") from error
        except BaseException:
            await stream.close()
            raise
        if isinstance(answer, Welcome):
            if self._is_closing:
                await stream.close()
                raise UnavailableError("the sidecar stops")
            if answer.trust_domain != trust_domain:
                await stream.close()
                raise VerificationError("the CA's trust domain isn't the join token's", reason="peer_untrusted")
            self._link = _Link(stream=stream, outgoing=asyncio.Queue(MAX_QUEUED))
            self._connected.set()
            return answer
        await stream.close()
        if isinstance(answer, Refusal):
            if answer.code in ("unavailable", "overloaded"):
                raise UnavailableError(answer.message, hint=answer.hint)
            raise RefusedError(f"the CA refuses this sidecar: {answer.message}", hint=answer.hint)
        raise ProtocolError("the CA's first message is no welcome")

    async def _resume(self) -> bool:
        """Open another stream under the present credential, and have everything asked again on it."""
        message = Resume(registration=self._registration, installed_sequence=self.installed_sequence)
        try:
            welcome = await self._open(message, self._token.trust_domain)
        except (RefusedError, UnavailableError, VerificationError, ProtocolError) as error:
            self._events.emit("ca_stream_not_resumed", code=error.code, message=error.message, hint=error.hint)
            return False
        self._events.emit("ca_stream_resumed", sequence=welcome.bundle.sequence)
        if self.on_welcome is not None:
            self.on_welcome(welcome)
        for request, _ in self._requests.values():
            self.send(request)
        return True

    async def _serve(self, link: _Link) -> None:
        """Serve one stream until it is lost, closed, or replaced by one under the renewed credential."""
        ends = {
            asyncio.create_task(self._write(link), name="feed writer"),
            asyncio.create_task(self._read(link), name="feed reader"),
        }
        try:
            await self._wait_for_end(ends)
            if self._link is link and not self._is_closing:
                for task in ends:
                    if task.done() and (error := task.exception()) is not None:
                        self._events.emit("ca_stream_lost", error=type(error).__name__, message=str(error)[:300])
        finally:
            if self._link is link:
                self._link = None
                self._connected.clear()
                for _, future in self._requests.values():
                    if not future.done():
                        future.set_exception(UnavailableError("the stream to the CA broke"))
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)
            link.stream.transport.abort()

    async def _wait_for_end(self, ends: set[asyncio.Task[None]]) -> None:
        backoff = _Backoff()
        renewed = asyncio.create_task(self._wait_renewed(None), name="feed renewal")
        try:
            while not self._is_closing:
                await asyncio.wait({*ends, renewed}, return_when=asyncio.FIRST_COMPLETED)
                if any(task.done() for task in ends):
                    return
                self._has_renewed.clear()
                # The old stream serves meanwhile; the CA ends it as soon as it knows the new one.
                if await self._resume():
                    return
                renewed = asyncio.create_task(self._wait_renewed(backoff.next()), name="feed renewal")
        finally:
            renewed.cancel()

    async def _wait_renewed(self, timeout_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_renewed.wait()

    async def _write(self, link: _Link) -> None:
        while True:
            message = await link.outgoing.get()
            async with asyncio.timeout(_SEND_S):
                await link.stream.send(encode_message(message), text=True)

    async def _read(self, link: _Link) -> None:
        # No deadline of its own: silence is normal, and the stream's pings notice a dead peer.
        while True:
            message = _decode(await link.stream.recv())
            if isinstance(message, CertificateIssued):
                if (waiting := self._requests.get(message.request)) is not None and not waiting[1].done():
                    waiting[1].set_result(message.chain)
            elif isinstance(message, CertificateRefused):
                if (waiting := self._requests.get(message.request)) is not None and not waiting[1].done():
                    waiting[1].set_exception(IssuanceRefusedError(message.message, reason=message.reason))
            elif isinstance(message, Refusal):
                raise RefusedError(f"{message.code}: {message.message}", hint=message.hint)
            elif self.on_message is not None:
                self.on_message(message)


class _Backoff:
    """Growing delays with jitter: a CA that comes back isn't met by all sidecars at once."""

    def __init__(self) -> None:
        self._ceiling_s = _FIRST_BACKOFF_S

    def next(self) -> float:
        delay_s = self._ceiling_s * random.uniform(0.5, 1)
        self._ceiling_s = min(self._ceiling_s * 2, _LAST_BACKOFF_S)
        return delay_s


def _decode(data: str | bytes) -> FromCA:
    try:
        return decode_from_ca(data.encode() if isinstance(data, str) else data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the CA sent a message that can't be read: {error}"[:300]) from error
