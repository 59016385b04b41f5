"""What must be proven of this side's program before a connection's first byte, and before the first one answered.

Belongs here: waiting for the first search for holders, and finding out who accepted an inbound connection. Doesn't:
attestation itself (``attestor.py``), and what is looked at again while a connection lives (``connection/``,
``runtime/live_checks.py``).
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Protocol

from shared.model.policy.reasons import REQUIRED, Reason
from shared.model.policy.rules import Direction, Mode, Requirement
from sidecar.attest.facts import AttestationError
from sidecar.code_check import check_code, find_checked
from sidecar.connection.connection import Refused
from sidecar.connection.requirements import check_origin, check_own_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.attest.facts import Attestation
    from sidecar.attest.netlink.sock_diag import KernelSocket
    from sidecar.connection.connection import Connection
    from sidecar.parts import Sidecar
    from sidecar.pump.ends import Finished
    from sidecar.sockets.address import Endpoint

# A server at rest accepts within some turns of the loop; one that is busy within some milliseconds, or when it can.
_ACCEPTING_TURNS = 4
_ACCEPTING_S = (0.001, 0.002, 0.004, 0.008)
# Where one connection a second is looked at, it waits until its server accepts: before that it would get no answer.
_ACCEPTING_LONGER_S = (0.016,) * 125
# And so long for who it is, before its peer gives it up; then it is looked at as others are, at its first answer.
_TURN_S = 5.0
# What a look at a server's socket comes to if the server closes it, or ends, while it is looked for.
_CLOSED_SINCE = frozenset({Reason.NO_OWNER, Reason.PROCESS_VANISHED})
_ESTABLISHED, _CLOSE_WAIT = 1, 8  # net/tcp_states.h
_NOWHERE: tuple[Endpoint, Endpoint] = ("", 0), ("", 0)


async def await_clearance(sidecar: Sidecar, connection: Connection) -> None:
    """In explicit mode, see that nobody but the attested program holds the socket, before a byte passes.

    A process that a pass has cleared lately doesn't wait.

    Raises:
        Refused: another program holds it as well (``socket_shared``), or that couldn't be told (``holders_unknown``).
    """
    attestation = connection.parties.attestation
    if attestation is None or sidecar.policies.mode is not Mode.EXPLICIT:
        return
    if sidecar.attestor.is_clear(attestation):
        return
    try:
        await sidecar.attestor.clear(attestation)
    except AttestationError as error:
        raise Refused(error.reason, error.message) from error
    connection.check_not_revoked()


class AnsweringPump(Protocol):
    """A pump whose application's answers can be held."""

    @property
    def finished(self) -> Finished:
        """Done when nothing more will be moved."""

    def hold_answers(self, on_answer: Callable[[], None]) -> None:
        """Before bytes flow: call back once when the application has answered."""

    def release_answers(self) -> None:
        """Let pass what it answers."""


async def see_accepted(sidecar: Sidecar, connection: Connection, application: socket.socket) -> Acceptance:
    """Find out who has accepted an inbound connection to the application, just after it was dialled.

    In explicit mode the first byte waits some milliseconds for that. A listener that appears between the look at the
    listeners and the dial is met here: whoever it is for, it exists still, or has accepted by now.

    Raises:
        Refused: explicit mode, and another program has accepted it, or listens as well.
    """
    try:
        # Kept: a connection that has ended on both sides doesn't say it any more.
        theirs, ours = application.getpeername()[:2], application.getsockname()[:2]
    except OSError:  # It has been reset: the pump will say so.
        theirs, ours = _NOWHERE
    acceptance = Acceptance(sidecar, connection, theirs, ours)
    if connection.parties.direction is Direction.INGRESS and connection.parties.attestation is not None:
        await acceptance.look()
    return acceptance


