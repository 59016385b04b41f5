"""How the sidecar's parts reach the CA, whichever stream there is now: messages, questions, certificate requests.

Belongs here: the current link, what waits for it, and what the parts ask of the stream's life. Doesn't: opening and
replacing streams (``feed.py``), what the CA's messages mean (``dispatch.py``).
"""

from __future__ import annotations

import asyncio
import contextlib

from shared.model.errors import UnavailableError
from shared.model.identity.program import Program
from shared.model.wire.messages import FromSidecar, ProgramEvidence, Welcome
from sidecar.control.link import Link
from sidecar.control.pending import PendingRequests

_CLOSE_S = 1.0
_RECONNECT_GRACE_S = 4.0
_HINT = "`touchmark ca status`"


class Uplink:
    """The way to the CA. There is one before the sidecar has joined and until it ends.

    Arguments:
        is_join_repeatable: whether this sidecar can join again.

    Attributes:
        fault: why there is no stream, while there is none; for people.
        clock_offset_s: by how much this machine's clock was ahead of the CA's at the last welcome; None: not known.
        ca_version: of the CA's release at the last welcome; empty when it didn't say (0.1).
        must_join: the CA doesn't take this sidecar's certificate: the next stream begins by joining again.
        pending: certificate requests.
    """

    def __init__(self, *, is_join_repeatable: bool) -> None:
        self._is_join_repeatable = is_join_repeatable
        self._connected = asyncio.Event()
        self._move = asyncio.Event()
        self._need = asyncio.Event()
        self._link: Link | None = None
        self._is_closing = False
        self._giving_up: asyncio.TimerHandle | None = None
        self.pending = PendingRequests()
        self.fault = ""
        self.ca_version = ""
        self.clock_offset_s: float | None = None
        self.must_join = False

    @property
    def link(self) -> Link | None:
        """The open stream, if there is one."""
        return self._link

    @property
    def is_connected(self) -> bool:
        """Tell whether a stream is open now."""
        return self._link is not None

    @property
    def is_closing(self) -> bool:
        """Tell whether ``close`` was called."""
        return self._is_closing

    def send(self, message: FromSidecar) -> None:
        """Queue a message.

        Raises:
            UnavailableError: there is no stream, or it is so slow that the queue is full.
        """
        if self._link is None:
            raise _no_stream()
        try:
            self._link.outgoing.put_nowait(message)
        except asyncio.QueueFull as error:
            raise UnavailableError("the stream to the CA is too slow") from error

    async def ask(self, message: FromSidecar) -> None:
        """Queue a message whose answer something waits for; a lost stream is opened again for it.

        Raises:
            UnavailableError: there is no stream, also after a short wait; or it is too slow.
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
        if self.pending.is_full:
            raise UnavailableError("too many certificates are being asked for")
        await self._wait_connected(min(timeout_s, _RECONNECT_GRACE_S))
        with self.pending.add(csr, program, evidence) as (request, answer):
            self.send(request)
            try:
                async with asyncio.timeout(timeout_s):
                    return await answer
            except TimeoutError as error:
                raise UnavailableError("the CA didn't answer in time", hint=_HINT) from error

    def move(self) -> None:
        """The sidecar's own credential was renewed: move to a stream under it while the present one serves on."""
        self._move.set()

    def prove_again(self) -> None:
        """The CA doesn't renew this sidecar's certificate: join again, where that can be repeated."""
        if self._is_join_repeatable:
            self.must_join = True
            self._move.set()

    def attach(self, link: Link, welcome: Welcome, *, clock_offset_s: float | None) -> None:
        """Send on this stream from now on: the CA has welcomed the sidecar on it."""
        self._link = link
        self.clock_offset_s = clock_offset_s
        self.ca_version = welcome.ca_version
        self.must_join, self.fault = False, ""
        self._connected.set()
        self._stop_giving_up()

    def detach(self) -> None:
        """There is no stream any more: requests wait a little for another one, on which they are asked again."""
        self._link = None
        self._connected.clear()
        self._stop_giving_up()
        if self._is_closing:
            self._give_up()
        elif self.pending.list_requests():
            self._need.set()
            self._giving_up = asyncio.get_running_loop().call_later(_RECONNECT_GRACE_S, self._give_up)

    def note_fault(self, fault: str, *, must_join: bool = False) -> None:
        """No stream could be had, for this reason; perhaps only joining again helps."""
        self.fault = fault
        self.must_join = self.must_join or must_join

    async def wait_move(self, timeout_s: float | None) -> None:
        """Wait until another stream is wanted in place of the present one, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._move.wait()

    def begin_move(self) -> None:
        """Another stream is being opened: what is wanted from now on is wanted anew."""
        self._move.clear()

    async def wait_need(self, timeout_s: float) -> None:
        """Wait until something needs the CA while there is no stream, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._need.wait()
        self._need.clear()

    async def close(self) -> None:
        """Close the stream properly, within a deadline; none is opened afterwards."""
        self._is_closing = True
        if self._link is not None:
            await self._link.close(timeout_s=_CLOSE_S)

    def _give_up(self) -> None:
        self.pending.fail(UnavailableError("the stream to the CA broke, and there is no other", hint=_HINT))

    def _stop_giving_up(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    async def _wait_connected(self, timeout_s: float) -> None:
        if self._connected.is_set():
            return
        self._need.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError as error:
            raise _no_stream() from error


def _no_stream() -> UnavailableError:
    return UnavailableError("there is no stream to the CA", hint=_HINT)
