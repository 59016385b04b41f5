"""The story of an outbound connection:

capture → attest → identify → decide (workload, port) → connect → decide (peer's program) → pump → record.

``carry_outbound`` reads top to bottom like this sentence; start there. Belongs here: the order of steps and which
failure means what. Doesn't: how a step works. Longer than most: all ways out begin alike.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.model.errors import TouchmarkError, VerificationError
from shared.model.policy.decision import Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.messages import DirectoryEntry
from sidecar.attest.facts import AttestationError
from sidecar.code_check import check_code, make_evidence
from sidecar.connection.connection import Connection, Refused
from sidecar.connection.requirements import check_origin, check_own_socket
from sidecar.connection.short_senders import GONE
from sidecar.credential.credential import CredentialError
from sidecar.foreign_outbound import carry_to_foreign
from sidecar.mesh.directory_cache import listed_workload
from sidecar.proving import await_clearance
from sidecar.pump.ends import PumpEnd
from sidecar.pump.tunnel_pump import TunnelPump
from sidecar.routing.route import PERHAPS_GONE, Route
from sidecar.sockets.dial import DialError
from sidecar.sockets.ending import reset_after_delivery
from sidecar.steps import look_up_if_known, obtain_policy, pump_plainly
from sidecar.tunnel.frames import Opening
from sidecar.tunnel.no_program import learn_why
from sidecar.tunnel.pool import TunnelKey
from sidecar.tunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from sidecar.attest.facts import Attestation
    from sidecar.capture.captured import Captured
    from sidecar.credential.credential import Credential
    from sidecar.parts import Sidecar
    from sidecar.tunnel.connector import FindCredential

# A stale idle tunnel, then a fresh one whose responder says CLOSING: each costs a try; the OPEN itself is retried once.
_MAX_OPENINGS = 2
# What no name of the destination changes any more.
_SETTLED = frozenset({Reason.ALLOW_RULE, Reason.DENY_RULE})


async def carry_outbound(sidecar: Sidecar, captured: Captured) -> None:
    """Carry one captured connection to its destination, or reset it. Closes it and records it in every case."""
    with Connection(
        sidecar,
        Direction.EGRESS,
        source=captured.source,
        destination=captured.destination,
        application=captured.connection,
    ) as connection:
        await attest(sidecar, connection, captured)
        route = Route(connection, sidecar.router)
        while not await carry_along(sidecar, connection, route):
            pass  # That endpoint of a Service can't be dialled or has gone, and there is another one.


async def carry_along(sidecar: Sidecar, connection: Connection, route: Route) -> bool:
    """Carry the connection to where its route leads now; False when nothing served it and another endpoint may.

    Raises:
        Refused: it may not be, or nothing can be reached.
    """
    try:
        entry = await identify(sidecar, connection, route)
        connection.decide()
        await await_clearance(sidecar, connection)
        if connection.parties.source.workload is None:
            await carry_remote_client(sidecar, connection, is_mesh=bool(entry.namespace))
        elif entry.namespace:
            credential = await choose_credential(sidecar, connection)
            await carry_through_tunnel(sidecar, connection, entry, credential, route)
        elif route.unprocessed is not None:
            raise Refused(Reason.MTLS_UNAVAILABLE, "what was meant for a tunnel isn't sent plainly")
        elif connection.parties.destination.is_pending:
            await carry_to_foreign(sidecar, connection, await choose_credential(sidecar, connection))
        else:
            await carry_plainly(sidecar, connection)
    except Refused as error:
        if await route.leads_elsewhere(error):
            return False
        raise route.explain(error) from error.__cause__
    connection.detail = route.describe(connection.detail)
    return True


async def attest(sidecar: Sidecar, connection: Connection, captured: Captured) -> None:
    """Find out which program opened the connection. A failure isn't a refusal: policy judges its reason."""
    source, destination, parties = captured.source, captured.app_destination, connection.parties
    program, why = None, None
    began = time.perf_counter()
    try:
        attestation = captured.early or await sidecar.attestor.attest(source, destination)
        if isinstance(attestation, AttestationError):
            raise attestation
        if captured.claim is not None:
            captured.claim.check()
            captured.claim.on_contest(connection.lose_claim)
    except AttestationError as error:
        error.__traceback__ = None  # ``captured`` keeps it, so that it and this frame would hold each other.
        parties.note_process(error.process)
        connection.detail = error.message
        why = error.reason
    else:
        sidecar.counts.attestations.observe(time.perf_counter() - began)
        connection.note_attestation(attestation)
        try:
            check_origin(sidecar.policies.own, attestation)
            await check_own_socket(sidecar.policies.own, sidecar.attestor, attestation)
            connection.detail = await check_code(sidecar, attestation)
            program = attestation.program
        except AttestationError as error:
            connection.detail, why = error.message, error.reason
    if why is not None:
        sidecar.counts.fail_attestation(why)
        if why in GONE:
            sidecar.short_senders.note(captured.destination[1])
    if captured.may_be_remote and program is None:
        # Not this workload; but deny rules for the workload match what arrives by its sidecar.
        parties.source = replace(parties.source, listed=sidecar.workload, why_unidentified=why)
    else:
        parties.source = replace(parties.source, workload=sidecar.workload, program=program, why_unidentified=why)


