"""Steps that the stories share: what the CA says of an address or a namespace, dialling the application, pumping.

Belongs here: a step that two of ``outbound.py``, ``inbound.py`` and the foreign stories take. Doesn't: their order, or
what serves a destination here (``listener.py``).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from shared.model.errors import UnavailableError
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.messages import DirectoryEntry
from sidecar.connection.connection import Connection, Refused
from sidecar.mesh.directory_cache import listed_workload
from sidecar.proving import see_accepted
from sidecar.pump.plain_pump import PlainPump
from sidecar.pump.tls_pump import TlsPump
from sidecar.sockets.address import Endpoint
from sidecar.sockets.dial import DialError, dial
from sidecar.sockets.ending import reset, reset_after_delivery
from sidecar.tls.foreign_handshake import Session

if TYPE_CHECKING:
    from sidecar.parts import Sidecar


async def look_up(sidecar: Sidecar, address: str, *, is_stranger: bool = False) -> DirectoryEntry:
    """Return who the directory lists at an address, asking the CA where that isn't known here.

    Arguments:
        is_stranger: the address is that of a peer which has proven nothing yet.

    Raises:
        Refused: it didn't answer. An address that may be a member's must not pass as one outside the mesh.
    """
    entry = sidecar.directory.get(address)
    if entry is None:
        try:
            async with asyncio.timeout(sidecar.limits.obtain_s):
                entry = await sidecar.directory.look_up(address, is_stranger=is_stranger)
        except (UnavailableError, TimeoutError) as error:
            raise Refused(Reason.CA_UNAVAILABLE, f"who is at {address} isn't known") from error
    return entry


async def look_up_if_known(
    sidecar: Sidecar, address: str, direction: Direction, *, is_stranger: bool = False
) -> DirectoryEntry | None:
    """Return who the directory lists at an address; None where the CA doesn't say and the connection goes on, marked.

    It goes on in permissive mode. Not where the own namespace has deny rules for this direction: one of them may name
    who is there.

    Raises:
        Refused: the CA didn't answer.
    """
    if (entry := sidecar.directory.get(address)) is not None:
        return entry  # As for nearly all.
    own = sidecar.policies.own
    may_go_on = sidecar.policies.mode is Mode.PERMISSIVE and not own.denies[direction].rules
    if may_go_on and sidecar.directory.is_silent:
        return None
    try:
        return await look_up(sidecar, address, is_stranger=is_stranger)
    except Refused:
        if not may_go_on:
            raise
        return None


async def look_up_workload(sidecar: Sidecar, address: str) -> Workload | None:
    """Return the workload that the directory lists at a stranger's address; None outside the mesh.

    Raises:
        Refused: the CA didn't answer.
    """
    entry = await look_up(sidecar, address, is_stranger=True)
    return listed_workload(entry) if entry.namespace else None


async def wait_for_handshake(sidecar: Sidecar, address: str) -> None:
    """Wait until a handshake with a peer at this address may begin.

    Raises:
        HandshakeError: ``overloaded``.
    """

    async def is_member() -> bool | None:
        try:
            return bool((await sidecar.directory.look_up(address, is_stranger=True)).namespace)
        except UnavailableError:
            return None

    await sidecar.handshakes.wait_turn(address, is_member=is_member, timeout_s=sidecar.limits.handshake_s)


async def obtain_policy(sidecar: Sidecar, namespace: str) -> None:
    """Have the namespace's policy here.

    Raises:
        Refused: the CA didn't send it in time.
    """
    if namespace == sidecar.workload.namespace or sidecar.policies.get(namespace) is not None:
        return
    try:
        async with asyncio.timeout(sidecar.limits.obtain_s):
            await sidecar.policies.obtain(namespace)
    except (UnavailableError, TimeoutError) as error:
        raise Refused(Reason.CA_UNAVAILABLE, f"the policy of {namespace} isn't known") from error


async def dial_application(sidecar: Sidecar, application: Endpoint) -> socket.socket:
    """Connect to an application of this pod.

    Raises:
        Refused: it can't be reached.
    """
    loop = asyncio.get_running_loop()
    try:
        return await dial(loop, application, mark=sidecar.mark, timeout_s=sidecar.limits.dial_s)
    except DialError as error:
        raise Refused(Reason.APPLICATION_UNREACHABLE, str(error)) from error


async def pump_plainly(sidecar: Sidecar, connection: Connection, destination: Endpoint, unreachable: Reason) -> None:
    """Dial, see that the connection wasn't revoked, pump, and end both connections in the same way.

    Raises:
        Refused: ``unreachable``, or the connection was revoked.
    """
    loop, source = asyncio.get_running_loop(), connection.application
    if source is None:
        raise RuntimeError("a plain connection without its source")
    try:
        onward = await dial(loop, destination, mark=sidecar.mark, timeout_s=sidecar.limits.dial_s)
    except DialError as error:
        raise Refused(unreachable, str(error)) from error
    try:
        connection.check_not_revoked()
        acceptance = await see_accepted(sidecar, connection, onward)
        pump = PlainPump(loop, source, onward)
        connection.note_pump(pump, Transport.PLAINTEXT)
        acceptance.hold_answers(pump)
        pump.start()
        await acceptance.wait_for_answer()
        await acceptance.prove()
        end = await pump.finished.wait()
        connection.note_end(end)
        if end.ending is Ending.FINISHED:
            onward.close()
        elif end.ending is Ending.RESET_BY_DESTINATION:
            count = await reset_after_delivery(loop, source, end.unsent, deadline_s=sidecar.limits.reset_s)
            connection.note_delivery(count, to_application=True)
        elif end.ending is Ending.RESET_BY_SOURCE:
            count = await reset_after_delivery(loop, onward, end.unsent, deadline_s=sidecar.limits.reset_s)
            connection.note_delivery(count, to_application=False)
    finally:
        if onward.fileno() >= 0:
            reset(onward)


async def pump_through_tls(sidecar: Sidecar, connection: Connection, session: Session, peer: socket.socket) -> None:
    """Pump between the application and the TLS peer, and end both in the same way; the caller resets what is left."""
    loop, application = asyncio.get_running_loop(), connection.application
    if application is None:
        raise RuntimeError("a connection without its application")
    acceptance = await see_accepted(sidecar, connection, application)
    pump = TlsPump(
        loop,
        tls=session.tls,
        peer=peer,
        plain=application,
        is_peer_source=connection.parties.direction is Direction.INGRESS,
    )
    connection.note_pump(pump, Transport.MTLS)
    acceptance.hold_answers(pump)
    pump.start()
    await acceptance.wait_for_answer()
    await acceptance.prove()
    end = await pump.finished.wait()
    connection.note_end(end)
    if connection.ending is Ending.FINISHED:
        peer.close()  # Both have said their last word, and it was read: the kernel delivers what it still holds.
    elif connection.is_revoked or connection.ending is Ending.SHUTDOWN:
        pass  # At once: nothing that is still on its way may arrive.
    elif pump.is_peer_to_blame or end.ending is Ending.RECORD_LIMIT:
        count = await reset_after_delivery(loop, application, end.unsent, deadline_s=sidecar.limits.reset_s)
        connection.note_delivery(count, to_application=True)
    else:
        count = await reset_after_delivery(loop, peer, deadline_s=sidecar.limits.reset_s)
        connection.note_delivery(count, to_application=False)
