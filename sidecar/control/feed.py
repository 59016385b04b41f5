"""The one stream between this sidecar and its CA: enrols, resumes after every loss, carries questions and answers.

Belongs here: the stream's life, deadlines and bounds. Doesn't: what proves this sidecar (``joining.py``), dialling and
TLS (``ca_dial.py``), what messages mean to policy, directory and trust (``dispatch.py``). On loss everything keeps
what it has. Where joining can be repeated (in Kubernetes), a certificate that ended or that the CA doesn't take any
more is healed by joining again, in the same process; the stream never gives up.

Longer than most: opening, serving and replacing a stream share its state, and apart they would share locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from shared.model.errors import ProtocolError, RefusedError, TouchmarkError, UnavailableError, VerificationError
from shared.model.identity.program import Program
from shared.model.wire.messages import (
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
    Enrol,
    EnrolPod,
    FromCA,
    FromSidecar,
    ProgramEvidence,
    Refusal,
    Registration,
    Resume,
    Welcome,
    decode_from_ca,
    encode_message,
    express_in,
)
from shared.model.wire.protocol import read_chosen_protocol
from sidecar.control.ca_dial import NoAnswerError, make_context, name_roots, open_stream
from sidecar.control.joining import Joining
from sidecar.credential.credential import Credential, IssuanceRefusedError, KeyRequest, make_key_request
from sidecar.events import Events

MAX_QUEUED = 4096
MAX_REQUESTS = 1024
_DIAL_S = 10.0
_WELCOME_S = 15.0
_SEND_S = 15.0
_CLOSE_S = 1.0
_FIRST_BACKOFF_S = 0.2
_LAST_BACKOFF_S = 15.0
# Who needs the CA ends a longer backoff, and waits that long for the stream that is opened then.
_SOONEST_S = 1.0
_RECONNECT_GRACE_S = 4.0
_Accepted = TypeVar("_Accepted")
_CLOCK_LOOK_S = 60.0
# A CA that doesn't know our certificate's authority ends TLS without a word: so often in a row, then join again.
_MAX_SILENT_RESUMES = 2


class CertificateExpiredError(RefusedError):
    """The sidecar's own certificate has ended: nothing but a new join token brings it back."""

    code = "certificate_expired"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Link:
    """One stream, and what waits to be sent on it."""

    stream: ClientConnection
    protocol: int
    outgoing: asyncio.Queue[FromSidecar]


