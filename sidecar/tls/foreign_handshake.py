"""TLS with foreign peers: the context without the tunnel's ALPN, and the handshake that says whom it met.

Belongs here: what TLS itself demands of a foreign peer, and the reason when one fails. Doesn't: verification of the
whole chain (``shared.model.trust.foreign_certificate``), which follows, or whom to expect (the stories).

OpenSSL verifies against the roots of *all* known domains, so that an unknown peer is refused inside the
handshake, before a client's certificate is shown to it; afterwards the chain has to hold against its own domain's.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from OpenSSL import SSL, crypto

from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import TrustBundle
from shared.model.trust.certificate import VerifiedPeer
from shared.model.trust.foreign_certificate import MAX_CHAIN_CERTIFICATES, ForeignPeer
from sidecar.mesh.foreign_trust import ForeignRoots, explain_refusal, verify_anybody
from sidecar.tls.contexts import is_about_time, make_base_context
from sidecar.tls.handshake import HandshakeError, drive_handshake
from sidecar.tls.presented import read_presented
from sidecar.tls.role import Role

if TYPE_CHECKING:
    from OpenSSL.SSL import _NoOverlappingProtocols as NoOverlappingProtocols

    from sidecar.credential.credential import Credential
    from sidecar.mesh.trust import Trust

# Each holds all roots parsed, for pyOpenSSL shares no stores: 3.4 MB when foreign.MAX_TOTAL_BYTES are known.
MAX_CONTEXTS: Final = 16
# OpenSSL's reasons for a client that can't speak mutual TLS 1.3 at all.
_NO_MTLS: Final = frozenset({"peer did not return a certificate", "unsupported protocol"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """One handshake that held: the TLS connection and who is at its other end."""

    tls: SSL.Connection
    peer: VerifiedPeer | ForeignPeer


class ForeignContexts:
    """Contexts made once for each credential and role, under the current roots; the least used are dropped."""

    def __init__(self, max_contexts: int = MAX_CONTEXTS) -> None:
        self._max_contexts = max_contexts
        self._contexts: OrderedDict[tuple[int, Role, bytes], SSL.Context] = OrderedDict()
        self._roots: tuple[bytes, ...] = ()

    def get(self, credential: Credential, bundle: TrustBundle, foreign: ForeignRoots, role: Role) -> SSL.Context:
        """Return the context; a new one when one of these has changed."""
        roots = (*bundle.roots, *foreign.roots)
        if roots != self._roots:
            self._roots = roots
            self._contexts.clear()
        key = (credential.generation, role, credential.chain[0])
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = make_foreign_context(credential, roots, role)
            if len(self._contexts) > self._max_contexts:
                self._contexts.popitem(last=False)
        else:
            self._contexts.move_to_end(key)
        return context


def make_foreign_context(credential: Credential, roots: tuple[bytes, ...], role: Role) -> SSL.Context:
    """Make a context: TLS 1.3 only, peer's certificate required, nothing is resumed.

    What this does *not* verify: that a chain leads to the roots of its own domain, the SPIFFE ID, the leaf's profile.
    """
    context = make_base_context(credential, roots)
    store = context.get_cert_store()
    if store is None:
        raise RuntimeError("a new context has no certificate store")
    # A bundle's root may be signed by a CA that the bundle doesn't name.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    context.set_verify_depth(MAX_CHAIN_CERTIFICATES)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _note_verification)
    if role is Role.RESPONDER:
        context.set_alpn_select_callback(_select_alpn)
    return context


async def establish_session(
    *,
    loop: asyncio.AbstractEventLoop,
    connection: socket.socket,
    context: SSL.Context,
    role: Role,
    trust: Trust,
    foreign: ForeignRoots,
    timeout_s: float,
) -> Session:
    """Make the handshake and verify the peer against the bundle of its own trust domain.

    Arguments:
        connection: connected and non-blocking; stays the caller's to close.

    Raises:
        HandshakeError: ``handshake_failed``, ``deadline_exceeded``, ``mtls_required``, ``peer_untrusted``,
            ``peer_expired``.
        VerificationError: ``trust_domain_unknown``, or the chain doesn't hold against its domain's roots.

    What this does *not* verify: that the peer is anybody in particular.
    """
    tls = SSL.Connection(context, connection)
    note = PeerNote()
    tls.set_app_data(note)
    if role is Role.INITIATOR:
        tls.set_connect_state()
    else:
        tls.set_accept_state()
    try:
        await drive_handshake(loop, connection, tls, role, timeout_s=timeout_s)
    except TimeoutError as error:
        raise HandshakeError("the handshake wasn't finished in time", reason=Reason.DEADLINE_EXCEEDED) from error
    except (SSL.Error, ValueError, OSError) as error:
        if note.error:
            refusal = explain_refusal(note.leaf, own=trust.bundle, foreign=foreign) if note.leaf is not None else None
            if refusal is not None:
                raise refusal from error
            reason = Reason.PEER_EXPIRED if is_about_time(note.error) else Reason.PEER_UNTRUSTED
            raise HandshakeError(f"the peer's certificate: OpenSSL error {note.error}", reason=reason) from error
        what = describe_fault(error)
        reason = Reason.MTLS_REQUIRED if what in _NO_MTLS else Reason.HANDSHAKE_FAILED
        raise HandshakeError(f"the handshake failed: {what}", reason=reason) from error
    if note.error:  # The callback has refused it: TLS must have ended.
        raise HandshakeError(f"the peer's certificate: OpenSSL error {note.error}", reason=Reason.PEER_UNTRUSTED)
    peer = verify_anybody(_read_chain(tls), verifier=trust.verifier, foreign=foreign, now=time.time())
    return Session(tls=tls, peer=peer)


def _read_chain(tls: SSL.Connection) -> list[x509.Certificate]:
    """Return what the peer presented, leaf first; empty when it presented nothing.

    Raises:
        HandshakeError: ``peer_untrusted``: a certificate in it can't be parsed. OpenSSL passes over one that it doesn't
            need.
    """
    try:
        return [x509.load_der_x509_certificate(der) for der in read_presented(tls)]
    except (ValueError, x509.InvalidVersion) as error:
        raise HandshakeError(
            f"a certificate of the peer can't be read: {error}", reason=Reason.PEER_UNTRUSTED
        ) from error


def describe_fault(error: BaseException) -> str:
    """Return OpenSSL's own words for a fault, without the names of its libraries."""
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args else None
    if isinstance(queue, list) and queue and isinstance(queue[-1], tuple):
        return str(queue[-1][-1])
    if isinstance(error, SSL.SysCallError) and len(error.args) == 2:
        return str(error.args[1])
    return str(error)


class PeerNote:
    """OpenSSL's first verification error, and the leaf that it was about; a connection's application data."""

    __slots__ = ("error", "leaf")

    def __init__(self) -> None:
        self.error = 0
        self.leaf: x509.Certificate | None = None


def _note_verification(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    note = connection.get_app_data()
    if not isinstance(note, PeerNote):
        return False
    if not ok and not note.error:
        note.error = error
    if not note.error:
        return True
    if depth:
        return True  # The leaf comes last: it says whose chain this is. The error stays, and ends it there.
    try:
        note.leaf = certificate.to_cryptography()
    except (ValueError, x509.InvalidVersion):
        note.leaf = None  # The peer is refused, whatever it shows.
    return False


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> bytes | NoOverlappingProtocols:
    # The application behind speaks what it speaks. Of several offers none is chosen for it; a client that offers a
    # single one (gRPC insists on an answer) gets it confirmed.
    return offered[0] if len(offered) == 1 else SSL.NO_OVERLAPPING_PROTOCOLS
