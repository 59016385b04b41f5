"""Authorities' certificates: subjects of their own, pathLen, ends, keys sealed."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority.founding import make_issuer, make_root, open_authority
from ca.authority.kek import KeyEncryptionError
from shared.model.trust.bundle import AuthorityPhase
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN

ROOT = make_root(TRUST_DOMAIN, KEK, now=NOW)
ISSUER = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.PREPARED, now=NOW)


def test_root_and_issuer_have_their_own_subjects_path_lengths_and_lives() -> None:
    other = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.PREPARED, now=NOW)
    assert len({ROOT.record.subject, ISSUER.record.subject, other.record.subject}) == 3
    lengths = [
        authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for authority in (ROOT, ISSUER)
    ]
    assert lengths == [1, 0]
    assert ISSUER.record.not_after == NOW + 90 * 86_400
    assert ROOT.record.not_after == NOW + 3650 * 86_400
    ISSUER.certificate.verify_directly_issued_by(ROOT.certificate)


def test_an_issuer_ends_with_its_root_at_the_latest() -> None:
    late = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.PREPARED, now=ROOT.record.not_after - 1000)
    assert late.record.not_after == ROOT.record.not_after


def test_the_key_is_stored_sealed_and_opens_for_its_own_record_only() -> None:
    secret = ISSUER.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert secret not in ISSUER.record.sealed_key
    assert "sealed_key" not in repr(ISSUER.record)
    assert open_authority(ISSUER.record, KEK).key.private_numbers() == ISSUER.key.private_numbers()
    moved = dataclasses.replace(ISSUER.record, sealed_key=ROOT.record.sealed_key)
    with pytest.raises(KeyEncryptionError):
        open_authority(moved, KEK)
    swapped = dataclasses.replace(ISSUER.record, certificate=ROOT.record.certificate)
    with pytest.raises(KeyEncryptionError, match="isn't that of its key"):
        open_authority(swapped, KEK)
