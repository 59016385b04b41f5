"""The trust bundle: only newer ones of the same trust domain count."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.errors import ProtocolError
from sidecar.mesh.trust import Trust
from tests.sidecar.little_ca import LittleCA


def test_only_a_newer_bundle_is_installed_and_told() -> None:
    bundle = LittleCA().bundle
    trust = Trust(bundle)
    told: list[int] = []
    trust.on_change(lambda: told.append(trust.bundle.sequence))
    assert not trust.install(bundle)
    assert trust.install(msgspec.structs.replace(bundle, sequence=2))
    assert not trust.install(bundle)
    assert told == [2]


def test_a_foreign_or_broken_bundle_is_the_cas_fault() -> None:
    bundle = LittleCA().bundle
    trust = Trust(bundle)
    for wrong in ({"trust_domain": "other"}, {"sequence": 2, "roots": (b"x",)}):
        with pytest.raises(ProtocolError):
            trust.install(msgspec.structs.replace(bundle, **wrong))
    assert trust.bundle is bundle


def test_a_new_enrolments_bundle_counts_whatever_its_number_and_is_never_taken_for_the_one_before() -> None:
    """Whoever remembers what was verified compares the sequence: it grows here also when the CA's begins anew."""
    before, after = LittleCA(), LittleCA()
    before.sequence = 7
    trust = Trust(before.bundle)
    told: list[int] = []
    trust.on_change(lambda: told.append(trust.bundle.sequence))
    trust.begin_again(before.bundle)
    assert told == []
    trust.begin_again(after.bundle)
    assert (told, trust.sequence, trust.bundle.roots) == ([8], 1, (after.root.der,))
    trust.begin_again(after.bundle)
    assert not trust.install(after.bundle)
    assert trust.install(msgspec.structs.replace(after.bundle, sequence=2))
    assert (told, trust.sequence) == ([8, 9], 2)
    with pytest.raises(ProtocolError):
        trust.begin_again(msgspec.structs.replace(after.bundle, trust_domain="other"))
