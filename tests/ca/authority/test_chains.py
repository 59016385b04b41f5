"""Authorities that don't belong together are noticed (``ca.authority.chains``)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ca.authority.chains import check_authorities
from ca.authority.founding import make_issuer, make_root
from ca.authority.kek import KekOrigin, KeyEncryptionError, KeyEncryptionKey
from shared.model.errors import InputError
from shared.model.trust.bundle import AuthorityPhase
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN

ROOT, OTHER = (make_root(TRUST_DOMAIN, KEK, now=NOW) for _ in range(2))
ISSUER = make_issuer(TRUST_DOMAIN, ROOT, KEK, phase=AuthorityPhase.ACTIVE, now=NOW).record


def test_a_root_and_its_issuer_belong_together() -> None:
    check_authorities([ROOT.record, ISSUER], KEK)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [ROOT.record],
        [ISSUER],
        [OTHER.record, replace(ISSUER, root_id=OTHER.authority_id)],
        [ROOT.record, replace(ISSUER, public_key_digest="00")],
        [ROOT.record, replace(ISSUER, phase=AuthorityPhase.OLD)],
        [replace(ROOT.record, phase=AuthorityPhase.OLD), ISSUER],
        [ROOT.record, replace(ISSUER, sealed_key=b"")],
    ],
)
def test_others_are_refused(records: list[object]) -> None:
    with pytest.raises(InputError):
        check_authorities(records, KEK)  # type: ignore[arg-type] # records all the same


def test_another_key_encryption_key_is_noticed() -> None:
    with pytest.raises(KeyEncryptionError):
        check_authorities([ROOT.record, ISSUER], KeyEncryptionKey(key=bytes(32), origin=KekOrigin.FILE))
