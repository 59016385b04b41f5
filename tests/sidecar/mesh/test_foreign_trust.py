"""Which roots are in force for whom: each domain's own, never another's."""

from __future__ import annotations

import time

import msgspec
import pytest
from cryptography import x509

from shared.model.errors import ProtocolError, VerificationError
from shared.model.identity.foreign import MAX_DOMAINS, ForeignDomain
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import BundleVerifier, VerifiedPeer
from shared.model.trust.foreign_certificate import ForeignPeer
from sidecar.mesh.foreign_trust import ForeignRoots, explain_refusal, verify_anybody
from tests.sidecar.little_ca import TRUST_DOMAIN
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, Mint, identify
from tests.sidecar.partner import BILLING, Partner

PARTNER, OTHER, MINT = Partner(), Partner(domain="other.example"), Mint()
VERIFIER = BundleVerifier(MINT.bundle)


def known(*domains: ForeignDomain) -> ForeignRoots:
    roots = ForeignRoots()
    roots.install(domains, own=TRUST_DOMAIN)
    return roots


def verify(roots: ForeignRoots, chain: tuple[x509.Certificate, ...]) -> VerifiedPeer | ForeignPeer:
    return verify_anybody(chain, verifier=VERIFIER, foreign=roots, now=time.time())


def refusal(roots: ForeignRoots, chain: tuple[x509.Certificate, ...]) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(roots, chain)
    return caught.value.reason


def test_each_domain_is_verified_by_its_own_roots() -> None:
    roots = known(PARTNER.roots, OTHER.roots)
    assert str(verify(roots, PARTNER.issue().chain).identity) == BILLING
    assert str(verify(roots, OTHER.issue("spiffe://other.example/x").chain).identity) == "spiffe://other.example/x"
    assert refusal(roots, OTHER.issue(BILLING).chain) == Reason.PEER_UNTRUSTED
    assert refusal(roots, PARTNER.issue("spiffe://third.example/x").chain) == Reason.TRUST_DOMAIN_UNKNOWN
    assert refusal(roots, ()) == Reason.MTLS_REQUIRED


def test_our_own_domain_is_verified_by_our_bundle_alone() -> None:
    ours = MINT.issue(identify(CLIENT, CLIENT_PROGRAM))
    chain = tuple(x509.load_der_x509_certificate(der) for der in ours.chain)
    assert isinstance(verify(known(), chain), VerifiedPeer)
    forged = PARTNER.issue(str(identify(CLIENT, CLIENT_PROGRAM)))
    assert refusal(known(PARTNER.roots), forged.chain) == Reason.PEER_UNTRUSTED
    as_foreign = msgspec.structs.replace(PARTNER.roots, trust_domain=TRUST_DOMAIN)
    with pytest.raises(ProtocolError, match=TRUST_DOMAIN):
        known(as_foreign)


def test_what_is_installed_replaces_what_was_and_says_so_once() -> None:
    roots, changes = ForeignRoots(), []
    roots.on_change(lambda: changes.append(roots.generation))
    roots.install([PARTNER.roots], own=TRUST_DOMAIN)
    verifier = roots.get(PARTNER.domain)
    roots.install([PARTNER.roots], own=TRUST_DOMAIN)
    roots.install([PARTNER.roots, OTHER.roots], own=TRUST_DOMAIN)
    assert roots.get(PARTNER.domain) is verifier
    assert roots.roots == (*PARTNER.roots.roots, *OTHER.roots.roots)
    roots.install([], own=TRUST_DOMAIN)
    assert (roots.get(PARTNER.domain), roots.roots, changes) == (None, (), [2, 3, 4])


@pytest.mark.parametrize(
    "domains",
    [
        (PARTNER.roots, PARTNER.roots),
        (OTHER.roots, ForeignDomain(trust_domain="broken.example", roots=(b"no DER",))),
        tuple(msgspec.structs.replace(OTHER.roots, trust_domain=f"d{n}") for n in range(MAX_DOMAINS + 1)),
    ],
    ids=["twice", "broken", "too many"],
)
def test_what_cant_be_right_changes_nothing(domains: tuple[ForeignDomain, ...]) -> None:
    roots = known(PARTNER.roots)
    with pytest.raises(ProtocolError):
        roots.install(domains, own=TRUST_DOMAIN)
    assert roots.roots == PARTNER.roots.roots


def test_a_peer_is_verified_again_only_against_other_roots() -> None:
    roots = known(PARTNER.roots)
    peer = verify(roots, PARTNER.issue().chain)
    assert isinstance(peer, ForeignPeer)
    roots.install([PARTNER.roots, OTHER.roots], own=TRUST_DOMAIN)
    assert roots.verify_again(peer, now=time.time()) is peer
    roots.install([msgspec.structs.replace(OTHER.roots, trust_domain=PARTNER.domain)], own=TRUST_DOMAIN)
    with pytest.raises(VerificationError) as caught:
        roots.verify_again(peer, now=time.time())
    assert caught.value.reason == Reason.PEER_UNTRUSTED
    roots.install([], own=TRUST_DOMAIN)
    with pytest.raises(VerificationError) as caught:
        roots.verify_again(peer, now=time.time())
    assert caught.value.reason == Reason.TRUST_DOMAIN_UNKNOWN


def test_a_leaf_that_tls_refused_is_explained_where_its_own_words_do() -> None:
    roots, own = known(PARTNER.roots), MINT.bundle
    unknown = explain_refusal(OTHER.issue("spiffe://other.example/x").chain[0], own=own, foreign=roots)
    assert unknown is not None
    assert (unknown.reason, "touchmark trust add other.example" in unknown.hint) == (Reason.TRUST_DOMAIN_UNKNOWN, True)
    no_svid = explain_refusal(OTHER.issue("https://other.example/x").chain[0], own=own, foreign=roots)
    assert no_svid is not None
    assert no_svid.reason == Reason.PEER_UNTRUSTED
    assert explain_refusal(OTHER.issue(BILLING).chain[0], own=own, foreign=roots) is None
