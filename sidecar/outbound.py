"""The story of an outbound connection:

capture → attest → identify → decide (workload, port) → connect → decide (peer's program) → pump → record.

``carry_outbound`` reads top to bottom like this sentence; start there. Belongs here: the order of steps and who answers
for which failure. Doesn't: how a step works. Longer than most: the story isn't cut.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.model.errors import TouchmarkError, UnavailableError, VerificationError
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.messages import DirectoryEntry, ProgramEvidence
from sidecar.attest.facts import AttestationError
from sidecar.connection.connection import Connection, Refused
from sidecar.foreign_outbound import carry_to_foreign
from sidecar.mesh.directory_cache import listed_workload
from sidecar.pump.plain_pump import PlainPump
from sidecar.pump.tunnel_pump import PumpEnd, TunnelPump
from sidecar.routing.route import Route
from sidecar.routing.service_endpoints import NoEndpointError
from sidecar.sockets.dial import DialError, dial
from sidecar.sockets.ending import reset, reset_after_delivery
from sidecar.tls.contexts import Contexts
from sidecar.tls.handshake import HandshakeError, shake_hands
from sidecar.tunnel.frames import Opening
from sidecar.tunnel.pool import TunnelKey
from sidecar.tunnel.tunnel import Loss, Tunnel
from sidecar.tunnel.turns import Role

if TYPE_CHECKING:
    from sidecar.capture.captured import Captured
    from sidecar.credential.credential import Credential
    from sidecar.parts import Sidecar

_contexts = Contexts()
# A stale idle tunnel, then a fresh one whose responder says CLOSING: each costs a try; the OPEN itself is retried once.
_MAX_OPENINGS = 2
# What is answered at the address of an endpoint that has just gone: by its sidecar, or by who has the address now.
_PERHAPS_GONE = frozenset({
    Reason.APPLICATION_UNREACHABLE, Reason.DESTINATION_NOT_SERVED, Reason.LISTENER_NOT_APPROVED,
    Reason.PEER_WORKLOAD_MISMATCH,
})  # fmt: skip


async def carry_outbound(sidecar: Sidecar, captured: Captured) -> None:
    """Carry one captured connection to its destination, or reset it. Closes it and records it in every case."""
    with Connection(
        sidecar,
        Direction.EGRESS,
        source=captured.source,
        destination=captured.destination,
        application=captured.connection,
    ) as connection:
        if sidecar.connections.is_full:
            raise Refused(Reason.OVERLOADED)
        await attest(sidecar, connection, captured)
        route = Route(connection)
        while not await carry_along(sidecar, connection, route):
            pass  # That endpoint of a Service can't be dialled or has gone, and there is another one.


async def carry_along(sidecar: Sidecar, connection: Connection, route: Route) -> bool:
    """Carry the connection to where its route leads now; False when nobody served it and another endpoint may.

    Raises:
        Refused: it may not be, or nobody can be reached.
    """
    try:
        entry = await identify(sidecar, connection, route)
        connection.decide()
        if entry.namespace:
            credential = await choose_credential(sidecar, connection)
            await carry_through_tunnel(sidecar, connection, entry, credential, route)
        elif route.unprocessed is not None:
            raise Refused(Reason.MTLS_UNAVAILABLE, "what was meant for a tunnel isn't sent plainly")
        elif connection.destination.is_pending:
            await carry_to_foreign(sidecar, connection, await choose_credential(sidecar, connection))
        else:
            await carry_plainly(sidecar, connection)
    except Refused as error:
        if route.service is not None and await leads_elsewhere(sidecar, connection, route, error):
            return False
        raise route.explain(error) from error.__cause__
    connection.detail = route.describe(connection.detail)
    return True


async def attest(sidecar: Sidecar, connection: Connection, captured: Captured) -> None:
    """Find out which program opened the connection; why there is none is a fact as well, and policy's to judge."""
    source, destination = captured.source, captured.app_destination
    program, why = None, None
    try:
        attestation = sidecar.attestor.attest_now(source, destination)
        if attestation is None:
            async with asyncio.timeout(sidecar.limits.attest_s):
                attestation = await sidecar.attestor.attest(source, destination)
    except AttestationError as error:
        connection.note_process(error.process)
        connection.detail = error.message
        why = error.reason
    except TimeoutError:
        why = Reason.DEADLINE_EXCEEDED
    else:
        connection.note_attestation(attestation)
        program = attestation.program
    connection.source = replace(connection.source, workload=sidecar.workload, program=program, why_unidentified=why)


