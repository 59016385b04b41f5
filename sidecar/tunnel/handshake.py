"""The handshake of a tunnel: TLS with the tunnel's ALPN, between two sidecars of one trust bundle.

Belongs here: the handshake as either end makes it, and the verification of the peer. Doesn't: dialling and reuse
(``connector.py``), plain mTLS (``sidecar/tls/foreign_handshake.py``), what the contexts demand (``sidecar/tls``).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from OpenSSL import SSL

from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import BundleVerifier, VerifiedPeer
from sidecar.native.engine import current_loop
from sidecar.tls.client_hello import format_port_name
from sidecar.tls.contexts import ALPN, ALPN_BEFORE, is_about_time
from sidecar.tls.groups import check_group
from sidecar.tls.handshake import HandshakeError, drive_handshake
from sidecar.tls.kept_secrets import Secrets
from sidecar.tls.key_limit import RENEWED_AT_BYTES
from sidecar.tls.presented import read_presented, read_verification_error
from sidecar.tls.resumption import Attempt, resuming
from sidecar.tls.role import Role
from sidecar.tunnel.native_tunnel import NativeTunnel
from sidecar.tunnel.trace import FrameTrace
from sidecar.tunnel.tunnel import Renewed, Tunnel

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What one end makes a handshake with.

    Attributes:
        context: for the credential, the trust bundle and the role.
        verifier: of that bundle.
    """

    context: SSL.Context
    credential: Credential
    verifier: BundleVerifier


FindKeys = Callable[[], Awaitable[Keys]]


async def establish_tunnel(
    *,
    loop: asyncio.AbstractEventLoop,
    connection: socket.socket,
    keys: Keys,
    renew: FindKeys,
    role: Role,
    timeout_s: float,
    port: int = 0,
    secrets: Secrets | None = None,
    whom: Hashable = None,
    named: bytes = b"",
    trace: FrameTrace | None = None,
    key_bytes: int = RENEWED_AT_BYTES,
) -> Tunnel:
    """Make the handshake and verify the peer, twice: by OpenSSL against the roots, then against the whole bundle.

    Where both ends have a secret of an earlier handshake, OpenSSL's check of that one stands; the bundle's is the same.

    Arguments:
        connection: connected and non-blocking; stays the caller's to close when this raises.
        renew: finds the current keys of the same program, for a tunnel that uses up its own; its errors end the tunnel.
        port: the destination port that the initiator names.
        secrets: of earlier handshakes; None: this one is a whole one. New keys always are.
        whom: what has to be the same for a secret to be offered, or taken, besides the own credential and the bundle.
        named: at a responder, the secret that the peeked ClientHello names.
        trace: of the tunnel's frames; None for none.
        key_bytes: when so much was encrypted with one key, new ones are made.

    Raises:
        HandshakeError: ``handshake_failed``, ``deadline_exceeded``, ``peer_untrusted``, ``peer_expired``.
        VerificationError: the chain doesn't hold against the bundle.

    What this does *not* verify: that the peer's workload is the expected one, and its program.
    """
    handshakes = _Handshakes(loop, connection, renew, role, timeout_s, port)
    made = await handshakes.make_first(keys, secrets, whom, named)
    native = current_loop() if trace is None else None  # A trace sees every frame, which the loop doesn't show.
    make: Callable[..., Tunnel] = Tunnel if native is None else partial(NativeTunnel, native)
    return make(
        loop=loop,
        connection=connection,
        tls=made.tls,
        role=role,
        peer=made.peer,
        credential=made.credential,
        rekey=handshakes.make_again if made.tls.get_alpn_proto_negotiated() == ALPN else None,
        trace=trace,
        key_bytes=key_bytes,
    )


class _Handshakes:
    """One connection's handshakes: the first, and those for new keys. It lives as long as the tunnel: kept small."""

    __slots__ = ("_connection", "_loop", "_port", "_renew", "_role", "_timeout_s")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: socket.socket,
        renew: FindKeys,
        role: Role,
        timeout_s: float,
        port: int,
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._renew = renew
        self._role = role
        self._timeout_s = timeout_s
        self._port = port

    async def make_first(self, keys: Keys, secrets: Secrets | None, whom: Hashable, named: bytes) -> Renewed:
        """Make a handshake that rests on an earlier one where there are secrets of it."""
        if secrets is None:
            return await self._make(keys, self._begin(keys), None)
        role, binding = self._role, _bind(keys, whom)
        await (secrets.wait_for_another(binding) if role is Role.INITIATOR else secrets.wait_until_kept(named))
        tls = self._begin(keys)
        with resuming(tls, secrets, binding, role, named=named) as attempt:
            return await self._make(keys, tls, attempt)

    async def make_again(self) -> Renewed:
        """Make a whole handshake with the current keys of the same program."""
        keys = await self._renew()
        return await self._make(keys, self._begin(keys), None)

    def _begin(self, keys: Keys) -> SSL.Connection:
        return _make_connection(keys.context, self._connection, self._role, self._port)

    async def _make(self, keys: Keys, tls: SSL.Connection, attempt: Attempt | None) -> Renewed:
        peer = await _shake_hands(
            self._loop, self._connection, tls, self._role, keys.verifier, attempt, timeout_s=self._timeout_s
        )
        return Renewed(tls=tls, peer=peer, credential=keys.credential)


def _bind(keys: Keys, whom: Hashable) -> Hashable:
    credential, bundle = keys.credential, keys.verifier.bundle
    return credential.generation, credential.chain, bundle.trust_domain, bundle.sequence, whom


def _make_connection(context: SSL.Context, connection: socket.socket, role: Role, port: int) -> SSL.Connection:
    tls = SSL.Connection(context, connection)
    if role is Role.INITIATOR:
        tls.set_tlsext_host_name(format_port_name(port).encode())
        tls.set_connect_state()
    else:
        tls.set_accept_state()
    return tls


async def _shake_hands(
    loop: asyncio.AbstractEventLoop,
    connection: socket.socket,
    tls: SSL.Connection,
    role: Role,
    verifier: BundleVerifier,
    attempt: Attempt | None,
    *,
    timeout_s: float,
) -> VerifiedPeer:
    try:
        await drive_handshake(loop, connection, tls, role, timeout_s=timeout_s, course=attempt)
    except TimeoutError as error:
        raise HandshakeError("the handshake wasn't finished in time", reason=Reason.DEADLINE_EXCEEDED) from error
    except (SSL.Error, ValueError, OSError) as error:
        if fault := read_verification_error(tls):
            reason = Reason.PEER_EXPIRED if is_about_time(fault) else Reason.PEER_UNTRUSTED
            raise HandshakeError(f"the peer's certificate: OpenSSL error {fault}", reason=reason) from error
        raise HandshakeError(f"the handshake failed: {error}", reason=Reason.HANDSHAKE_FAILED) from error
    protocol = tls.get_alpn_proto_negotiated()
    if protocol not in (ALPN, ALPN_BEFORE):
        raise HandshakeError("the peer speaks no tunnel's protocol", reason=Reason.HANDSHAKE_FAILED)
    check_group(tls, rests_on_secret=attempt is not None and attempt.rests_on_secret)
    chain = (attempt.read_kept_chain() if attempt is not None else None) or read_presented(tls)
    if not chain:
        raise HandshakeError("the peer showed no certificate", reason=Reason.HANDSHAKE_FAILED)
    peer = verifier.verify_presented(chain, now=time.time())
    if attempt is not None:
        attempt.count()
        # Release 0.1 keeps no secrets, and is offered none.
        if protocol == ALPN:
            attempt.keep(chain)
    return peer
