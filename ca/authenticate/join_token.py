"""Authentication by join token. I/O through the store."""

from __future__ import annotations

import hashlib
from collections.abc import Set

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.evidence.csr import check_csr
from ca.store.records import JoinGrant, SidecarRecord
from ca.store.store import Store
from shared.model.errors import RefusedError
from shared.model.trust.join_token import JoinToken
from shared.model.wire.messages import Registration


async def check_join_token(store: Store, token: JoinToken, *, root_pins: Set[str]) -> None:
    """Check that a join token is one of this CA's, before anybody waits for it. It may be expired or spent.

    Raises:
        RefusedError: it is unknown, wrong, or for another CA.
    """
    _check_origin(store, token, root_pins)
    await store.join_tokens.check(token.token_id, token.secret)


async def authenticate_join_token(
    store: Store,
    token: JoinToken,
    csr_der: bytes,
    registration: Registration,
    *,
    root_pins: Set[str],
    now: float,
    replaces: float | None = None,
    renewal_digest: bytes | None = None,
) -> tuple[JoinGrant, SidecarRecord]:
    """Spend a join token and register its sidecar; return what it grants, and the sidecar.

    Only success spends it. The same key may ask again, for a while: its answer may have been lost.

    Arguments:
        root_pins: of the roots of the trust bundle.
        replaces, renewal_digest: as in ``Enrolment.enter_by_token``.

    Raises:
        SecondSidecarError: such a sidecar is connected.
        RefusedError: the token is unknown, wrong, expired, spent, for another CA, or doesn't name an address.
        ConflictError: a live sidecar of another workload holds an address.
        VerificationError: the certificate request doesn't hold.
        InputError: the registration can't be.
    """
    _check_origin(store, token, root_pins)
    return await store.enrolment.enter_by_token(
        token_id=token.token_id,
        secret=token.secret,
        key_digest=digest_key(csr_der),
        registration=registration,
        now=now,
        replaces=replaces,
        renewal_digest=renewal_digest,
    )


def digest_key(csr_der: bytes) -> bytes:
    """Return the SHA-256 of the public key that a request proves the possession of.

    Raises:
        VerificationError: the certificate request doesn't hold.
    """
    key = check_csr(csr_der).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).digest()


def _check_origin(store: Store, token: JoinToken, root_pins: Set[str]) -> None:
    if token.root_pin not in root_pins or token.trust_domain != store.trust_domain:
        raise RefusedError(
            "this join token is for another CA, or for a root that this one has replaced",
            hint="make one with this CA's `touchmark ca join-token`",
        )