async def identify(sidecar: Sidecar, connection: Connection, route: Route) -> DirectoryEntry:
    """Ask the directory who is at the destination, and have the policy of its namespace.

    Where the destination is a Service's address, one of its endpoints becomes the destination.

    Where nothing is known of it and the CA doesn't answer, permissive mode goes on without mutual TLS, marked.

    Raises:
        Refused: the CA didn't answer, nothing is known, and the mode is explicit or a deny rule may name the
            destination. Or the Service has no endpoint.
    """
    parties = connection.parties
    entry = await look_up_if_known(sidecar, route.dialled[0], Direction.EGRESS)
    if entry is not None and entry.service is not None:
        route.take_endpoint(entry.service, now=asyncio.get_running_loop().time())
        entry = await look_up_if_known(sidecar, parties.destination_endpoint[0], Direction.EGRESS)
    if entry is None:
        address = parties.destination_endpoint[0]
        detail = f"who is at {address} isn't known: the CA doesn't answer"
        if route.dialled[1] in sidecar.mtls_destination_ports:
            raise Refused(Reason.CA_UNAVAILABLE, detail)
        connection.detail = detail
        parties.destination = replace(parties.destination, why_unidentified=Reason.CA_UNAVAILABLE)
        return DirectoryEntry(address=address)
    if entry.namespace:
        await obtain_policy(sidecar, entry.namespace)
        workload = listed_workload(entry)
        parties.destination = replace(parties.destination, workload=workload, listed=workload, is_pending=True)
    elif route.dialled[1] in sidecar.mtls_destination_ports:
        parties.destination = replace(parties.destination, is_pending=True)  # Its certificate will tell.
    else:
        await name_destination(sidecar, connection)
    return entry


async def name_destination(sidecar: Sidecar, connection: Connection) -> None:
    """Say which hosts of the egress rules have the destination's address, asking for them again before a refusal.

    What the program asked a nameserver for doesn't count. Where one of the hosts can't be asked for, the destination
    may be that one: the record says so instead of blaming the rules. What is allowed all the same, in permissive mode,
    doesn't wait: the answers count for the next connection.
    """
    hosts, parties = sidecar.hosts, connection.parties
    candidates = () if hosts is None else hosts.list_candidates(parties.port)
    if hosts is None or not candidates or parties.source.workload is None:
        return
    address = parties.destination_endpoint[0]
    parties.destination = replace(parties.destination, hosts=hosts.find(address, first=candidates))
    verdict = parties.evaluate(sidecar.policies)
    if verdict.reason in _SETTLED:
        return
    late: frozenset[str] = frozenset()
    if verdict.allowed:
        hosts.ask_afresh(candidates, address)
    else:
        late = await hosts.look_up(candidates, address, timeout_s=sidecar.limits.host_s)
        parties.destination = replace(parties.destination, hosts=hosts.find(address, first=candidates))
        verdict = parties.evaluate(sidecar.policies)
    if verdict.reason not in _SETTLED and (failures := hosts.describe_failures(candidates, address, late=late)):
        parties.destination = replace(parties.destination, why_unidentified=Reason.HOST_NOT_RESOLVED)
        connection.detail = connection.detail or f"couldn't resolve {failures}"


