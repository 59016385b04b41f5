"""The story of an inbound connection on a port that is declared mTLS, from a peer that has no sidecar of ours:

peek → attest listener → terminate → identify → decide → connect → pump → record.

``serve_foreign`` reads top to bottom like this sentence; start there. Belongs here: the order of steps and who answers
for which failure. Doesn't: tunnels and plaintext (``inbound.py``), the way out (``foreign_outbound.py``).

A member of our own mesh may come this way, too: what it proves is the same as in a tunnel.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.model.errors import ProtocolError, VerificationError
from shared.model.policy.decision import Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.trust.foreign_certificate import ForeignPeer
from sidecar.connection.connection import Connection, Refused, record_refused
from sidecar.connection.parties import Parties
from sidecar.listener import attest_application, choose_listener_credential, note_listener, serves_listener
from sidecar.proving import await_clearance
from sidecar.sockets.ending import reset
from sidecar.steps import dial_application, look_up_workload, obtain_policy, pump_through_tls, wait_for_handshake
from sidecar.tls.foreign_handshake import Session, establish_session
from sidecar.tls.handshake import HandshakeError, peek_client_hello
from sidecar.tls.role import Role

if TYPE_CHECKING:
    from sidecar.capture.captured import Captured
    from sidecar.credential.credential import Credential
    from sidecar.parts import Sidecar
    from sidecar.sockets.address import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrival:
    """A peer whose handshake held, and the credential that it was shown."""

    session: Session
    credential: Credential


async def serve_foreign(sidecar: Sidecar, captured: Captured, application: Endpoint) -> None:
    """Serve one connection on a port that is declared mTLS. Closes it and records it in every case.

    What isn't mutual TLS is refused in both modes: declaring the port says that nothing else belongs there, and
    a plain connection that is let through would reach a program that counts on TLS.
    """
    try:
        with sidecar.handshakes.enter(captured.source[0]):
            arrival = await terminate(sidecar, captured, application)
    except VerificationError as error:
        sidecar.counts.fail_handshake(Reason(error.reason))
        parties = Parties(Direction.INGRESS, source=captured.source, destination=captured.destination)
        record_refused(sidecar, parties, Refused(Reason(error.reason), error.message), transport=Transport.MTLS)
        reset(captured.connection)
        return
    with Connection(sidecar, Direction.INGRESS, source=captured.source, destination=captured.destination) as connection:
        place = sidecar.rooms.peers.enter(captured.source[0])
        try:
            connection.transport = Transport.MTLS
            if place is None:
                raise Refused(Reason.OVERLOADED, "too many connections of peers")
            await identify_source(sidecar, connection, arrival)
            listener = await attest_application(sidecar, application)
            note_listener(sidecar, connection.parties, listener)
            connection.watch_program()
            connection.parties.destination_identity = arrival.credential.identity
            if not serves_listener(sidecar, arrival.credential, listener):
                raise Refused(Reason.PROCESS_VANISHED, "the listener, or its approval, changed during the handshake")
            connection.decide()
            await await_clearance(sidecar, connection)
            connection.application = await dial_application(sidecar, application)
            connection.check_not_revoked()
            await pump_through_tls(sidecar, connection, arrival.session, captured.connection)
        finally:
            if place is not None:
                place.leave()
            if captured.connection.fileno() >= 0:
                reset(captured.connection)


async def terminate(sidecar: Sidecar, captured: Captured, application: Endpoint) -> Arrival:
    """See that the client begins with TLS, attest the listener, and make TLS with that listener's credential.

    Raises:
        VerificationError: the handshake fails, or the peer's certificate doesn't hold.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await peek_client_hello(loop, captured.connection, timeout_s=sidecar.limits.client_hello_s)
    except HandshakeError as error:
        if isinstance(error.__cause__, ProtocolError):
            raise HandshakeError(error.message, reason=Reason.MTLS_REQUIRED) from error
        raise
    await wait_for_handshake(sidecar, captured.source[0])
    credential = await choose_listener_credential(sidecar, await attest_application(sidecar, application))
    session = await establish_session(
        loop=loop,
        connection=captured.connection,
        context=sidecar.foreign_contexts.get(credential, sidecar.trust.bundle, sidecar.foreign, Role.RESPONDER),
        role=Role.RESPONDER,
        trust=sidecar.trust,
        foreign=sidecar.foreign,
        timeout_s=sidecar.limits.handshake_s,
    )
    sidecar.handshakes.note_known(captured.source[0])
    sidecar.counts.handshakes.observe(loop.time() - began)
    return Arrival(session=session, credential=credential)


async def identify_source(sidecar: Sidecar, connection: Connection, arrival: Arrival) -> None:
    """Say who the peer is by its certificate, and who the directory lists at its address: that can only take away.

    Raises:
        Refused: the bundle changed and the certificate doesn't hold any more, or the CA didn't answer.
    """
    parties = connection.parties
    parties.peer = arrival.session.peer
    connection.check_peer_again()
    connection.check_not_revoked()
    found = parties.peer
    parties.note_peer(found)
    listed = await look_up_workload(sidecar, parties.source_endpoint[0])
    if isinstance(found, ForeignPeer):
        parties.source = replace(parties.source, listed=listed, foreign=found.identity)
        return
    identity = found.identity
    parties.source = replace(
        parties.source,
        workload=identity.workload,
        listed=listed,
        program=identity.program,
        why_unidentified=None if identity.program else Reason.PEER_UNIDENTIFIED,
    )
    await obtain_policy(sidecar, identity.workload.namespace)
