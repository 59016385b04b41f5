"""The stream's life once the sidecar has joined: serves it, resumes it after every loss, moves it to new credentials.

Belongs here: when another stream is opened, and how. Doesn't: opening one (``opening.py``), sending on it
(``uplink.py``), what messages mean to policy, directory and trust (``dispatch.py``). On loss everything keeps what it
has. Where joining can be repeated (in Kubernetes), a certificate that ended or that the CA doesn't take any more is
healed by joining again, in the same process; the stream never gives up. Elsewhere one that ended is healed by the
renewal key, if the CA has it and takes it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

from shared.model.errors import ProtocolError, RefusedError, TouchmarkError, UnavailableError, VerificationError
from shared.model.wire.messages import CertificateIssued, CertificateRefused, FromCA, Refusal, Welcome
from sidecar.control import backoff as delays
from sidecar.control.backoff import Backoff
from sidecar.control.ca_dial import NoAnswerError
from sidecar.control.clock import tell_offset
from sidecar.control.link import Link
from sidecar.control.opening import Opener, SecondSidecarError
from sidecar.credential.credential import Credential, KeyRequest, make_key_request
from sidecar.events import Events

# A part that needs the CA ends a longer backoff, and waits that long for the stream that is opened then.
_SOONEST_S = 1.0
_CLOCK_LOOK_S = 60.0
_LEAVE_S = 3.0
# A CA that doesn't know our certificate's authority ends TLS without a word: so often in a row, then join again.
_MAX_SILENT_RESUMES = 2


class CertificateExpiredError(RefusedError):
    """The sidecar's own certificate has ended: nothing but a new join token brings it back."""

    code = "certificate_expired"


class TrustInForce(Protocol):
    """The trust bundle in force: ``mesh.trust.Trust``."""

    @property
    def roots(self) -> tuple[bytes, ...]:
        """DER of its roots."""

    @property
    def sequence(self) -> int:
        """The CA's number of it."""


class OwnCredential(Protocol):
    """What holds the sidecar's own credential: ``credential.store.CredentialStore``."""

    @property
    def own(self) -> Credential:
        """The one to authenticate with."""


class Receiver(Protocol):
    """What the CA speaks to: ``dispatch.Dispatch``."""

    def receive(self, message: FromCA) -> None:
        """Act on a message that isn't an answer to a certificate request.

        Raises:
            ProtocolError: it can't be right; the stream then ends.
        """

    def resume(self, welcome: Welcome) -> None:
        """Take the welcome of a resumed stream."""

    def join_again(self, welcome: Welcome, request: KeyRequest) -> None:
        """Take the welcome of a repeated enrolment: from then on its credential is the sidecar's own.

        Raises:
            TouchmarkError: it is of no use; nothing has changed.
        """


