"""Trust: phases only move as the table says; digests name keys."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.model.trust.bundle import AUTHORITY_TRANSITIONS, AuthorityPhase, public_key_digest
from tests.shared.model.trust.minting import mint_authority


def test_each_phase_has_its_transitions_and_none_leads_to_itself() -> None:
    assert set(AUTHORITY_TRANSITIONS) == set(AuthorityPhase)
    assert all(phase not in following for phase, following in AUTHORITY_TRANSITIONS.items())


def test_retired_is_the_end_and_every_phase_reaches_it() -> None:
    assert not AUTHORITY_TRANSITIONS[AuthorityPhase.RETIRED]
    for phase in AuthorityPhase:
        reached = {phase}
        for _ in AuthorityPhase:
            reached |= {after for each in reached for after in AUTHORITY_TRANSITIONS[each]}
        assert AuthorityPhase.RETIRED in reached


def test_an_active_authority_is_never_tainted_or_retired_at_once() -> None:
    assert AUTHORITY_TRANSITIONS[AuthorityPhase.ACTIVE] == {AuthorityPhase.OLD}
    assert AuthorityPhase.ACTIVE in AUTHORITY_TRANSITIONS[AuthorityPhase.OLD]
    assert AuthorityPhase.ACTIVE not in AUTHORITY_TRANSITIONS[AuthorityPhase.TAINTED]


def test_the_digest_is_of_the_key_not_of_the_certificate() -> None:
    one = mint_authority("one")
    again = mint_authority("two", key=one.key)
    other = mint_authority("one")
    assert public_key_digest(one.certificate) == public_key_digest(again.certificate)
    assert public_key_digest(one.certificate) != public_key_digest(other.certificate)
    spki = one.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public_key_digest(one.certificate) == hashlib.sha256(spki).hexdigest()
