"""The template writes what ``x509.CertificateBuilder`` writes (``ca.authority.leaf_template``)."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority.founding import make_issuer, make_root
from ca.authority.leaf_template import PURPOSES, USAGE, make_template, write_certificate, write_tbs
from shared.model.trust.bundle import AuthorityPhase
from shared.model.trust.certificate import DETAILS_OID
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN

ROOT = make_root(TRUST_DOMAIN, KEK, now=NOW)
ISSUER = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.ACTIVE, now=NOW)
TEMPLATE = make_template(ISSUER.record.certificate)
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
KEY_INFO = KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
IN_2050 = 2_524_608_000


def build(serial: int, start: int, end: int, uri: str, details: bytes | None) -> x509.Certificate:
    issuer_key = ISSUER.key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ISSUER.certificate.subject)
        .public_key(KEY)
        .serial_number(serial)
        .not_valid_before(datetime.datetime.fromtimestamp(start, tz=datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(end, tz=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(USAGE, critical=True)
        .add_extension(PURPOSES, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(KEY), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    if details is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(DETAILS_OID, details), critical=False)
    return builder.sign(ISSUER.key, hashes.SHA256())


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF, 0x100, 2**127, 2**128 - 1, 2**158 + 1])
@pytest.mark.parametrize("details", [None, b"\x0c\x00", b"\x0c\x7f" + b"a" * 127, b"\x0c\x82\x07\xd0" + b"b" * 2000])
def test_a_leaf_is_written_as_the_library_writes_it(serial: int, details: bytes | None) -> None:
    for start, end, uri in (
        (int(NOW), int(NOW) + 300, "spiffe://a/b"),
        (IN_2050 - 1, IN_2050, f"spiffe://{TRUST_DOMAIN}/ns/{'n' * 60}/sa/{'a' * 200}/sha256/{'f' * 64}"),
    ):
        tbs = write_tbs(TEMPLATE, KEY_INFO, serial=serial, start=start, end=end, uri=uri, details=details)
        assert tbs == build(serial, start, end, uri, details).tbs_certificate_bytes
        signed = write_certificate(tbs, ISSUER.key.sign(tbs, ec.ECDSA(hashes.SHA256())))
        x509.load_der_x509_certificate(signed).verify_directly_issued_by(ISSUER.certificate)


def test_what_has_no_place_in_a_leaf_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    other_info = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    of_another_curve = KEY_INFO[:20] + b"\0" + KEY_INFO[21:]
    for key, serial, uri in (
        (other_info, 1, "spiffe://a/b"),
        (of_another_curve, 1, "spiffe://a/b"),
        (KEY_INFO + b"\0", 1, "spiffe://a/b"),
        (KEY_INFO, 0, "spiffe://a/b"),
        (KEY_INFO, 1, "spiffe://ä/b"),
    ):
        with pytest.raises(ValueError):
            write_tbs(TEMPLATE, key, serial=serial, start=int(NOW), end=int(NOW) + 1, uri=uri, details=None)