class Feed:
    """The stream to the CA, from the sidecar's joining to its end.

    Arguments:
        opener: has opened the first stream.
        trust: the bundle in force; its roots verify the CA.
        credentials: hold the credential that resuming streams authenticate with.
        receiver: gets every message and every later welcome.
    """

    def __init__(
        self, opener: Opener, *, trust: TrustInForce, credentials: OwnCredential, receiver: Receiver, events: Events
    ) -> None:
        self._opener = opener
        self._joining = opener.joining
        self._uplink = opener.uplink
        self._trust = trust
        self._credentials = credentials
        self._receiver = receiver
        self._events = events
        self._silent_resumes = 0
        # The wall clock by which certificates held last, as its distance from the time since the machine's start.
        self._proven_clock = time.time() - _since_start_s()

    async def run(self) -> None:
        """Serve the stream that joining opened, open another after every loss and under every new credential, until
        cancelled or the uplink is closed.

        Raises:
            CertificateExpiredError: the sidecar's own certificate ended while no stream could be had, and joining can't
                be repeated, or the CA refuses its renewal key. A wall clock that was set ahead ends none: it may be set
                back, and the CA goes by its own.
        """
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while not self._uplink.is_closing:
            if (link := self._uplink.link) is not None:
                started = loop.time()
                await self._serve(link)
                if loop.time() - started > delays.LAST_S:
                    backoff = Backoff()
                continue
            await self._pause(backoff.next())
            if self._has_surely_expired() and not self._joining.can_heal:
                raise CertificateExpiredError(
                    "this sidecar's certificate has expired while the CA couldn't be reached",
                    hint=f"make a new token with `touchmark ca join-token {self._joining.workload}` and start it again",
                )
            await self._open_another()

    def has_expired(self) -> bool:
        """Tell whether the sidecar's own certificate has ended."""
        return self._credentials.own.not_after <= time.time()

    def _has_surely_expired(self) -> bool:
        return self.has_expired() and self._credentials.own.not_after <= self._proven_clock + _since_start_s()

    async def _pause(self, delay_s: float) -> None:
        """Wait before the next try; shorter where a part needs the CA."""
        soonest_s = min(delay_s, _SOONEST_S * random.uniform(0.5, 1))
        await asyncio.sleep(soonest_s)
        await self._uplink.wait_need(delay_s - soonest_s)

    async def _open_another(self) -> bool:
        """Open another stream: under the present credential, or by joining again. Return whether there is one."""
        must_join = self._joining.is_repeatable and self._uplink.must_join
        if must_join or (self._joining.can_heal and self.has_expired()):
            return await self._join_again()
        return await self._resume()

    async def _join_again(self) -> bool:
        if (link := self._uplink.link) is not None:
            # With it open the CA would take this for a second sidecar. What serves the link notices its end.
            await link.close(timeout_s=_LEAVE_S, is_stopping=False)
        try:
            welcome, _ = await self._opener.enrol(make_key_request(), self._receiver.join_again)
        except TouchmarkError as error:
            is_final = isinstance(error, RefusedError) and not isinstance(error, SecondSidecarError)
            if is_final and not self._joining.is_repeatable:
                raise CertificateExpiredError(error.message, hint=error.hint) from error
            self._uplink.note_fault(error.message, must_join=True)
            self._events.emit("not_joined_again", code=error.code, message=error.message, hint=error.hint)
            return False
        self._silent_resumes = 0
        self._events.emit("joined_again", sequence=welcome.bundle.sequence)
        tell_offset(self._uplink.clock_offset_s, self._events)
        self._ask_again()
        return True

    async def _resume(self) -> bool:
        """Open another stream under the present credential, and ask everything again on it."""
        try:
            welcome = await self._opener.resume(self._credentials.own, self._trust.roots, self._trust.sequence)
        except (RefusedError, UnavailableError, VerificationError, ProtocolError) as error:
            self._silent_resumes += isinstance(error, NoAnswerError)
            must_join = isinstance(error, RefusedError) or self._silent_resumes >= _MAX_SILENT_RESUMES
            self._uplink.note_fault(error.message, must_join=must_join)
            self._events.emit("ca_stream_not_resumed", code=error.code, message=error.message, hint=error.hint)
            return False
        self._silent_resumes = 0
        self._events.emit("ca_stream_resumed", sequence=welcome.bundle.sequence, ca_version=self._uplink.ca_version)
        tell_offset(self._uplink.clock_offset_s, self._events)
        try:
            self._receiver.resume(welcome)
        except BaseException:  # Served without what its beginning asks anew, old answers would count as current.
            if (link := self._uplink.link) is not None:
                link.abort()
            self._uplink.detach()
            raise
        self._ask_again()
        return True

    def _ask_again(self) -> None:
        for request in self._uplink.pending.list_requests():
            self._uplink.send(request)

    async def _serve(self, link: Link) -> None:
        """Serve one stream until it is lost, closed, or replaced by one under the renewed credential."""
        self._proven_clock = time.time() - _since_start_s()
        ends = {
            asyncio.create_task(link.send_queued(), name="feed writer"),
            asyncio.create_task(self._read(link), name="feed reader"),
        }
        try:
            await self._wait_for_end(ends)
            if self._uplink.link is link and not self._uplink.is_closing:
                # Reader and writer both end by it: one of them tells.
                errors = [error for task in ends if task.done() and (error := task.exception()) is not None]
                for error in errors[:1]:
                    self._events.emit("ca_stream_lost", error=type(error).__name__, message=str(error)[:300])
        finally:
            if self._uplink.link is link:
                self._uplink.detach()
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)
            link.abort()

    async def _wait_for_end(self, ends: set[asyncio.Task[None]]) -> None:
        backoff = Backoff()
        move = asyncio.create_task(self._uplink.wait_move(None), name="feed renewal")
        is_due = False  # Another stream is wanted and wasn't had: only the backoff says when it is tried again.
        try:
            while not self._uplink.is_closing:
                await asyncio.wait(
                    {*ends, move},
                    timeout=None if is_due else self._until_expiry_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if any(task.done() for task in ends):
                    return
                if not move.done() and not self.has_expired():
                    continue  # The wall clock isn't there yet.
                self._uplink.begin_move()
                # The old stream serves until then; the CA ends it as soon as it knows the new one.
                if await self._open_another():
                    return
                is_due = True
                move.cancel()
                move = asyncio.create_task(self._uplink.wait_move(backoff.next()), name="feed renewal")
        finally:
            move.cancel()

    def _until_expiry_s(self) -> float | None:
        if not self._joining.is_repeatable:
            return None  # Nothing is to be done at the end but to be told by the CA.
        # By the wall clock, which may be set in between: look again now and then.
        return min(max(0.0, self._credentials.own.not_after - time.time()), _CLOCK_LOOK_S)

    async def _read(self, link: Link) -> None:
        while True:
            message = await link.receive()
            if isinstance(message, CertificateIssued | CertificateRefused):
                self._uplink.pending.answer(message)
            elif isinstance(message, Refusal):
                raise RefusedError(f"{message.code}: {message.message}", hint=message.hint)
            else:
                self._receiver.receive(message)


def _since_start_s() -> float:
    """Return the seconds since the machine's start, sleep included: nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