class Feed:
    """The stream to the CA.

    Arguments:
        ca: host and port.
        joining: how this sidecar proves itself where it has no certificate that the CA takes.
        registration: what this sidecar says of itself.
        mark: SO_MARK of its socket; 0 for none.

    Attributes:
        credential: the sidecar's own; the resuming stream authenticates with it.
        roots: DER of the roots of the trust bundle in force.
        fault: why there is no stream, while there is none; for people.
        ca_version: of the CA's release at the last welcome; empty when it didn't say (0.1).
        installed_sequence: of the trust bundle in force.
        on_welcome: called with each welcome of a resumed stream.
        on_joined_again: called with the welcome of a repeated enrolment and its key; returns the new own credential, or
            raises ``TouchmarkError``.
        on_message: called with every message that isn't an answer of this object's.
    """

    def __init__(
        self, *, ca: tuple[str, int], joining: Joining, registration: Registration, events: Events, mark: int = 0
    ) -> None:
        self._ca = ca
        self._joining = joining
        self._registration = registration
        self._events = events
        self._mark = mark
        self._numbers = count(1)
        self._requests: dict[int, tuple[CertificateRequest, asyncio.Future[tuple[bytes, ...]]]] = {}
        self._connected = asyncio.Event()
        self._has_renewed = asyncio.Event()
        self._is_needed = asyncio.Event()
        self._link: _Link | None = None
        self._is_closing = False
        self._must_join = False
        self._silent_resumes = 0
        self.fault = ""
        self.ca_version = ""
        self.credential: Credential | None = None
        self.roots: tuple[bytes, ...] = ()
        self.installed_sequence = 0
        self.on_welcome: Callable[[Welcome], None] | None = None
        self.on_joined_again: Callable[[Welcome, KeyRequest], Credential] | None = None
        self.on_message: Callable[[FromCA], None] | None = None

    @property
    def is_connected(self) -> bool:
        """Tell whether the stream is open now."""
        return self._link is not None

    async def join(self, accept: Callable[[Welcome, KeyRequest], _Accepted]) -> _Accepted:
        """Enrol, trying again while the CA can't be reached; return what ``accept`` makes of its welcome and our key.

        Arguments:
            accept: raises ``TouchmarkError`` when the welcome is of no use.

        Raises:
            RefusedError: the CA refuses the join token.
            VerificationError: whoever answers isn't the CA that made the join token.
            ProtocolError: it doesn't speak our protocol.

        Where joining can be repeated, none of these is raised: a pod that the CA doesn't know yet is known soon.
        """
        request = make_key_request()  # One key for all tries.
        backoff = _Backoff()
        while True:
            try:
                return self._accept(await self._enrol(request), request, accept)
            except UnavailableError as error:
                self.fault, delay_s = error.message, backoff.next()
                self._events.emit("ca_unreachable", message=error.message, retry_s=round(delay_s, 3))
            except TouchmarkError as error:
                if not self._joining.is_repeatable:
                    raise
                self.fault, delay_s = error.message, backoff.next()
                self._events.emit(
                    "join_refused", code=error.code, message=error.message, hint=error.hint, retry_s=round(delay_s, 3)
                )
            await asyncio.sleep(delay_s)

    async def run(self) -> None:
        """Serve the stream that ``join`` opened, open another after every loss and under every new credential, until
        cancelled or closed.

        Raises:
            CertificateExpiredError: the sidecar's own certificate ended while no stream could be had, and joining can't
                be repeated.
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
            await self._pause(backoff.next())
            if self.has_expired() and not self._joining.is_repeatable:
                raise CertificateExpiredError(
                    "this sidecar's certificate has expired while the CA couldn't be reached",
                    hint=f"make a new token with `touchmark ca join-token {self._joining.workload}` and start it again",
                )
            await self._open_another()

    def has_expired(self) -> bool:
        """Tell whether the sidecar's own certificate has ended."""
        return self.credential is not None and self.credential.not_after <= time.time()

    def renew(self, credential: Credential) -> None:
        """Take the sidecar's renewed credential, and move to a stream under it while the present one serves on."""
        self.credential = credential
        self._has_renewed.set()

    def prove_again(self) -> None:
        """The CA doesn't renew this sidecar's certificate: join again, where that can be repeated."""
        if self._joining.is_repeatable:
            self._must_join = True
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

    async def ask(self, message: FromSidecar) -> None:
        """Queue a message whose answer somebody waits for; a lost stream is opened again for it.

        Raises:
            UnavailableError: there is no stream, and soon there was none either; or it is too slow.
        """
        await self._wait_connected(_RECONNECT_GRACE_S)
        self.send(message)

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

    async def _pause(self, delay_s: float) -> None:
        """Wait before the next try; where the CA is needed, not as long as for its own sake."""
        soonest_s = min(delay_s, _SOONEST_S * random.uniform(0.5, 1))
        await asyncio.sleep(soonest_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s - soonest_s):
                await self._is_needed.wait()
        self._is_needed.clear()

    async def _wait_connected(self, timeout_s: float) -> None:
        if self._connected.is_set():
            return
        self._is_needed.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError as error:
            raise UnavailableError("there is no stream to the CA", hint="`touchmark ca status`") from error

    async def _open(self, first: Enrol | EnrolPod | Resume, roots: tuple[bytes, ...]) -> Welcome:
        trust_domain = self._joining.trust_domain
        context = make_context(roots, self.credential if isinstance(first, Resume) else None)
        stream = await open_stream(
            self._ca, context, trust_domain, server_name=name_roots(roots), mark=self._mark, timeout_s=_DIAL_S
        )
        try:
            protocol = read_chosen_protocol(stream.subprotocol)
            async with asyncio.timeout(_WELCOME_S):
                await _send(stream, first, protocol)
                answer = _decode(await stream.recv())
        except (TimeoutError, ConnectionClosed) as error:
            await stream.close()
            raise NoAnswerError(f"the CA gave no welcome: {str(error) or 'deadline exceeded'}") from error
        except BaseException:
            await stream.close()
            raise
        if isinstance(answer, Welcome):
            if self._is_closing:
                await stream.close()
                raise UnavailableError("the sidecar stops")
            if answer.trust_domain != trust_domain:
                await stream.close()
                raise VerificationError(f"the CA's trust domain isn't {trust_domain}", reason="peer_untrusted")
            if isinstance(first, Resume) and self._joining.is_repeatable and self._is_behind(answer):
                await stream.close()
                raise RefusedError("the CA's trust bundle is older than the one in force here: it was restored")
            self._link = _Link(stream=stream, protocol=protocol, outgoing=asyncio.Queue(MAX_QUEUED))
            self.ca_version = answer.ca_version
            self._connected.set()
            self._must_join, self._silent_resumes, self.fault = False, 0, ""
            return answer
        await stream.close()
        if isinstance(answer, Refusal):
            if answer.code in ("unavailable", "overloaded"):
                raise UnavailableError(answer.message, hint=answer.hint)
            raise RefusedError(f"the CA refuses this sidecar: {answer.message}", hint=answer.hint)
        raise ProtocolError("the CA's first message is no welcome")

    def _is_behind(self, welcome: Welcome) -> bool:
        return welcome.bundle.sequence < self.installed_sequence

    async def _find_roots(self, installed: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return await self._joining.find_roots(self._ca, installed, mark=self._mark, timeout_s=_DIAL_S)

    async def _enrol(self, request: KeyRequest) -> Welcome:
        roots = await self._find_roots(())
        return await self._open(self._joining.introduce(request.csr, self._registration), roots)

    def _accept(
        self, welcome: Welcome, request: KeyRequest, accept: Callable[[Welcome, KeyRequest], _Accepted]
    ) -> _Accepted:
        try:
            return accept(welcome, request)
        except TouchmarkError:
            if self._link is not None:  # Its welcome is of no use.
                self._link.stream.transport.abort()
            self._link = None
            self._connected.clear()
            raise

    async def _open_another(self) -> bool:
        """Open another stream: under the present credential, or by joining again. Return whether there is one."""
        if self._joining.is_repeatable and (self._must_join or self.has_expired()):
            return await self._join_again()
        return await self._resume()

    async def _join_again(self) -> bool:
        request = make_key_request()
        try:
            welcome = await self._enrol(request)
            if self.on_joined_again is not None:
                self.credential = self._accept(welcome, request, self.on_joined_again)
        except TouchmarkError as error:
            self._must_join, self.fault = True, error.message
            self._events.emit("not_joined_again", code=error.code, message=error.message, hint=error.hint)
            return False
        self._events.emit("joined_again", sequence=welcome.bundle.sequence)
        self._ask_again()
        return True

    async def _resume(self) -> bool:
        """Open another stream under the present credential, and have everything asked again on it."""
        message = Resume(registration=self._registration, installed_sequence=self.installed_sequence)
        try:
            welcome = await self._open(message, await self._find_roots(self.roots))
        except (RefusedError, UnavailableError, VerificationError, ProtocolError) as error:
            self._silent_resumes += isinstance(error, NoAnswerError)
            if isinstance(error, RefusedError) or self._silent_resumes >= _MAX_SILENT_RESUMES:
                self._must_join = True
            self.fault = error.message
            self._events.emit("ca_stream_not_resumed", code=error.code, message=error.message, hint=error.hint)
            return False
        self._events.emit("ca_stream_resumed", sequence=welcome.bundle.sequence, ca_version=self.ca_version)
        if self.on_welcome is not None:
            self.on_welcome(welcome)
        self._ask_again()
        return True

    def _ask_again(self) -> None:
        for request, _ in self._requests.values():
            self.send(request)

    async def _serve(self, link: _Link) -> None:
        """Serve one stream until it is lost, closed, or replaced by one under the renewed credential."""
        ends = {
            asyncio.create_task(self._write(link), name="feed writer"),
            asyncio.create_task(self._read(link), name="feed reader"),
        }
        try:
            await self._wait_for_end(ends)
            if self._link is link and not self._is_closing:
                # Reader and writer both end by it: one of them tells.
                errors = [error for task in ends if task.done() and (error := task.exception()) is not None]
                for error in errors[:1]:
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
        is_due = False  # Another stream is wanted and wasn't had: only the backoff says when it is tried again.
        try:
            while not self._is_closing:
                await asyncio.wait(
                    {*ends, renewed},
                    timeout=None if is_due else self._until_expiry_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if any(task.done() for task in ends):
                    return
                if not renewed.done() and not self.has_expired():
                    continue  # The wall clock isn't there yet.
                self._has_renewed.clear()
                # The old stream serves meanwhile; the CA ends it as soon as it knows the new one.
                if await self._open_another():
                    return
                is_due = True
                renewed.cancel()
                renewed = asyncio.create_task(self._wait_renewed(backoff.next()), name="feed renewal")
        finally:
            renewed.cancel()

    def _until_expiry_s(self) -> float | None:
        if self.credential is None or not self._joining.is_repeatable:
            return None  # Nothing is to be done at the end but to be told by the CA.
        # By the wall clock, which may be set meanwhile: look again now and then.
        return min(max(0.0, self.credential.not_after - time.time()), _CLOCK_LOOK_S)

    async def _wait_renewed(self, timeout_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_renewed.wait()

    async def _write(self, link: _Link) -> None:
        while True:
            message = await link.outgoing.get()
            async with asyncio.timeout(_SEND_S):
                await _send(link.stream, message, link.protocol)

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


async def _send(stream: ClientConnection, message: FromSidecar, protocol: int) -> None:
    if (known := express_in(protocol, message)) is not None:
        await stream.send(encode_message(known), text=True)


def _decode(data: str | bytes) -> FromCA:
    try:
        return decode_from_ca(data.encode() if isinstance(data, str) else data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the CA sent a message that can't be read: {error}"[:300]) from error