async def choose_credential(sidecar: Sidecar, connection: Connection) -> Credential:
    """Return the program's credential; the sidecar's own without a program, or if permissive and it can't be had.

    Raises:
        Refused: explicit mode, and the program's credential can't be had; or the sidecar's own is distrusted.
    """
    parties = connection.parties
    program, attestation = parties.source.program, parties.attestation
    if program is None or attestation is None:
        return await obtain_own(sidecar)
    credential = sidecar.credentials.get(program)
    if credential is None:
        try:
            async with asyncio.timeout(sidecar.limits.obtain_s):
                credential = await sidecar.credentials.obtain(program, make_evidence(sidecar, attestation))
        except (TouchmarkError, TimeoutError) as error:
            reason = error.reason if isinstance(error, CredentialError) else Reason.CA_UNAVAILABLE
            if sidecar.policies.mode is Mode.EXPLICIT:
                raise Refused(reason, str(error)) from error
            connection.detail = str(error)
            parties.source = replace(parties.source, program=None, why_unidentified=reason)
            connection.decide()
            return await obtain_own(sidecar)
        connection.check_not_revoked()
    parties.source_identity = credential.identity
    return credential


async def obtain_own(sidecar: Sidecar) -> Credential:
    """Return the sidecar's own credential.

    Raises:
        Refused: peers distrust it, and the CA gave no other in time.
    """
    try:
        async with asyncio.timeout(sidecar.limits.obtain_s):
            return await sidecar.credentials.obtain_own()
    except (TouchmarkError, TimeoutError) as error:
        raise Refused(Reason.CA_UNAVAILABLE, str(error)) from error


async def carry_through_tunnel(
    sidecar: Sidecar, connection: Connection, entry: DirectoryEntry, credential: Credential, route: Route
) -> None:
    """Connect, decide on the peer's program, open, pump; once more where CLOSING says that no OPEN was processed.

    Raises:
        Refused: among others, because of a ``DialError`` where the Service has another endpoint.
    """
    key = TunnelKey(
        identity=str(credential.identity),
        generation=credential.generation,
        destination=connection.parties.destination_endpoint,
        workload=listed_workload(entry),
    )
    parties = connection.parties
    for _ in range(_MAX_OPENINGS):
        try:
            tunnel = await connect(sidecar, key, entry, credential, partial(find_again, sidecar, parties.attestation))
        except DialError as error:
            if await route.has_another():
                raise Refused(Reason.MTLS_UNAVAILABLE, str(error)) from error
            if route.unprocessed is not None:
                break
            await carry_without_tunnel(sidecar, connection, str(error))
            return
        why = await learn_why(tunnel)
        if tunnel.is_closed:
            raise Refused(Reason.MTLS_UNAVAILABLE, "the tunnel broke before it was used")
        identify_peer(connection, tunnel, why)
        route.unprocessed = end = await open_and_pump(sidecar, connection, tunnel, route.unprocessed)
        if end.is_unanswered:
            sidecar.connector.forget(key.destination[0])
        if not end.is_retry_allowed:
            sidecar.connector.release(key, tunnel)
            break
    if (last := route.unprocessed) is not None:
        if route.service is not None and last.refusal in PERHAPS_GONE:
            raise Refused(last.refusal, last.detail)
        await finish(sidecar, connection, last)


async def find_again(sidecar: Sidecar, attestation: Attestation | None) -> Credential:
    """Return the current credential of a program whose tunnel needs new keys; without a program the sidecar's own.

    Raises:
        CredentialError, TimeoutError: it can't be had any more.
    """
    if attestation is None:
        return sidecar.credentials.own
    if (known := sidecar.credentials.get(attestation.program)) is not None:
        return known
    async with asyncio.timeout(sidecar.limits.obtain_s):
        return await sidecar.credentials.obtain(attestation.program, make_evidence(sidecar, attestation))


async def connect(
    sidecar: Sidecar, key: TunnelKey, entry: DirectoryEntry, credential: Credential, renew: FindCredential
) -> Tunnel:
    """Get a tunnel to the sidecar that the directory lists at the destination, from the pool or by dialling.

    Raises:
        DialError: mutual TLS can't be had.
        Refused: the certificate of what answers doesn't hold, or it is another workload.
    """
    tunnel_port = entry.tunnel_port or sidecar.tunnel_port
    try:
        return await sidecar.connector.acquire(key, credential, tunnel_port=tunnel_port, renew=renew)
    except VerificationError as error:
        if error.reason == Reason.PEER_WORKLOAD_MISMATCH:
            await sidecar.router.refresh(key.destination[0])  # The address may have changed hands.
        raise Refused(Reason(error.reason), error.message) from error