async def identify(sidecar: Sidecar, connection: Connection, route: Route) -> DirectoryEntry:
    """Ask the directory who is at the destination, and have the policy of its namespace.

    Where the destination is a Service's address, one of its endpoints becomes the destination.

    Raises:
        Refused: the CA didn't answer and nothing is known. A destination that may be in the mesh, under rules that
            aren't known, is never reached plainly. Or the Service has no endpoint.
    """
    entry = await _look_up(sidecar, route.dialled[0])
    if entry.service is not None:
        route.take_endpoint(sidecar, entry.service, now=asyncio.get_running_loop().time())
        entry = await _look_up(sidecar, connection.destination_endpoint[0])
    if entry.namespace:
        workload = listed_workload(entry)
        connection.destination = replace(connection.destination, workload=workload, listed=workload, is_pending=True)
    elif route.dialled[1] in sidecar.mtls_destination_ports:
        connection.destination = replace(connection.destination, is_pending=True)  # Its certificate will tell.
    return entry


async def _look_up(sidecar: Sidecar, address: str) -> DirectoryEntry:
    entry = sidecar.directory.get(address)
    try:
        if entry is None:
            async with asyncio.timeout(sidecar.limits.obtain_s):
                entry = await sidecar.directory.look_up(address)
        if entry.namespace:
            await obtain_policy(sidecar, entry.namespace)
    except (UnavailableError, TimeoutError) as error:
        raise Refused(Reason.CA_UNAVAILABLE, f"who is at {address} isn't known") from error
    return entry


async def leads_elsewhere(sidecar: Sidecar, connection: Connection, route: Route, error: Refused) -> bool:
    """Tell whether the connection may go to another endpoint of its Service; nothing of it was processed yet.

    One that can't be dialled is passed over. The word of one that answers counts, unless it isn't the Service's any
    more, by what the CA says now: a pod whose program has ended before its sidecar, or an address that changed hands.
    """
    if connection.is_revoked:
        return False
    if isinstance(error.__cause__, DialError):
        sidecar.pool.note_failure(connection.destination_endpoint, now=asyncio.get_running_loop().time())
        return await has_another(sidecar, route)
    if isinstance(error.__cause__, NoEndpointError):
        return await has_another(sidecar, route)
    if error.reason in _PERHAPS_GONE:
        await _renew(sidecar, route)
        return not route.is_listed(connection.destination_endpoint) and route.may_try_another()
    return False


async def has_another(sidecar: Sidecar, route: Route) -> bool:
    """Tell whether the Service has another endpoint that this connection may try; where none is left, ask the CA."""
    if route.service is not None and not route.may_try_another():
        await _renew(sidecar, route)
    return route.may_try_another()


async def _renew(sidecar: Sidecar, route: Route) -> None:
    """Ask the CA again who serves the Service, once a connection: what is known here is old where the stream was lost.

    That there was nothing new is remembered for a while: a Service that is down is no load on the CA.
    """
    if route.was_renewed:
        return
    loop, entry = asyncio.get_running_loop(), sidecar.directory.get(route.dialled[0])
    if entry is None or entry.service == route.service:
        if sidecar.pool.has_failed_lately(route.dialled, now=loop.time()):
            return
        route.was_renewed = True
        await _refresh(sidecar, route.dialled[0])
        entry = sidecar.directory.get(route.dialled[0])
    if entry is not None and entry.service is not None and entry.service != route.service:
        route.renew(entry.service)
    else:
        sidecar.pool.note_failure(route.dialled, now=loop.time())


