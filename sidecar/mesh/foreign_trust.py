"""The roots of other trust domains that are in force here, and whose chain a peer on a plain mTLS port shows.

Belongs here: state and the choice of a chain's verifier. Doesn't: verification (``shared.model``), the messages that
bring roots (``sidecar/control/dispatch.py``). No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cryptography import x509

from shared.model.errors import ProtocolError, VerificationError
from shared.model.identity.foreign import MAX_DOMAINS, ForeignDomain
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import BundleVerifier, VerifiedPeer
from shared.model.trust.foreign_certificate import ForeignPeer, ForeignVerifier, read_foreign_leaf

if TYPE_CHECKING:
    from shared.model.trust.bundle import TrustBundle


class ForeignRoots:
    """Other trust domains' roots by their names; none at first.

    Attributes:
        generation: grows with every change: what was derived from them is compared with it.
        roots: DER, of all domains.
    """

    def __init__(self) -> None:
        self.generation = 1
        self.roots: tuple[bytes, ...] = ()
        self._verifiers: dict[str, ForeignVerifier] = {}
        self._callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after every change."""
        self._callbacks.append(callback)

    def get(self, trust_domain: str) -> ForeignVerifier | None:
        """Return a domain's verifier, or None when its roots aren't known."""
        return self._verifiers.get(trust_domain)

    def install(self, domains: Sequence[ForeignDomain], *, own: str) -> None:
        """Put these domains in the place of all that were there before.

        Arguments:
            own: our own trust domain, which is known by its bundle alone.

        Raises:
            ProtocolError: one of them is our own, comes twice or can't be parsed; nothing has changed then.
        """
        if len(domains) > MAX_DOMAINS:
            raise ProtocolError(f"roots of more than {MAX_DOMAINS} trust domains")
        verifiers: dict[str, ForeignVerifier] = {}
        for domain in domains:
            if domain.trust_domain == own or domain.trust_domain in verifiers:
                raise ProtocolError(f"roots of {domain.trust_domain} as of a foreign trust domain, or twice")
            known = self._verifiers.get(domain.trust_domain)
            try:
                is_known = known is not None and known.domain == domain
                verifiers[domain.trust_domain] = known if known and is_known else ForeignVerifier(domain)
            except ValueError as error:
                raise ProtocolError(f"a root of {domain.trust_domain} can't be parsed: {error}") from error
        if verifiers == self._verifiers:
            return
        self._verifiers = verifiers
        self.roots = tuple(root for verifier in verifiers.values() for root in verifier.domain.roots)
        self.generation += 1
        for callback in self._callbacks:
            callback()

    def verify_again(self, peer: ForeignPeer, *, now: float) -> ForeignPeer:
        """Return the peer as verified against the current roots.

        Raises:
            VerificationError: it doesn't hold against them, or its domain isn't known any more.
        """
        verifier = self.get(peer.identity.trust_domain)
        if verifier is None:
            raise _unknown(peer.identity.trust_domain)
        if verifier.domain.roots == peer.roots:
            return peer
        return verifier.verify_peer(peer.chain, now=now)


def verify_anybody(
    chain: Sequence[x509.Certificate], *, verifier: BundleVerifier, foreign: ForeignRoots, now: float
) -> VerifiedPeer | ForeignPeer:
    """Verify a chain against the bundle of the trust domain that its leaf's own URI names, and no other one.

    Arguments:
        chain: leaf first.
        verifier: of our own trust domain's bundle.
        now: seconds since the epoch.

    Raises:
        VerificationError: ``trust_domain_unknown`` where no roots of that domain are known, else the verifiers' own.
    """
    if not chain:
        raise VerificationError("the peer showed no certificate", reason=Reason.MTLS_REQUIRED)
    claimed = read_foreign_leaf(chain[0])
    if claimed.trust_domain == verifier.bundle.trust_domain:
        return verifier.verify_peer(chain, now=now)
    domain = foreign.get(claimed.trust_domain)
    if domain is None:
        raise _unknown(claimed.trust_domain)
    return domain.verify_peer(chain, now=now)


def explain_refusal(leaf: x509.Certificate, *, own: TrustBundle, foreign: ForeignRoots) -> VerificationError | None:
    """Say of a leaf that TLS itself has refused whether it is no SVID, or of a domain that isn't known; else None."""
    try:
        claimed = read_foreign_leaf(leaf)
    except VerificationError as error:
        return error
    if claimed.trust_domain != own.trust_domain and foreign.get(claimed.trust_domain) is None:
        return _unknown(claimed.trust_domain)
    return None


def _unknown(trust_domain: str) -> VerificationError:
    return VerificationError(
        f"no roots of the trust domain {trust_domain} are known",
        reason=Reason.TRUST_DOMAIN_UNKNOWN,
        hint=f"touchmark trust add {trust_domain} FILE",
    )