class Acceptance:
    """Who has accepted an inbound connection: looked for after the dial, at the latest when the first byte is answered.

    Arguments:
        theirs: the application's endpoint of the connection.
        ours: our own.
    """

    __slots__ = (
        "_answered", "_connection", "_endpoints", "_first", "_found", "_is_open", "_is_turn", "_pump", "_sidecar",
    )  # fmt: skip

    def __init__(self, sidecar: Sidecar, connection: Connection, theirs: Endpoint, ours: Endpoint) -> None:
        self._sidecar = sidecar
        self._connection = connection
        self._endpoints = theirs, ours
        self._is_open = False
        self._is_turn = False
        self._found: KernelSocket | None = None
        self._first: Attestation | None = None  # Who listened after the dial.
        self._pump: AnsweringPump | None = None
        self._answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def look(self) -> None:
        """Look for it after the dial, in explicit mode; permissive mode doesn't wait, and looks at the first answer.

        But where the program's approval lists what it may load, permissive mode looks after the dial, too: a server
        that closes with its answer (a worker of nginx, beside the process that listens) is never seen at its first one,
        so that nothing would say what explicit mode refuses of what the worker has loaded. Where no approval says that
        yet, one connection a second is looked at so: the first approval is to list what workers load, and nothing is
        called ready whose workers weren't seen.

        Raises:
            Refused: as ``see_accepted``.
        """
        self._is_open = True
        attestor, listener = self._sidecar.attestor, self._listener
        self._first = listener
        if not self._is_explicit:
            self._is_turn = self._sidecar.code.take_turn(listener.program)
            if not self._is_turn and find_checked(self._sidecar, listener) is None:
                return
        theirs, _ = self._endpoints
        try:
            if self._is_explicit and not attestor.has_listeners_of(*theirs, listener):
                again = await attestor.attest_listener(*theirs)
                if again.program != listener.program:
                    message = f"another program began to listen on port {theirs[1]}"
                    raise AttestationError(message, reason=Reason.LISTENERS_DIFFER, process=again.process)
            found = attestor.find_accepted(*self._endpoints)
            longer = _ACCEPTING_LONGER_S if self._is_turn else ()
            for pause_s in (*(0.0,) * _ACCEPTING_TURNS, *_ACCEPTING_S, *longer):
                if not _is_accepting(found):
                    break
                await asyncio.sleep(pause_s)
                found = attestor.find_accepted(*self._endpoints)
            if found is not None and found.inode:
                if self._is_turn and find_checked(self._sidecar, listener) is None:
                    await self._find_in_turn(found)
                else:
                    await self._find_acceptor(found)
        except AttestationError as error:
            if self._is_explicit or error.reason in REQUIRED:
                raise Refused(error.reason, error.message) from error
            self._lose(error)

    def hold_answers(self, pump: AnsweringPump) -> None:
        """Before the pump starts: hold what the application answers, unless it is known who has accepted."""
        if self._is_open:
            self._pump = pump
            self._connection.on_search = self._look_late
            pump.hold_answers(self._look_at_answer)
            pump.finished.wake(self._answered)

    def wait_for_answer(self) -> asyncio.Future[object]:
        """Return what waits for the first answered byte or the end, if it is still to be proven who has accepted."""
        if not self._is_open or self._pump is None:
            self._tell()
        return self._answered

    async def prove(self) -> None:
        """After ``wait_for_answer``: let the first answered byte pass when it is known who has accepted.

        A server that has closed the connection by then has no holder any more: what is known is who listens, which is
        looked at once more.
        """
        if not self._is_open or self._pump is None:
            return
        if self._pump.finished.done():
            return
        try:
            is_held = self._found is not None and self._found.inode and await self._find_acceptor(self._found)
            if not is_held and self._is_explicit:
                await self._sidecar.attestor.clear(self._listener)
        except AttestationError as error:
            self._lose(error)
        finally:
            self._pump.release_answers()

    async def _find_in_turn(self, found: KernelSocket) -> None:
        """Look where nothing asks for it yet: it may hold nobody up."""
        try:
            async with asyncio.timeout(_TURN_S):
                await self._find_acceptor(found)
        except TimeoutError:
            self._is_turn = False

    async def _find_acceptor(self, found: KernelSocket) -> bool:
        """Attest who has accepted; return False if the server has closed the connection since it was found.

        Raises:
            AttestationError: another program has accepted it, or it can't be told who.
        """
        try:
            await self._attest(found, self._listener)
        except AttestationError as error:
            if error.reason not in _CLOSED_SINCE:
                raise
            now = self._sidecar.attestor.find_accepted(*self._endpoints)
            if now is not None and now.inode:
                raise
            return False
        return True

    def _look_at_answer(self) -> None:
        """The first byte was answered: mostly it is known at once who has accepted.

        Where nothing is left to look at, the story isn't woken up before the connection's end.
        """
        attestor, listener = self._sidecar.attestor, self._listener
        self._found = found = attestor.find_accepted(*self._endpoints)
        try:
            if found is None or not found.inode:
                self._is_open = self._is_explicit  # The server has closed it: permissive mode looks at nothing more.
            else:
                accepted = attestor.attest_accepted_now(found, listener)
                if accepted is not None and self._is_proven_now(accepted):
                    self._connection.note_attestation(accepted)
                    self._is_open = False
        except AttestationError as error:
            self._lose(error)
        if self._is_open:
            self._tell()
            return
        self._found, self._endpoints = None, _NOWHERE  # Nothing looks at them any more; the connection may live long.
        if self._pump is not None:
            self._pump.release_answers()

    def _look_late(self) -> None:
        """Look whether the server has accepted by now: one that is late, and never answers, would go on unseen."""
        if not self._is_open or self._answered.done():
            self._connection.on_search = None
            return
        found = self._sidecar.attestor.find_accepted(*self._endpoints)
        if found is not None and found.inode:
            self._look_at_answer()

    def _is_proven_now(self, accepted: Attestation) -> bool:
        """Tell whether nothing about who has accepted is left to be waited for, as in permissive mode by default.

        Servers that accept in processes of their own (nginx, PostgreSQL) do it in another one than listens.

        Raises:
            AttestationError: the namespace refuses it.
        """
        policy = self._sidecar.policies.own
        if self._is_explicit or self._is_turn:
            return False
        if accepted.execution == self._listener.execution:
            return True
        if Requirement.OWN_SOCKETS in policy.state.requires or find_checked(self._sidecar, accepted) is not None:
            return False
        check_origin(policy, accepted)
        self._sidecar.code.look_unhurried(accepted)
        return True

    async def _attest(self, found: KernelSocket, listener: Attestation) -> None:
        """Attest who has accepted: by several looks, each of which goes on while there is progress."""
        attestor = self._sidecar.attestor
        accepted = attestor.attest_accepted_now(found, listener)
        if accepted is None:
            accepted = await attestor.attest_accepted(found, listener)
        await check_own_socket(self._sidecar.policies.own, attestor, accepted, listener)
        if accepted.execution != listener.execution:  # Another process, which may have loaded other code.
            check_origin(self._sidecar.policies.own, accepted)
            try:
                await check_code(self._sidecar, accepted)
            except AttestationError:
                # The record is about this process, and not about who listens: approvals are made of what records list.
                self._connection.note_attestation(accepted)
                await self._tell_loaded(accepted)
                raise
        self._connection.note_attestation(accepted)
        await self._tell_loaded(accepted)
        if self._is_explicit and not attestor.is_clear(accepted):
            await attestor.clear(accepted)
        self._is_open = False

    async def _tell_loaded(self, accepted: Attestation) -> None:
        """Have the CA told what a process has loaded that accepts; look for that if it is this connection's turn."""
        code, sightings = self._sidecar.code, self._sidecar.sightings
        seen = code.get(accepted.execution)
        if self._is_turn and code.get_fresh(accepted.execution) is None:
            seen = await code.look_at_acceptor(accepted)
        self._is_turn = False
        if seen is not None and sightings is not None:
            sightings.note_accepted(accepted, seen.code)

    def _lose(self, error: AttestationError) -> None:
        """Close it; permissive mode lets pass what its namespace doesn't require, and the record says so.

        Where who has accepted isn't watched from now on, each search says it again: the mode may be explicit by then.
        """
        self._is_open = False
        self._judge(error.reason, error.message)
        if not self._connection.is_revoked and self._listener is self._first:
            self._connection.on_search = partial(self._judge, error.reason, error.message)

    def _judge(self, reason: Reason, message: str) -> None:
        if self._is_explicit or reason in REQUIRED:
            self._connection.revoke(reason, message)
        else:
            self._connection.note_unproven(reason, message)

    @property
    def _listener(self) -> Attestation:
        if (attestation := self._connection.parties.attestation) is None:
            raise RuntimeError("an inbound connection without its attested listener")
        return attestation

    @property
    def _is_explicit(self) -> bool:
        return self._sidecar.policies.mode is Mode.EXPLICIT

    def _tell(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)


def _is_accepting(found: KernelSocket | None) -> bool:
    """Tell whether a connection waits to be accepted, and not for its first byte (``TCP_DEFER_ACCEPT``)."""
    return found is not None and not found.inode and found.state in (_ESTABLISHED, _CLOSE_WAIT)
