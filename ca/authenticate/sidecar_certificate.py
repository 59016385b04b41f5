"""Authentication by the sidecar's own certificate, against the bundle *and* the ledger. I/O through the store."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.errors import RefusedError
from shared.model.identity.identity import IdentityKind
from shared.model.trust.certificate import BundleVerifier


async def authenticate_certificate(
    store: Store, verifier: BundleVerifier, chain: Sequence[x509.Certificate], *, now: float
) -> JoinGrant:
    """Return what the holder of this chain was granted when it joined.

    Raises:
        RefusedError: it isn't a sidecar's own certificate, the ledger doesn't hold it, or its sidecar is unknown.
        VerificationError: the chain doesn't hold now.

    What this does *not* verify: that the peer holds the key (the TLS handshake does).
    """
    peer = verifier.verify_peer(chain, now=now)
    if peer.identity.kind is not IdentityKind.SIDECAR:
        raise RefusedError("a program's certificate doesn't speak for its sidecar")
    line = await store.get_certificate(peer.serial)
    if line is None or line.identity != peer.identity:
        raise RefusedError("the ledger doesn't hold this certificate", hint="join with a new join token")
    sidecar = await store.get_sidecar(line.instance)
    if sidecar is None or sidecar.workload != peer.identity.workload:
        raise RefusedError("no such sidecar has joined", hint="join with a new join token")
    if line.issued < sidecar.joined:
        raise RefusedError("this sidecar has joined anew since", hint="only its newest key speaks for it")
    return sidecar.grant