async def _refresh(sidecar: Sidecar, address: str) -> None:
    """Ask the CA again who is at an address, so that the next connection knows."""
    with suppress(UnavailableError, TimeoutError):
        async with asyncio.timeout(sidecar.limits.obtain_s):
            await sidecar.directory.refresh(address)


async def obtain_policy(sidecar: Sidecar, namespace: str) -> None:
    """Have the namespace's policy here, or fail.

    Raises:
        UnavailableError, TimeoutError: the CA didn't send it in time.
    """
    if namespace != sidecar.workload.namespace and sidecar.policies.get(namespace) is None:
        async with asyncio.timeout(sidecar.limits.obtain_s):
            await sidecar.policies.obtain(namespace)


async def choose_credential(sidecar: Sidecar, connection: Connection) -> Credential:
    """Return the program's credential; where there is none and permissive mode lets it flow, the sidecar's own.

    Raises:
        Refused: explicit mode, and the program's credential can't be had.
    """
    program, attestation = connection.source.program, connection.attestation
    if program is None or attestation is None:
        return sidecar.credentials.own
    credential = sidecar.credentials.get(program)
    if credential is None:
        evidence = ProgramEvidence(
            path=attestation.process.path, pid=attestation.process.pid, uid=attestation.process.uid
        )
        try:
            async with asyncio.timeout(sidecar.limits.obtain_s):
                credential = await sidecar.credentials.obtain(program, evidence)
        except (TouchmarkError, TimeoutError) as error:
            reason = Reason(getattr(error, "reason", Reason.CA_UNAVAILABLE))
            if sidecar.policies.own.state.mode is Mode.EXPLICIT:
                raise Refused(reason, str(error)) from error
            connection.detail = str(error)
            connection.source = replace(connection.source, program=None, why_unidentified=reason)
            connection.decide()
            return sidecar.credentials.own
        connection.check_not_revoked()
    connection.source_identity = credential.identity
    return credential


async def carry_through_tunnel(
    sidecar: Sidecar, connection: Connection, entry: DirectoryEntry, credential: Credential, route: Route
) -> None:
    """Connect, decide on the peer's program, open, pump; once more where CLOSING says that no OPEN was processed.

    Raises:
        Refused: among others, because of a ``DialError`` where the Service has another endpoint.
    """
    for _ in range(_MAX_OPENINGS):
        key = TunnelKey(
            identity=str(credential.identity),
            generation=credential.generation,
            destination=connection.destination_endpoint,
            workload=listed_workload(entry),
        )
        try:
            tunnel = await connect(sidecar, key, entry, credential)
        except DialError as error:
            if await has_another(sidecar, route):
                raise Refused(Reason.MTLS_UNAVAILABLE, str(error)) from error
            if route.unprocessed is not None:
                break
            await carry_without_tunnel(sidecar, connection, str(error))
            return
        route.unprocessed = end = await _open_and_pump(sidecar, connection, tunnel, route.unprocessed)
        if not end.is_retry_allowed:
            for surplus in sidecar.pool.give_back(key, tunnel, now=tunnel.loop.time()):
                surplus.close()
            if tunnel.is_reusable:
                tunnel.attach(_IdleTunnel(sidecar, tunnel))
            break
    if (last := route.unprocessed) is not None:
        if route.service is not None and last.refusal in _PERHAPS_GONE:
            raise Refused(last.refusal, last.detail)
        await _finish(sidecar, connection, last)


