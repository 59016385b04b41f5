"""Authentication by join token. I/O through the store."""

from __future__ import annotations

from collections.abc import Set

from ca.evidence.csr import check_csr
from ca.store.enrolment import check_registration, normalise_addresses
from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.errors import RefusedError
from shared.model.trust.join_token import JoinToken
from shared.model.wire.messages import Registration


async def authenticate_join_token(
    store: Store, token: JoinToken, csr_der: bytes, registration: Registration, *, root_pins: Set[str], now: float
) -> JoinGrant:
    """Spend a join token and return what it grants.

    What can be checked without spending it is checked first, so that a mistake costs no token.

    Arguments:
        root_pins: of the roots of the trust bundle.

    Raises:
        RefusedError: the token is unknown, wrong, expired, spent, for another CA, or doesn't name an address.
        VerificationError: the certificate request doesn't hold.
        InputError: the registration can't be.
    """
    if token.root_pin not in root_pins or token.trust_domain != store.trust_domain:
        raise RefusedError(
            "this join token is for another CA, or for a root that this one has replaced",
            hint="make one with this CA's `touchmark ca join-token`",
        )
    check_csr(csr_der)
    check_registration(registration, normalise_addresses(registration.addresses))
    known = await store.get_join_token(token.token_id)
    if known is not None:  # Else spending refuses it, with the one message for unknown and wrong.
        check_registration(registration, known.addresses)
    return await store.spend_join_token(
        token_id=token.token_id, secret=token.secret, instance=registration.instance, now=now
    )
