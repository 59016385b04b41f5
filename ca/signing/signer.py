"""Who signs: the CA's own process. Draws serial numbers; no other I/O.

Belongs here: what ``ca/issuance.py`` asks for, and the plain way to do it. Doesn't: the signing process
(``process.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from ca.authority.founding import Authority
from ca.authority.sign import Details
from ca.signing.work import check_and_sign
from shared.model.identity.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A leaf that was decided.

    Attributes:
        csr_der: the request, unchecked: its key is certified once its signature holds.
        now: seconds since the epoch.
    """

    csr_der: bytes
    identity: Identity
    now: float
    lifetime_s: float
    details: Details


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A leaf that was signed and checked: DER, and from when until when it is valid, seconds since the epoch."""

    serial: int
    der: bytes
    not_before: float
    not_after: float


class Signer(Protocol):
    """Signs leaves."""

    async def sign(self, authority: Authority, wanted: Wanted) -> Signed:
        """Check the request and sign a leaf for its key.

        Raises:
            VerificationError: the request doesn't hold, or what was signed breaks the profile.
            UnavailableError: the authority has ended, or nearly; or too many wait.
            InputError: the lifetime or the details are out of their bounds.
        """


class OwnSigner:
    """Signs in this process, at once."""

    async def sign(self, authority: Authority, wanted: Wanted) -> Signed:
        """Sign; errors are those of ``Signer``."""
        serial = x509.random_serial_number()
        leaf = check_and_sign(
            authority,
            wanted.csr_der,
            wanted.identity,
            serial=serial,
            now=wanted.now,
            lifetime_s=wanted.lifetime_s,
            details=wanted.details,
        )
        return Signed(serial=serial, der=leaf.der, not_before=leaf.not_before, not_after=leaf.not_after)
