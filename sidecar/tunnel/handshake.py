"""The handshake of a tunnel: TLS with ALPN ``touchmark/1``, between two sidecars of one trust bundle.

Belongs here: the handshake as either end makes it, and the verification of the peer. Doesn't: dialling and reuse
(``connector.py``), plain mTLS (``sidecar/tls/foreign_handshake.py``), what the contexts demand (``sidecar/tls``).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from OpenSSL import SSL

from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import BundleVerifier, VerifiedPeer
from sidecar.tls.client_hello import format_port_name
from sidecar.tls.contexts import ALPN, VerificationNote
from sidecar.tls.handshake import HandshakeError, drive_handshake, read_chain
from sidecar.tls.role import Role
from sidecar.tunnel.trace import FrameTrace
from sidecar.tunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential


async def establish_tunnel(
    *,
    loop: asyncio.AbstractEventLoop,
    connection: socket.socket,
    context: SSL.Context,
    role: Role,
    credential: Credential,
    verifier: BundleVerifier,
    now: float,
    timeout_s: float,
    port: int = 0,
    trace: FrameTrace | None = None,
) -> Tunnel:
    """Make the handshake and verify the peer, twice: by OpenSSL against the roots, then against the whole bundle.

    Arguments:
        connection: connected and non-blocking; stays the caller's to close when this raises.
        now: seconds since the epoch.
        port: the destination port that the initiator names.
        trace: of the tunnel's frames; None for none.

    Raises:
        HandshakeError: ``handshake_failed``, ``deadline_exceeded``, ``peer_untrusted``, ``peer_expired``.
        VerificationError: the chain doesn't hold against the bundle.

    What this does *not* verify: that the peer's workload is the expected one, and its program.
    """
    tls = SSL.Connection(context, connection)
    note = VerificationNote()
    tls.set_app_data(note)
    if role is Role.INITIATOR:
        tls.set_tlsext_host_name(format_port_name(port).encode())
        tls.set_connect_state()
    else:
        tls.set_accept_state()
    try:
        await drive_handshake(loop, connection, tls, role, timeout_s=timeout_s)
    except TimeoutError as error:
        raise HandshakeError("the handshake wasn't finished in time", reason=Reason.DEADLINE_EXCEEDED) from error
    except (SSL.Error, ValueError, OSError) as error:
        if note.error:
            reason = Reason.PEER_EXPIRED if note.is_about_time else Reason.PEER_UNTRUSTED
            raise HandshakeError(f"the peer's certificate: OpenSSL error {note.error}", reason=reason) from error
        raise HandshakeError(f"the handshake failed: {error}", reason=Reason.HANDSHAKE_FAILED) from error
    if tls.get_alpn_proto_negotiated() != ALPN:
        raise HandshakeError("the peer doesn't speak touchmark/1", reason=Reason.HANDSHAKE_FAILED)
    chain = read_chain(tls)
    if not chain:
        raise HandshakeError("the peer showed no certificate", reason=Reason.HANDSHAKE_FAILED)
    peer: VerifiedPeer = verifier.verify_peer(chain, now=now)
    return Tunnel(loop=loop, connection=connection, tls=tls, role=role, peer=peer, credential=credential, trace=trace)