def identify_peer(connection: Connection, tunnel: Tunnel, why: Reason | None) -> None:
    """Say who serves the destination, by the certificate of its sidecar; or why that shows no program."""
    identity = tunnel.peer.identity
    connection.tunnel, parties = tunnel.id, connection.parties
    parties.note_peer(tunnel.peer)
    parties.destination = replace(
        parties.destination,
        workload=identity.workload,
        program=identity.program,
        is_pending=False,
        why_unidentified=why,
    )


async def open_and_pump(sidecar: Sidecar, connection: Connection, tunnel: Tunnel, before: PumpEnd | None) -> PumpEnd:
    """Decide on the peer's program, open a turn of the tunnel and pump until it ends.

    Arguments:
        before: how an earlier try ended that no application saw: its early bytes are sent again.

    Raises:
        Refused: policy says no; the tunnel is closed.
    """
    application, parties = connection.application, connection.parties
    if application is None:
        raise RuntimeError("an outbound connection without its application")
    try:
        connection.check_not_revoked()
        connection.decide()
    except Refused:
        tunnel.close()
        raise
    parties.source_identity = tunnel.credential.identity
    pump = TunnelPump(tunnel)
    connection.note_pump(pump, Transport.TUNNEL)
    opening = Opening(
        connection=connection.id,
        destination=parties.destination_endpoint,
        source=parties.source_endpoint,
        why=None if tunnel.credential.identity.program else parties.source.why_unidentified,
    )
    pump.open(
        application,
        opening,
        answer_s=sidecar.limits.open_s,
        early=before.early if before else b"",
        has_ended=before.has_ended if before else False,
    )
    try:
        return await pump.finished.wait()
    except asyncio.CancelledError:
        pump.abort(Ending.SHUTDOWN)
        raise


async def finish(sidecar: Sidecar, connection: Connection, end: PumpEnd) -> None:
    """End the application's connection as the tunnel's turn ended: what came before a reset is delivered first."""
    connection.note_end(end)
    application = connection.application
    if application is None:
        return
    if end.ending is not Ending.FINISHED and end.refusal is None and connection.ending is not Ending.POLICY_CHANGED:
        count = await reset_after_delivery(
            asyncio.get_running_loop(), application, end.unsent, deadline_s=sidecar.limits.reset_s
        )
        connection.note_delivery(count, to_application=True)


async def carry_without_tunnel(sidecar: Sidecar, connection: Connection, detail: str) -> None:
    """Mutual TLS can't be had to a destination in the mesh: plainly when both ends are permissive, else not at all."""
    connection.detail, parties = detail, connection.parties
    parties.destination = replace(
        parties.destination,
        workload=None,
        program=None,
        is_pending=False,
        why_unidentified=Reason.MTLS_UNAVAILABLE,
    )
    connection.check_not_revoked()
    connection.decide()
    parties.source_identity = None
    await carry_plainly(sidecar, connection)


async def carry_remote_client(sidecar: Sidecar, connection: Connection, *, is_mesh: bool) -> None:
    """Carry a client that isn't a program of this pod: never under a certificate, so only where plaintext is allowed.

    Raises:
        Refused: policy doesn't allow it, or mTLS is spoken there.
    """
    detail = "the client isn't a program of this pod, so no certificate is shown for it"
    if is_mesh:
        await carry_without_tunnel(sidecar, connection, detail)
    elif connection.parties.destination.is_pending:
        raise Refused(Reason.MTLS_UNAVAILABLE, detail)
    else:
        await carry_plainly(sidecar, connection)


async def carry_plainly(sidecar: Sidecar, connection: Connection) -> None:
    """Dial the destination itself and pump plain bytes; policy has already allowed it.

    Raises:
        Refused: the destination can't be reached.
    """
    await pump_plainly(sidecar, connection, connection.parties.destination_endpoint, Reason.DESTINATION_UNREACHABLE)
