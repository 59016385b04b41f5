"""TLS contexts of the tunnel: one for each credential, trust bundle and role.

Belongs here: which versions, ciphers and checks TLS makes. Doesn't: key exchanges (``groups.py``), handshakes
(``handshake.py``), and the profile and issuers' check (``shared.model.trust.certificate``), which follows every
handshake.

Source: RFC 8446; SPIFFE X509-SVID, section 5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cryptography import x509
from OpenSSL import SSL, crypto

from shared.model.trust.bundle import TrustBundle
from sidecar.tls.groups import require_hybrid
from sidecar.tls.resumption import allow_resumption
from sidecar.tls.role import Role

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential

# The protocols that this release speaks, the best first. The first one knows REKEY.
ALPN: Final = b"touchmark/2"
ALPN_BEFORE: Final = b"touchmark/1"
# A pod runs few programs; an older context goes with its credential. 64 contexts are about 4 MB at the most.
MAX_CONTEXTS: Final = 64
# AES-128-GCM first: it is the cheapest with AES instructions, and 128 bits are enough.
_CIPHERS: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_MAX_CHAIN: Final = 3

# X509_V_ERR_* of OpenSSL's x509_vfy.h that mean "not valid at this time".
_TIME_ERRORS: Final = frozenset({9, 10})


class Contexts:
    """Contexts made once for each credential generation, bundle sequence and role; the least used are dropped."""

    def __init__(self, max_contexts: int = MAX_CONTEXTS) -> None:
        self._max_contexts = max_contexts
        self._contexts: OrderedDict[tuple[int, int, Role, bytes], SSL.Context] = OrderedDict()

    def get(self, credential: Credential, bundle: TrustBundle, role: Role) -> SSL.Context:
        """Return the context; a new one when the credential was renewed or the bundle changed.

        A new one rather than a changed one: a used context goes on resuming sessions of its old certificate.
        """
        key = (credential.generation, bundle.sequence, role, credential.chain[0])
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = make_context(credential, bundle, role)
            if len(self._contexts) > self._max_contexts:
                self._contexts.popitem(last=False)
        else:
            self._contexts.move_to_end(key)
        return context


def make_context(credential: Credential, bundle: TrustBundle, role: Role) -> SSL.Context:
    """Make a context: TLS 1.3 only, peer's certificate required, the tunnel's ALPN, no session is resumed.

    OpenSSL still offers a stateful session, which finds no cache: each handshake is a whole one, with its checks, or
    rests on a secret of our own (``resumption.py``).

    What this does *not* verify: the peer's SPIFFE ID, profile, issuer and the distrusted authorities, nor that the
    bundle's issuers are valid and signed by its roots.
    """
    # The bundle's issuers are ends of a chain as well, so that OpenSSL verifies a leaf's signature only: who signed an
    # issuer is verified once for each chain and bundle, by ``BundleVerifier``, which follows every handshake.
    context = make_base_context(credential, (*bundle.roots, *bundle.issuers))
    store = context.get_cert_store()
    if store is None:
        raise RuntimeError("a new context has no certificate store")
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    context.set_verify_depth(_MAX_CHAIN)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    require_hybrid(context)
    allow_resumption(context, role)
    if role is Role.INITIATOR:
        context.set_alpn_protos([ALPN, ALPN_BEFORE])
    else:
        context.set_alpn_select_callback(_select_alpn)
    return context


def make_base_context(credential: Credential, roots: Iterable[bytes]) -> SSL.Context:
    """Make what every context has: TLS 1.3 only, our certificate, these roots (DER), nothing is resumed.

    What this does *not* do: ask for the peer's certificate, or verify it.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # A connection that waits needs no buffers: thousands of them do.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_tls13_ciphersuites(_CIPHERS)
    leaf, *others = (x509.load_der_x509_certificate(der) for der in credential.chain)
    context.use_certificate(leaf)
    for certificate in others:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credential.key)
    store = context.get_cert_store()
    if store is None:
        raise RuntimeError("a new context has no certificate store")
    for der in dict.fromkeys(roots):
        store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)))
    return context


def is_about_time(error: int) -> bool:
    """Tell whether OpenSSL's verification error says that a certificate was expired or not yet valid."""
    return error in _TIME_ERRORS


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    for protocol in (ALPN, ALPN_BEFORE):
        if protocol in offered:
            return protocol
    # pyOpenSSL turns an unhandled offer into "no ALPN"; raising ends the handshake with an alert.
    raise ValueError("the client offers no tunnel's protocol")