async def connect(sidecar: Sidecar, key: TunnelKey, entry: DirectoryEntry, credential: Credential) -> Tunnel:
    """Take an idle tunnel, or dial a new one, to the sidecar that the directory lists at the destination.

    Raises:
        DialError: mutual TLS can't be had: nobody answers there, or lately nobody did.
        Refused: somebody answers whose certificate doesn't hold, or who is another workload.
    """
    loop, now = asyncio.get_running_loop(), time.time()
    while True:
        tunnel, unusable = sidecar.pool.take(key, now=loop.time(), wall=now)
        for each in unusable:
            each.close()
        if tunnel is None:
            break
        try:
            _check_peer(sidecar, tunnel, key.workload, now)
        except VerificationError:
            tunnel.close()
            continue
        return tunnel
    address = (key.destination[0], entry.tunnel_port or sidecar.tunnel_port)
    if sidecar.pool.has_failed_lately(address, now=loop.time()):
        raise DialError(f"{address[0]}:{address[1]} didn't answer lately")
    try:
        connection = await dial(loop, address, mark=sidecar.mark, timeout_s=sidecar.limits.dial_s)
    except DialError:
        sidecar.pool.note_failure(address, now=loop.time())
        raise
    try:
        tunnel = await shake_hands(
            loop=loop,
            connection=connection,
            context=_contexts.get(credential, sidecar.trust.bundle, Role.INITIATOR),
            role=Role.INITIATOR,
            credential=credential,
            verifier=sidecar.trust.verifier,
            now=now,
            timeout_s=sidecar.limits.handshake_s,
            port=key.destination[1],
        )
    except HandshakeError as error:
        connection.close()
        if error.reason in (Reason.HANDSHAKE_FAILED, Reason.DEADLINE_EXCEEDED):
            sidecar.pool.note_failure(address, now=loop.time())
            raise DialError(f"{address[0]}:{address[1]}: {error.message}") from error
        raise Refused(Reason(error.reason), error.message) from error
    except VerificationError as error:
        connection.close()
        raise Refused(Reason(error.reason), error.message) from error
    except BaseException:
        connection.close()
        raise
    try:
        _check_peer(sidecar, tunnel, key.workload, now)
    except VerificationError as error:
        tunnel.close()
        await _refresh(sidecar, key.destination[0])  # The address may have changed hands.
        raise Refused(Reason(error.reason), error.message) from error
    sidecar.pool.forget_failure(address)
    tunnel.call_when_closed(lambda: sidecar.pool.discard(tunnel))
    return tunnel


def _check_peer(sidecar: Sidecar, tunnel: Tunnel, expected: Workload, now: float) -> None:
    """Check both certificates' end, the bundle of now and the peer's workload, before each OPEN.

    Raises:
        VerificationError: the tunnel must not carry another connection.
    """
    if now >= tunnel.not_after:
        raise VerificationError("a certificate of the tunnel has ended", reason=Reason.PEER_EXPIRED)
    if tunnel.peer.bundle_sequence != sidecar.trust.bundle.sequence:
        tunnel.peer = sidecar.trust.verifier.verify_peer(tunnel.peer.chain, now=now)
    found = tunnel.peer.identity.workload
    if found != expected:
        raise VerificationError(
            f"{found} answers where the directory lists {expected}", reason=Reason.PEER_WORKLOAD_MISMATCH
        )


