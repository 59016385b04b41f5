"""The way out to a foreign peer: dial → terminate → identify → decide → pump, on destination ports of plain mTLS.

Belongs here: these steps of ``outbound.carry_outbound``. Doesn't: what comes before (capture, attestation, the first
decision), or the way in (``foreign_inbound.py``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.model.errors import VerificationError
from shared.model.policy.decision import Transport
from shared.model.policy.reasons import Reason
from shared.model.trust.foreign_certificate import ForeignPeer
from sidecar.connection.connection import Connection, Refused
from sidecar.sockets.dial import DialError, dial
from sidecar.sockets.ending import reset
from sidecar.steps import pump_through_tls
from sidecar.tls.foreign_handshake import Session, establish_session
from sidecar.tls.role import Role

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential
    from sidecar.parts import Sidecar


async def carry_to_foreign(sidecar: Sidecar, connection: Connection, credential: Credential) -> None:
    """Dial the destination by plain mTLS under the program's credential; decide who answers before any byte flows.

    Raises:
        Refused: nothing answers (because of a ``DialError``), a peer whose certificate doesn't hold or whom policy
            doesn't allow, or a member of our own mesh, which is reached at its listed address and by its tunnel only.
    """
    loop, destination = asyncio.get_running_loop(), connection.parties.destination_endpoint
    try:
        peer = await dial(loop, destination, mark=sidecar.mark, timeout_s=sidecar.limits.dial_s)
    except DialError as error:
        raise Refused(Reason.DESTINATION_UNREACHABLE, str(error)) from error
    try:
        connection.check_not_revoked()
        connection.transport = Transport.MTLS
        try:
            session = await establish_session(
                loop=loop,
                connection=peer,
                context=sidecar.foreign_contexts.get(credential, sidecar.trust.bundle, sidecar.foreign, Role.INITIATOR),
                role=Role.INITIATOR,
                trust=sidecar.trust,
                foreign=sidecar.foreign,
                timeout_s=sidecar.limits.handshake_s,
            )
        except VerificationError as error:
            raise Refused(Reason(error.reason), error.message) from error
        identify_destination(connection, session)
        connection.check_not_revoked()
        connection.decide()
        connection.parties.source_identity = credential.identity
        await pump_through_tls(sidecar, connection, session, peer)
    finally:
        if peer.fileno() >= 0:
            reset(peer)


def identify_destination(connection: Connection, session: Session) -> None:
    """Say who answers.

    Raises:
        Refused: a member of our own mesh, where the directory lists no workload.
    """
    found = session.peer
    connection.parties.note_peer(found)
    if not isinstance(found, ForeignPeer):
        raise Refused(
            Reason.PEER_WORKLOAD_MISMATCH, f"{found.identity.workload} answers where the directory lists no workload"
        )
    connection.parties.destination = replace(connection.parties.destination, foreign=found.identity, is_pending=False)
