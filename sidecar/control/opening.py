"""Opens a stream to the CA: dial, first message, welcome; and the sidecar's first one, tried until it is had.

Belongs here: what a welcome must be. Doesn't: what proves this sidecar (``joining.py``), TLS (``ca_dial.py``), what
follows a loss (``feed.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from websockets.exceptions import ConnectionClosed

from shared.model.errors import ProtocolError, RefusedError, TouchmarkError, UnavailableError, VerificationError
from shared.model.trust.renewal import NONCE_HEADER
from shared.model.wire.clock_offset import HINT
from shared.model.wire.messages import Enrol, EnrolPod, Refusal, Registration, Renew, Resume, Welcome
from shared.model.wire.protocol import read_chosen_protocol
from sidecar.control.backoff import Backoff
from sidecar.control.ca_dial import NoAnswerError, ServerTimeError, make_context, name_roots, open_stream
from sidecar.control.clock import measure_offset, tell_offset
from sidecar.control.joining import Greeting, Joining
from sidecar.control.link import Link
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import ClockError, Credential, KeyRequest, make_key_request
from sidecar.events import Events

_DIAL_S = 10.0
_WELCOME_S = 15.0
# The CA may not have noticed yet that the stream of the one before a restart has ended.
_SECOND_S = 60.0
_Accepted = TypeVar("_Accepted")


class SecondSidecarError(RefusedError):
    """For the CA a sidecar of this name lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """Opens streams and attaches them to the uplink.

    Attributes:
        ca: host and port.
        joining: how this sidecar proves itself where it has no certificate that the CA takes.
        registration: what this sidecar says of itself.
        mark: SO_MARK of the streams' sockets; 0 for none.
    """

    ca: tuple[str, int]
    joining: Joining
    registration: Registration
    uplink: Uplink
    mark: int = 0

    async def enrol(
        self, request: KeyRequest, accept: Callable[[Welcome, KeyRequest], _Accepted]
    ) -> tuple[Welcome, _Accepted]:
        """Join: return the CA's welcome, and what ``accept`` makes of it and of our key.

        Arguments:
            accept: raises ``TouchmarkError`` when the welcome is of no use; its stream is then given up.

        Raises:
            RefusedError: the CA refuses what proves this sidecar.
            UnavailableError: the CA can't be reached, or can't answer now.
            VerificationError: the server isn't the CA that is expected.
            ProtocolError: it doesn't speak our protocol.
        """
        roots = await self._find_roots(())
        link, welcome, offset_s = await self._open(
            lambda greeting: self.joining.introduce(request.csr, self.registration, greeting), roots, None
        )
        try:
            await self.joining.keep(welcome)
        except BaseException:
            link.abort()
            raise
        self.uplink.attach(link, welcome, clock_offset_s=offset_s)
        try:
            return welcome, accept(welcome, request)
        except TouchmarkError:
            link.abort()
            self.uplink.detach()
            raise

    async def resume(self, credential: Credential, roots: tuple[bytes, ...], installed_sequence: int) -> Welcome:
        """Open a stream under the sidecar's own credential; return the CA's welcome.

        Arguments:
            roots: DER, of the trust bundle in force.
            installed_sequence: the CA's number of that bundle.

        Raises:
            RefusedError: the CA doesn't take the credential; or its bundle is older than ours, and joining heals that.
            UnavailableError, VerificationError, ProtocolError: as in ``enrol``.
        """
        message = Resume(registration=self.registration, installed_sequence=installed_sequence)

        async def introduce(_: Greeting) -> Resume:
            return message

        link, welcome, offset_s = await self._open(introduce, await self._find_roots(roots), credential)
        if self.joining.is_repeatable and welcome.bundle.sequence < installed_sequence:
            await link.stream.close()
            raise RefusedError("the CA's trust bundle is older than the one in force here: it was restored")
        await self.joining.keep(welcome)
        self.uplink.attach(link, welcome, clock_offset_s=offset_s)
        return welcome

    async def _find_roots(self, installed: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return await self.joining.find_roots(self.ca, installed, mark=self.mark, timeout_s=_DIAL_S)

    async def _open(
        self,
        introduce: Callable[[Greeting], Awaitable[Enrol | EnrolPod | Renew | Resume]],
        roots: tuple[bytes, ...],
        credential: Credential | None,
    ) -> tuple[Link, Welcome, float | None]:
        trust_domain = self.joining.trust_domain
        stream = await open_stream(
            self.ca, make_context(roots, credential), trust_domain, server_name=name_roots(roots), mark=self.mark,
            timeout_s=_DIAL_S,
        )  # fmt: skip
        try:
            link = Link(stream=stream, protocol=read_chosen_protocol(stream.subprotocol))
            first = await introduce(_read_greeting(link))
            async with asyncio.timeout(_WELCOME_S):
                asked = time.time()
                told = msgspec.structs.replace(first.registration, time_ms=int(asked * 1000))
                await link.send(msgspec.structs.replace(first, registration=told))
                welcome = _expect_welcome(await link.receive())
            offset_s = measure_offset(welcome, asked=asked, answered=time.time())
            if self.uplink.is_closing:
                raise UnavailableError("the sidecar stops")
            if welcome.trust_domain != trust_domain:
                raise VerificationError(f"the CA's trust domain isn't {trust_domain}", reason="peer_untrusted")
        except (TimeoutError, ConnectionClosed) as error:
            await stream.close()
            raise NoAnswerError(f"the CA gave no welcome: {str(error) or 'deadline exceeded'}") from error
        except BaseException:
            await stream.close()
            raise
        return link, welcome, offset_s


def _read_greeting(link: Link) -> Greeting:
    response, connection = link.stream.response, link.stream.transport.get_extra_info("ssl_object")
    return Greeting(
        protocol=link.protocol,
        nonce=None if response is None else response.headers.get(NONCE_HEADER),
        server_certificate=connection.getpeercert(binary_form=True) or b"",
    )


async def join(opener: Opener, accept: Callable[[Welcome, KeyRequest], _Accepted], events: Events) -> _Accepted:
    """Enrol, trying again while the CA can't be reached; return what ``accept`` makes of its welcome and our key.

    Where joining can be repeated, no error is raised: a pod that the CA doesn't know yet is known soon. That a sidecar
    of this name lives (``second_sidecar``) is taken for final after a minute: being refused doesn't spend a join token.

    Arguments:
        accept: raises ``TouchmarkError`` when the welcome is of no use.

    Raises:
        RefusedError: the CA refuses the join token.
        VerificationError: the server isn't the CA that made the join token.
        ProtocolError: it doesn't speak our protocol.
    """
    request = make_key_request()  # One key for all tries.
    backoff = Backoff()
    started = asyncio.get_running_loop().time()
    while True:
        try:
            _, accepted = await opener.enrol(request, accept)
            tell_offset(opener.uplink.clock_offset_s, events)
            return accepted
        except UnavailableError as error:
            fault, delay_s = error.message, backoff.next()
            events.emit("ca_unreachable", message=error.message, retry_s=round(delay_s, 3))
        except (ClockError, ServerTimeError) as error:
            # The same key may enrol again: once a clock is set, join token and renewal key serve after all.
            fault, delay_s = error.message, backoff.next()
            events.emit("clock_differs", message=error.message, hint=HINT, retry_s=round(delay_s, 3))
        except TouchmarkError as error:
            is_young = asyncio.get_running_loop().time() - started < _SECOND_S
            if not opener.joining.is_repeatable and not (isinstance(error, SecondSidecarError) and is_young):
                raise
            fault, delay_s = error.message, backoff.next()
            events.emit(
                "join_refused", code=error.code, message=error.message, hint=error.hint, retry_s=round(delay_s, 3)
            )
        opener.uplink.note_fault(fault)
        await asyncio.sleep(delay_s)


def _expect_welcome(answer: object) -> Welcome:
    if isinstance(answer, Welcome):
        return answer
    if isinstance(answer, Refusal):
        if answer.code in ("unavailable", "overloaded"):
            raise UnavailableError(answer.message, hint=answer.hint)
        kind = SecondSidecarError if answer.code == "second_sidecar" else RefusedError
        raise kind(f"the CA refuses this sidecar: {answer.message}", hint=answer.hint)
    raise ProtocolError("the CA's first message is no welcome")