async def _open_and_pump(sidecar: Sidecar, connection: Connection, tunnel: Tunnel, before: PumpEnd | None) -> PumpEnd:
    identity = tunnel.peer.identity
    connection.tunnel, connection.peer, connection.issuer = tunnel.id, tunnel.peer, tunnel.peer.issuer
    connection.destination_identity = identity
    connection.destination = replace(
        connection.destination,
        workload=identity.workload,
        program=identity.program,
        is_pending=False,
        why_unidentified=None if identity.program else Reason.LISTENER_NOT_APPROVED,
    )
    application = connection.application
    if application is None:
        raise RuntimeError("an outbound connection without its application")
    try:
        connection.check_not_revoked()
        connection.decide()
    except Refused:
        tunnel.close()
        raise
    connection.source_identity = tunnel.credential.identity
    pump = TunnelPump(tunnel)
    connection.note_pump(pump, Transport.TUNNEL)
    opening = Opening(
        connection=connection.id,
        destination=connection.destination_endpoint,
        source=connection.source_endpoint,
        why=None if tunnel.credential.identity.program else connection.source.why_unidentified,
    )
    pump.open(
        application,
        opening,
        answer_s=sidecar.limits.open_s,
        early=before.early if before else b"",
        has_ended=before.has_ended if before else False,
    )
    try:
        return await pump.finished
    except asyncio.CancelledError:
        pump.abort(Ending.SHUTDOWN)
        raise


async def carry_without_tunnel(sidecar: Sidecar, connection: Connection, detail: str) -> None:
    """Mutual TLS can't be had to a destination in the mesh: plainly when both ends are permissive, else not at all."""
    connection.detail = detail
    connection.destination = replace(
        connection.destination,
        workload=None,
        program=None,
        is_pending=False,
        why_unidentified=Reason.MTLS_UNAVAILABLE,
    )
    connection.check_not_revoked()
    connection.decide()
    connection.source_identity = None
    await carry_plainly(sidecar, connection)


async def carry_plainly(sidecar: Sidecar, connection: Connection) -> None:
    """Dial the destination itself and pump plain bytes; it was decided that they may flow.

    Raises:
        Refused: the destination can't be reached.
    """
    await pump_plainly(sidecar, connection, connection.destination_endpoint, Reason.DESTINATION_UNREACHABLE)


async def pump_plainly(
    sidecar: Sidecar, connection: Connection, destination: tuple[str, int], unreachable: Reason
) -> None:
    """Dial, decide again (things may have changed meanwhile), pump, and end both connections in the same way.

    Raises:
        Refused: ``unreachable``, or the connection was revoked meanwhile.
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
        pump = PlainPump(loop, source, onward)
        connection.note_pump(pump, Transport.PLAINTEXT)
        pump.start()
        end = await pump.finished
        connection.note_end(end)
        if end.ending is Ending.FINISHED:
            onward.close()
        elif end.ending is Ending.RESET_BY_DESTINATION:
            await reset_after_delivery(loop, source, deadline_s=sidecar.limits.reset_s)
        elif end.ending is Ending.RESET_BY_SOURCE:
            await reset_after_delivery(loop, onward, deadline_s=sidecar.limits.reset_s)
    finally:
        if onward.fileno() >= 0:
            reset(onward)


async def _finish(sidecar: Sidecar, connection: Connection, end: PumpEnd) -> None:
    """End the application's connection as the tunnel's turn ended: what came before a reset is delivered first."""
    connection.note_end(end)
    application = connection.application
    if application is None:
        return
    if end.ending is not Ending.FINISHED and end.refusal is None and connection.ending is not Ending.POLICY_CHANGED:
        await reset_after_delivery(
            asyncio.get_running_loop(), application, end.unsent, deadline_s=sidecar.limits.reset_s
        )


class _IdleTunnel:
    """The user of an idle tunnel in the pool: it only waits for its end."""

    __slots__ = ("_sidecar", "_tunnel")

    def __init__(self, sidecar: Sidecar, tunnel: Tunnel) -> None:
        self._sidecar = sidecar
        self._tunnel = tunnel

    def on_data(self, payloads: list[memoryview]) -> None:
        """Nothing may come: ``turns`` has refused it before."""

    def on_frame(self, frame: int, payload: bytes) -> None:
        """CLOSING, the only frame that may come, ends the tunnel."""
        self._sidecar.pool.discard(self._tunnel)
        self._tunnel.close()

    def on_drained(self) -> None:
        """Nothing waits to be written."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The pool forgets the tunnel by ``call_when_closed``."""
