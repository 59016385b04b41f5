"""Certificates: a good chain is read, every bad one is refused with its reason. All of them are real."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from shared.model.errors import VerificationError
from shared.model.identity.identity import IdentityKind
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import TrustBundle, name_instance, name_serial
from shared.model.trust.certificate import (
    MAX_CHAIN_BYTES,
    BundleVerifier,
    check_leaf_profile,
    common_name,
    read_instance,
)
from tests.shared.model.trust.minting import (
    IDENTITY,
    NOW,
    Minted,
    make_bundle,
    mint_authority,
    mint_leaf,
    moment,
    named,
)

ROOT = mint_authority("root", path_length=1)
ISSUER = mint_authority("issuer 1", ROOT, path_length=0, to_s=50_000)
NEXT = mint_authority("issuer 2", ROOT, path_length=0)
VERIFIER = BundleVerifier(make_bundle(ROOT, ISSUER, sequence=7))


def refusal(verifier: BundleVerifier, *chain: x509.Certificate, now: float = NOW) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verifier.verify_peer(chain, now=now)
    return caught.value


def test_a_good_chain_proves_its_identity() -> None:
    leaf = mint_leaf(ISSUER)
    peer = VERIFIER.verify_peer([leaf, ISSUER.certificate], now=NOW)
    assert str(peer.identity) == IDENTITY
    assert peer.identity.kind is IdentityKind.PROGRAM
    assert (peer.issuer, peer.serial, peer.bundle_sequence) == ("issuer 1", leaf.serial_number, 7)
    assert peer.not_after == NOW + 3600
    assert peer.chain == (leaf, ISSUER.certificate)


def test_a_chain_that_carries_the_root_is_good_as_well() -> None:
    peer = VERIFIER.verify_peer([mint_leaf(ISSUER), ISSUER.certificate, ROOT.certificate], now=NOW)
    assert str(peer.identity) == IDENTITY


def test_a_leaf_says_which_sidecar_it_was_issued_to_or_cannot_be_read() -> None:
    def with_details(value: bytes) -> x509.Certificate:
        return mint_leaf(ISSUER, details=value)

    assert read_instance(with_details(b'\x0c\x14{"instance":"web-1"}')) == "web-1"
    long = b'{"path":"' + b"x" * 300 + b'","instance":"web-1"}'
    assert read_instance(with_details(b"\x0c\x82" + len(long).to_bytes(2) + long)) == "web-1"
    assert read_instance(with_details(b"\x0c\x02{}")) == read_instance(mint_leaf(ISSUER)) == ""
    for damaged in (
        b"",
        b"\x0c",
        b"\x0c\x02{",
        b"\x0c\x02{}}",
        b"\x04\x02{}",
        b"\x0c\x01{",
        b"\x0c\x80",
        b"\x0c\x02[]",
    ):
        with pytest.raises(VerificationError) as caught:
            read_instance(with_details(damaged))
        assert caught.value.reason == Reason.PEER_UNTRUSTED


def test_all_leaves_of_an_evicted_sidecar_are_refused_that_became_valid_before() -> None:
    def issue(instance: str, from_s: int) -> x509.Certificate:
        text = b'{"instance":"%s"}' % instance.encode()
        return mint_leaf(ISSUER, from_s=from_s, details=bytes([0x0C, len(text)]) + text)

    entries = (name_instance("evil", until=int(NOW) - 10), name_instance("evil", until=int(NOW) - 5))
    verifier = BundleVerifier(msgspec.structs.replace(make_bundle(ROOT, ISSUER), distrusted=entries))
    assert refusal(verifier, issue("evil", -5), ISSUER.certificate).reason == Reason.PEER_DISTRUSTED
    verifier.verify_peer([issue("evil", -4), ISSUER.certificate], now=NOW)
    verifier.verify_peer([issue("evil-2", -5), ISSUER.certificate], now=NOW)
    with pytest.raises(ValueError, match="x"):
        BundleVerifier(msgspec.structs.replace(make_bundle(ROOT, ISSUER), distrusted=("instance:x:evil",)))


def test_a_chain_ends_with_its_earliest_certificate() -> None:
    leaf = mint_leaf(ISSUER, to_s=80_000)
    assert VERIFIER.verify_peer([leaf, ISSUER.certificate], now=NOW).not_after == NOW + 50_000


def test_an_empty_or_overlong_chain_is_refused() -> None:
    assert refusal(VERIFIER).reason == Reason.PEER_UNTRUSTED
    assert refusal(VERIFIER, mint_leaf(ISSUER), *[ISSUER.certificate] * 4).reason == Reason.PEER_UNTRUSTED


def test_a_good_chain_with_junk_behind_it_that_fills_memory_is_refused() -> None:
    def chain_with(size: int) -> list[x509.Certificate]:
        junk = mint_leaf(ISSUER, details=bytes(size))
        return [mint_leaf(ISSUER), ISSUER.certificate, junk]

    assert VERIFIER.verify_peer(chain_with(1_000), now=NOW).issuer == "issuer 1"
    refused = refusal(VERIFIER, *chain_with(MAX_CHAIN_BYTES))
    assert refused.reason == Reason.PEER_UNTRUSTED and "too long" in refused.message


@pytest.mark.parametrize("now", [NOW - 31, NOW + 3601])
def test_an_expired_or_future_leaf_is_refused(now: float) -> None:
    assert refusal(VERIFIER, mint_leaf(ISSUER), ISSUER.certificate, now=now).reason == Reason.PEER_EXPIRED


def test_an_expired_issuer_is_refused() -> None:
    assert refusal(VERIFIER, mint_leaf(ISSUER, to_s=90_000), ISSUER.certificate, now=NOW + 60_000).reason == (
        Reason.PEER_EXPIRED
    )


def test_a_self_signed_leaf_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    itself = Minted(certificate=mint_authority("self", key=key).certificate, key=key)
    assert refusal(VERIFIER, mint_leaf(itself, subject="self", key=key)).reason == Reason.PEER_UNTRUSTED


def test_a_foreign_root_of_the_same_name_is_refused() -> None:
    root = mint_authority("root", path_length=1)
    issuer = mint_authority("issuer 1", root, path_length=0)
    for chain in ([issuer.certificate], [issuer.certificate, root.certificate]):
        assert refusal(VERIFIER, mint_leaf(issuer), *chain).reason == Reason.PEER_UNTRUSTED


def test_a_missing_issuer_is_refused() -> None:
    assert refusal(VERIFIER, mint_leaf(ISSUER)).reason == Reason.PEER_UNTRUSTED


def test_an_issuer_that_the_bundle_doesnt_list_is_refused_although_the_root_signed_it() -> None:
    assert refusal(VERIFIER, mint_leaf(NEXT), NEXT.certificate).reason == Reason.PEER_UNTRUSTED
    both = BundleVerifier(make_bundle(ROOT, ISSUER, NEXT))
    assert both.verify_peer([mint_leaf(NEXT), NEXT.certificate], now=NOW).issuer == "issuer 2"


def test_a_leaf_that_the_root_signed_itself_is_refused() -> None:
    assert refusal(VERIFIER, mint_leaf(ROOT)).reason == Reason.PEER_UNTRUSTED


def test_an_authority_below_the_issuer_is_refused() -> None:
    below = mint_authority("below", ISSUER, path_length=0)
    assert refusal(VERIFIER, mint_leaf(below), below.certificate, ISSUER.certificate).reason == Reason.PEER_UNTRUSTED


def test_a_leaf_cant_issue() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = mint_leaf(ISSUER, key=key, subject="leaf")
    forged = mint_leaf(Minted(certificate=leaf, key=key))
    assert refusal(VERIFIER, forged, leaf, ISSUER.certificate).reason == Reason.PEER_UNTRUSTED


def test_a_distrusted_issuer_is_refused_wherever_it_stands() -> None:
    tainted = BundleVerifier(make_bundle(ROOT, ISSUER, NEXT, distrusted=(ISSUER,)))
    assert refusal(tainted, mint_leaf(ISSUER), ISSUER.certificate).reason == Reason.PEER_DISTRUSTED
    assert refusal(tainted, mint_leaf(NEXT), NEXT.certificate, ISSUER.certificate).reason == Reason.PEER_DISTRUSTED
    assert tainted.verify_peer([mint_leaf(NEXT), NEXT.certificate], now=NOW).issuer == "issuer 2"


def test_a_distrusted_key_is_refused_under_another_name() -> None:
    again = mint_authority("issuer 3", ROOT, path_length=0, key=ISSUER.key)
    tainted = BundleVerifier(make_bundle(ROOT, again, distrusted=(ISSUER,)))
    assert refusal(tainted, mint_leaf(again), again.certificate).reason == Reason.PEER_DISTRUSTED


def test_another_trust_domain_is_refused() -> None:
    foreign = x509.UniformResourceIdentifier(IDENTITY.replace("touchmark.local", "other.example"))
    error = refusal(VERIFIER, mint_leaf(ISSUER, names=(foreign,)), ISSUER.certificate)
    assert error.reason == Reason.PEER_UNTRUSTED
    assert "trust domain" in error.message


def test_a_certificate_that_cant_be_parsed_is_the_peers_fault() -> None:
    """A presented intermediate with an unknown curve: a refusal, not a crash."""
    der = NEXT.certificate.public_bytes(Encoding.DER)
    curve = bytes.fromhex("06082a8648ce3d030107")
    assert curve in der
    strange = x509.load_der_x509_certificate(der.replace(curve, bytes.fromhex("06082a8648ce3d03017f")))
    error = refusal(VERIFIER, mint_leaf(ISSUER), ISSUER.certificate, strange)
    assert error.reason == Reason.PEER_UNTRUSTED
    with pytest.raises(VerificationError):
        check_leaf_profile(strange)


def test_a_flipped_bit_is_refused() -> None:
    der = bytearray(mint_leaf(ISSUER).public_bytes(Encoding.DER))
    der[-1] ^= 1
    assert refusal(VERIFIER, x509.load_der_x509_certificate(bytes(der)), ISSUER.certificate).reason == (
        Reason.PEER_UNTRUSTED
    )


URI = x509.UniformResourceIdentifier
BROKEN: dict[str, Callable[[], x509.Certificate]] = {
    "no SAN": lambda: mint_leaf(ISSUER, san_critical=None),
    "two URIs": lambda: mint_leaf(ISSUER, names=(URI(IDENTITY), URI(IDENTITY + "/main/none"))),
    "a DNS name beside the URI": lambda: mint_leaf(ISSUER, names=(URI(IDENTITY), x509.DNSName("web.example"))),
    "an address instead": lambda: mint_leaf(ISSUER, names=(x509.IPAddress(ipaddress.ip_address("198.18.0.2")),)),
    "SAN not critical with an empty subject": lambda: mint_leaf(ISSUER, san_critical=False),
    "an authority": lambda: mint_leaf(ISSUER, is_ca=True),
    "key usage not critical": lambda: mint_leaf(ISSUER, usage_critical=False),
    "no digitalSignature": lambda: mint_leaf(ISSUER, digital_signature=False),
    "keyCertSign": lambda: mint_leaf(ISSUER, key_cert_sign=True),
    "server only": lambda: mint_leaf(ISSUER, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    "one purpose too many": lambda: mint_leaf(
        ISSUER,
        purposes=(
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.CODE_SIGNING,
        ),
    ),
    "no key identifiers": lambda: mint_leaf(ISSUER, with_identifiers=False),
    "RSA": lambda: mint_leaf(ISSUER, key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "P-384": lambda: mint_leaf(ISSUER, key=ec.generate_private_key(ec.SECP384R1())),
    "a foreign SPIFFE ID": lambda: mint_leaf(ISSUER, names=(URI("spiffe://touchmark.local/web"),)),
    "the CA's own ID": lambda: mint_leaf(ISSUER, names=(URI("spiffe://touchmark.local/touchmark/ca"),)),
    "an upper-case digest": lambda: mint_leaf(ISSUER, names=(URI(IDENTITY[:-1] + "A"),)),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_a_leaf_off_the_profile_is_refused_by_the_check_and_by_the_verifier(
    make: Callable[[], x509.Certificate],
) -> None:
    leaf = make()
    with pytest.raises(VerificationError) as caught:
        check_leaf_profile(leaf)
    assert caught.value.reason == Reason.PEER_UNTRUSTED
    assert refusal(VERIFIER, leaf, ISSUER.certificate).reason == Reason.PEER_UNTRUSTED


def test_a_subject_allows_a_san_that_isnt_critical() -> None:
    leaf = mint_leaf(ISSUER, subject="web", san_critical=False)
    assert str(VERIFIER.verify_peer([leaf, ISSUER.certificate], now=NOW).identity) == IDENTITY


def test_a_bundle_with_rubbish_cant_be_built() -> None:
    with pytest.raises(ValueError):
        BundleVerifier(TrustBundle(trust_domain="touchmark.local", sequence=1, roots=(b"rubbish",)))


def test_a_name_without_a_common_name_is_shown_whole() -> None:
    assert common_name(named("issuer 1")) == "issuer 1"
    assert common_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Mint")])) == "O=Mint"
    assert moment(0).timestamp() == NOW


def test_a_remembered_chain_holds_only_while_it_is_valid() -> None:
    verifier = BundleVerifier(make_bundle(ROOT, ISSUER))
    leaf = mint_leaf(ISSUER)
    peer = verifier.verify_peer([leaf, ISSUER.certificate], now=NOW)
    again = x509.load_der_x509_certificate(leaf.public_bytes(Encoding.DER))
    assert verifier.verify_peer([again, ISSUER.certificate], now=NOW) is peer
    for now in (peer.not_after + 1, leaf.not_valid_before_utc.timestamp() - 1):
        assert refusal(verifier, leaf, ISSUER.certificate, now=now).reason == Reason.PEER_EXPIRED
    assert verifier.verify_peer([leaf, ISSUER.certificate], now=NOW) is peer


def test_a_verifier_that_remembers_nothing_verifies_anew() -> None:
    verifier = BundleVerifier(make_bundle(ROOT, ISSUER), most_remembered=0)
    chain = [mint_leaf(ISSUER), ISSUER.certificate]
    peer = verifier.verify_peer(chain, now=NOW)
    again = verifier.verify_peer(chain, now=NOW)
    assert again == peer and again is not peer


def test_a_remembered_leaf_doesnt_vouch_for_another_chain() -> None:
    verifier = BundleVerifier(make_bundle(ROOT, ISSUER))
    leaf = mint_leaf(ISSUER)
    verifier.verify_peer([leaf, ISSUER.certificate], now=NOW)
    assert refusal(verifier, leaf).reason == Reason.PEER_UNTRUSTED
    assert refusal(verifier, leaf, NEXT.certificate).reason == Reason.PEER_UNTRUSTED


def test_a_presented_chain_is_parsed_and_verified_once_and_its_time_checked_each_time() -> None:
    verifier = BundleVerifier(make_bundle(ROOT, ISSUER))
    leaf = mint_leaf(ISSUER)
    presented = [leaf.public_bytes(Encoding.DER), ISSUER.certificate.public_bytes(Encoding.DER)]
    peer = verifier.verify_presented(presented, now=NOW)
    assert peer.chain == (leaf, ISSUER.certificate)
    assert verifier.verify_presented([bytes(each) for each in presented], now=NOW) is peer
    assert verifier.verify_peer([leaf, ISSUER.certificate], now=NOW) is peer
    for now in (peer.not_after + 1, leaf.not_valid_before_utc.timestamp() - 1):
        with pytest.raises(VerificationError) as caught:
            verifier.verify_presented(presented, now=now)
        assert caught.value.reason == Reason.PEER_EXPIRED


@pytest.mark.parametrize(
    "change",
    [
        lambda chain: chain[:1],
        lambda chain: [],
        lambda chain: [*chain, *chain, *chain],
        lambda chain: [chain[0], b"rubbish"],
        lambda chain: [b"", *chain],
        lambda chain: [chain[0][:-1] + bytes([chain[0][-1] ^ 1]), *chain[1:]],
        lambda chain: [chain[0], NEXT.certificate.public_bytes(Encoding.DER)],
    ],
    ids=["no issuer", "nothing", "too long", "rubbish", "empty", "a bit of the signature", "another issuer"],
)
def test_a_known_chain_vouches_for_no_other_bytes(change: Callable[[list[bytes]], list[bytes]]) -> None:
    verifier = BundleVerifier(make_bundle(ROOT, ISSUER))
    presented = [mint_leaf(ISSUER).public_bytes(Encoding.DER), ISSUER.certificate.public_bytes(Encoding.DER)]
    verifier.verify_presented(presented, now=NOW)
    with pytest.raises(VerificationError) as caught:
        verifier.verify_presented(change(presented), now=NOW)
    assert caught.value.reason == Reason.PEER_UNTRUSTED


def test_a_known_chain_is_refused_under_a_bundle_that_distrusts_it() -> None:
    presented = [mint_leaf(ISSUER).public_bytes(Encoding.DER), ISSUER.certificate.public_bytes(Encoding.DER)]
    BundleVerifier(make_bundle(ROOT, ISSUER)).verify_presented(presented, now=NOW)
    leaf = x509.load_der_x509_certificate(presented[0])
    bundle = msgspec.structs.replace(make_bundle(ROOT, ISSUER), distrusted=(name_serial(leaf.serial_number),))
    evicted = BundleVerifier(bundle)
    with pytest.raises(VerificationError) as caught:
        evicted.verify_presented(presented, now=NOW)
    assert caught.value.reason == Reason.PEER_DISTRUSTED


def test_a_chain_under_a_root_that_has_ended_is_expired() -> None:
    root = mint_authority("old root", path_length=1, to_s=50)
    issuer = mint_authority("old issuer", root, path_length=0)
    verifier = BundleVerifier(make_bundle(root, issuer))
    leaf = mint_leaf(issuer)
    assert verifier.verify_peer([leaf, issuer.certificate], now=NOW).not_after == NOW + 50
    assert refusal(verifier, leaf, issuer.certificate, now=NOW + 60).reason == Reason.PEER_EXPIRED
