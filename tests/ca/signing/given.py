"""What the tests of signing are given: an authority, and requests."""

from __future__ import annotations

from typing import Final

from ca.authority.founding import make_issuer, make_root
from ca.authority.sign import Details
from ca.signing.orders import Order
from ca.signing.signer import Wanted
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.trust.bundle import AuthorityPhase
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN, WEB, make_csr

SIDECAR: Final = Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=IdentityKind.SIDECAR)
ROOT: Final = make_root(TRUST_DOMAIN, KEK, now=NOW)
ISSUER: Final = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.ACTIVE, now=NOW)
NEXT_ISSUER: Final = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.ACTIVE, now=NOW)
CSR: Final = make_csr()


def make_order(number: int = 1, *, csr: bytes = CSR, identity: str = str(SIDECAR), lifetime_s: float = 3600.0) -> Order:
    """Make an order as the CA does."""
    return Order(
        number, csr, identity, (number + (1 << 130)).to_bytes(20, "big"), NOW, lifetime_s, "/bin/é", "ann", "a"
    )


def make_wanted(csr: bytes = CSR, *, lifetime_s: float = 3600.0) -> Wanted:
    """Say what is wanted as ``ca/issuance.py`` does."""
    return Wanted(csr_der=csr, identity=SIDECAR, now=NOW, lifetime_s=lifetime_s, details=Details(instance="a"))


def spoil(csr: bytes) -> bytes:
    """Return a request that its key didn't sign."""
    return csr[:-1] + bytes([csr[-1] ^ 1])
