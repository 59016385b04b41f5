"""Leaves: profile, lifetime, details."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority.founding import Authority, make_issuer, make_root
from ca.authority.sign import Details, sign_leaf, sign_server
from shared.model.errors import InputError, UnavailableError, VerificationError
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.trust.bundle import AuthorityPhase
from shared.model.trust.certificate import DETAILS_OID, check_leaf_profile
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN, WEB

SIDECAR = Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=IdentityKind.SIDECAR)
KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = make_root(TRUST_DOMAIN, KEK, now=NOW)
ISSUER = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.ACTIVE, now=NOW)


def sign(authority: Authority = ISSUER, *, lifetime_s: float = 3600, now: float = NOW) -> x509.Certificate:
    return sign_leaf(
        authority,
        KEY.public_key(),
        SIDECAR,
        serial=x509.random_serial_number(),
        now=now,
        lifetime_s=lifetime_s,
        details=Details(path="/usr/bin/ü"),
    ).certificate


def test_a_leaf_has_the_profile_is_backdated_and_lives_as_asked() -> None:
    leaf = sign()
    assert check_leaf_profile(leaf) == SIDECAR
    assert leaf.not_valid_before_utc.timestamp() == NOW - 120
    assert leaf.not_valid_after_utc.timestamp() == NOW + 3600
    leaf.verify_directly_issued_by(ISSUER.certificate)


def test_the_details_are_a_non_critical_utf8_string() -> None:
    extension = sign().extensions.get_extension_for_oid(DETAILS_OID)
    assert not extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    value = extension.value.value
    assert value[0] == 0x0C
    assert value[1] == len(value) - 2
    assert "/usr/bin/ü" in value[2:].decode()


@pytest.mark.parametrize("lifetime_s", [0, 299, 86_401, float("nan")])
def test_lifetimes_out_of_bounds_are_refused(lifetime_s: float) -> None:
    with pytest.raises(InputError):
        sign(lifetime_s=lifetime_s)


def test_a_leaf_never_outlives_its_authority() -> None:
    end = ISSUER.record.not_after
    assert sign(now=end - 600).not_valid_after_utc.timestamp() == end


def test_a_leaf_lives_at_most_a_sixth_of_its_authoritys_life() -> None:
    short = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.ACTIVE, now=NOW, lifetime_s=5880)
    assert sign(short).not_valid_after_utc.timestamp() == NOW + 1000


def test_an_ended_authority_signs_nothing() -> None:
    with pytest.raises(UnavailableError):
        sign(now=ISSUER.record.not_after - 59)


def test_a_certificate_that_its_authority_does_not_verify_never_leaves() -> None:
    foreign = dataclasses.replace(ISSUER, key=KEY)
    with pytest.raises(VerificationError):
        sign(foreign)


def test_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(VerificationError):
        sign_leaf(ISSUER, key, SIDECAR, serial=1 << 130, now=NOW, lifetime_s=3600)


def test_the_servers_certificate_names_the_ca_and_where_it_listens() -> None:
    certificate = sign_server(
        ISSUER,
        KEY.public_key(),
        trust_domain=TRUST_DOMAIN,
        addresses=["127.0.0.1", "::1"],
        names=["ca.test"],
        now=NOW,
        lifetime_s=3600,
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TRUST_DOMAIN}/touchmark/ca"]
    assert names.get_values_for_type(x509.DNSName) == ["ca.test"]
    assert len(names.get_values_for_type(x509.IPAddress)) == 2


def test_the_details_name_is_one_that_go_reads() -> None:
    """Go's crypto/x509 refuses a whole certificate for an arc of more than 31 bits in an extension's name."""
    assert all(int(arc) < 2**31 for arc in DETAILS_OID.dotted_string.split("."))
