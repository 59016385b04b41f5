"""A party is ours or foreign, never both."""

from __future__ import annotations

import pytest

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Workload
from shared.model.policy.party import Party


def test_a_foreign_party_has_no_workload_here() -> None:
    foreign = ForeignIdentity(trust_domain="partner.example", path="/billing")
    assert Party(foreign=foreign).workload is None
    with pytest.raises(ValueError, match="foreign"):
        Party(foreign=foreign, workload=Workload(namespace="shop", service_account="web"))
