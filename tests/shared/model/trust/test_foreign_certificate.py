"""Chains of other trust domains: a good one is read, every bad one refused with its reason. All of them are real."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from shared.model.errors import IdentityError, InputError, VerificationError
from shared.model.identity.foreign import ForeignDomain, ForeignIdentity
from shared.model.policy.reasons import Reason
from shared.model.trust.foreign_certificate import (
    MAX_CHAIN_CERTIFICATES,
    MAX_PEM_BYTES,
    ForeignVerifier,
    parse_roots,
    read_foreign_leaf,
)
from tests.shared.model.trust.minting import NOW, Minted, mint_authority, mint_leaf

DOMAIN = "partner.example"
BILLING = x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/billing")
ROOT = mint_authority("partner root")
MIDDLE = mint_authority("partner region", ROOT)
ISSUER = mint_authority("partner issuer", MIDDLE, path_length=0, to_s=50_000)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def make_verifier(*roots: Minted) -> ForeignVerifier:
    return ForeignVerifier(parse_roots(DOMAIN, pem(*(each.certificate for each in roots))))


VERIFIER = make_verifier(ROOT)


def refusal(*chain: x509.Certificate, verifier: ForeignVerifier = VERIFIER, now: float = NOW) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verifier.verify_peer(chain, now=now)
    return caught.value


def test_a_chain_of_nested_issuers_proves_its_identity() -> None:
    leaf = mint_leaf(ISSUER, names=(BILLING,))
    peer = VERIFIER.verify_peer([leaf, ISSUER.certificate, MIDDLE.certificate], now=NOW)
    assert peer.identity == ForeignIdentity(trust_domain=DOMAIN, path="/billing")
    assert (peer.issuer, peer.not_after) == ("partner issuer", NOW + 3600)
    assert peer.chain[0] == leaf
    assert peer.roots == VERIFIER.domain.roots


def test_a_leaf_right_below_the_root_is_proven_too() -> None:
    assert VERIFIER.verify_peer([mint_leaf(ROOT, names=(BILLING,))], now=NOW).issuer == "partner root"


def test_other_names_a_subject_rsa_and_no_purposes_are_no_fault() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    names = (x509.DNSName("billing.partner.example"), BILLING, x509.IPAddress(ipaddress.ip_address("203.0.113.7")))
    leaf = mint_leaf(ROOT, names=names, subject="billing", san_critical=False, key=key)
    assert str(VERIFIER.verify_peer([leaf], now=NOW).identity) == BILLING.value


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: mint_leaf(ROOT, names=(x509.DNSName("a.b"),)), "0 URI SANs"),
        (lambda: mint_leaf(ROOT, names=(BILLING, x509.UniformResourceIdentifier("https://a.b/"))), "2 URI SANs"),
        (lambda: mint_leaf(ROOT, names=(x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}"),)), "without a path"),
        (lambda: mint_leaf(ROOT, names=(x509.UniformResourceIdentifier(f"https://{DOMAIN}/a"),)), "not a SPIFFE ID"),
        (lambda: mint_leaf(ROOT, names=(BILLING,), key_cert_sign=True), "keyUsage"),
        (lambda: mint_leaf(ROOT, names=(BILLING,), digital_signature=False), "keyUsage"),
        (lambda: mint_leaf(ROOT, names=(BILLING,), usage_critical=False), "keyUsage"),
        (
            lambda: mint_leaf(ROOT, names=(BILLING,), purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
            "serverAuth and clientAuth",
        ),
        (lambda: mint_leaf(ROOT, names=(BILLING,), purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), ""),
        (lambda: mint_leaf(ROOT, names=(BILLING,), is_ca=True), ""),
        (lambda: mint_leaf(ROOT, san_critical=None), ""),
    ],
)
def test_a_leaf_that_is_no_svid_is_untrusted(make: Callable[[], x509.Certificate], what: str) -> None:
    error = refusal(make())
    assert error.reason == Reason.PEER_UNTRUSTED
    assert what in error.message


def test_another_domains_identity_under_this_domains_root_is_untrusted() -> None:
    for domain in ("other.example", "touchmark.local", f"x.{DOMAIN}"):
        error = refusal(mint_leaf(ROOT, names=(x509.UniformResourceIdentifier(f"spiffe://{domain}/billing"),)))
        assert (error.reason, f"isn't in the trust domain {DOMAIN}" in error.message) == (Reason.PEER_UNTRUSTED, True)


def test_a_chain_to_another_root_is_untrusted() -> None:
    stranger = mint_authority("partner root")  # The same name, another key.
    assert refusal(mint_leaf(stranger, names=(BILLING,))).reason == Reason.PEER_UNTRUSTED
    assert refusal(mint_leaf(ISSUER, names=(BILLING,))).reason == Reason.PEER_UNTRUSTED  # Its issuers are missing.


def test_a_leaf_below_a_leaf_is_untrusted() -> None:
    key = ISSUER.key
    below = mint_leaf(Minted(certificate=mint_leaf(ROOT, names=(BILLING,), key=key), key=key), names=(BILLING,))
    assert refusal(below, mint_leaf(ROOT, names=(BILLING,), key=key)).reason == Reason.PEER_UNTRUSTED


def test_what_has_ended_or_not_begun_is_expired() -> None:
    leaf = mint_leaf(ISSUER, names=(BILLING,), to_s=200_000)
    chain = (leaf, ISSUER.certificate, MIDDLE.certificate)
    assert refusal(*chain, now=NOW + 50_001).reason == Reason.PEER_EXPIRED  # The issuer has.
    assert refusal(*chain, now=NOW - 60).reason == Reason.PEER_EXPIRED


def test_no_chain_and_too_long_a_one_are_untrusted() -> None:
    leaf = mint_leaf(ROOT, names=(BILLING,))
    assert refusal().reason == Reason.PEER_UNTRUSTED
    assert refusal(leaf, *[ROOT.certificate] * MAX_CHAIN_CERTIFICATES).reason == Reason.PEER_UNTRUSTED


_LEAF = mint_leaf(ROOT, names=(BILLING,))
_DER = _LEAF.public_bytes(Encoding.DER)
# The first byte of the BIT STRING at a certificate's end (RFC 5280, section 4.1.1.3; X.690, section 8.6.2.2).
_UNUSED_BITS = len(_DER) - len(_LEAF.signature) - 1


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # Of what it may not parse.
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
@example(place=_UNUSED_BITS, flip=1)
def test_a_flipped_byte_is_refused_wherever_it_changes_what_was_signed(place: int, flip: int) -> None:
    der = bytearray(_DER)
    der[place % len(der)] ^= flip
    try:
        leaf = x509.load_der_x509_certificate(bytes(der))
    except (ValueError, x509.InvalidVersion):
        return
    try:
        peer = VERIFIER.verify_peer([leaf], now=NOW)
    except VerificationError as error:
        assert error.reason in (Reason.PEER_UNTRUSTED, Reason.PEER_EXPIRED)
        return
    # The count of the signature's unused bits may say 1 where the last bit is 0: the same signature, written otherwise.
    assert place % len(der) == _UNUSED_BITS
    assert (leaf.tbs_certificate_bytes, leaf.signature) == (_LEAF.tbs_certificate_bytes, _LEAF.signature)
    assert peer.identity == ForeignIdentity(trust_domain=DOMAIN, path="/billing")


def test_a_leaf_is_only_a_claim_before_its_chain_is_verified() -> None:
    stranger = mint_authority("stranger")
    assert str(read_foreign_leaf(mint_leaf(stranger, names=(BILLING,)))) == BILLING.value


# ---- roots from PEM ------------------------------------------------------------------------------------------------


def test_roots_are_read_once_each() -> None:
    domain = parse_roots(DOMAIN, b"# two of them\n" + pem(ROOT.certificate, MIDDLE.certificate, ROOT.certificate))
    assert domain.trust_domain == DOMAIN
    assert len(domain.roots) == 2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nothing",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"x" * (MAX_PEM_BYTES + 1),
        pem(mint_leaf(ROOT, names=(BILLING,))),
        pem(ROOT.certificate) + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
    ids=["empty", "no PEM", "no certificate", "too much", "a leaf", "half of it"],
)
def test_what_holds_no_roots_is_refused(text: bytes) -> None:
    with pytest.raises(InputError):
        parse_roots(DOMAIN, text)


@given(st.binary(max_size=300))
def test_any_bytes_are_roots_or_refused(text: bytes) -> None:
    with pytest.raises(InputError):
        parse_roots(DOMAIN, text)


def test_a_domain_that_is_none_is_refused() -> None:
    with pytest.raises(IdentityError):
        parse_roots("Partner.Example", pem(ROOT.certificate))


def test_a_root_that_cant_be_parsed_is_no_verifier() -> None:
    with pytest.raises(ValueError, match=r".+"):
        ForeignVerifier(ForeignDomain(trust_domain=DOMAIN, roots=(b"not DER",)))
