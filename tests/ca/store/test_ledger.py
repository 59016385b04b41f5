"""The ledger: what is alive, by authority, and what is forgotten."""

from __future__ import annotations

from pathlib import Path

from ca.store.ledger import Ledger
from shared.model.identity.identity import IdentityKind
from tests.ca.founded import DATABASE, NOW, WEB, join, make_csr, opened


async def test_alive_is_counted_by_authority_until_it_expires_and_is_pruned(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        assert isinstance(core.store.ledger, Ledger)
        grant = await join(core, "one")
        issued = await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        assert issued.record.identity.kind is IdentityKind.SIDECAR
        active = core.authorities.active.authority_id
        assert await core.store.ledger.count_alive(now=NOW) == {active: 1}
        assert await core.store.ledger.count_alive(now=NOW + 3600) == {}
        assert await core.store.ledger.list_lines(workload=WEB) == [issued.record]
        assert await core.store.ledger.list_lines(workload=DATABASE) == []
        assert await core.store.ledger.prune(expired_before=NOW + 3601) == 1
        assert await core.store.ledger.get(issued.record.serial) is None
