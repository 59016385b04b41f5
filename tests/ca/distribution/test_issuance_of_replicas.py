"""What replicas on one PostgreSQL issue: by what is true of the store now, whatever each remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from ca.issuance import IssuanceRefused, IssuedChain
from ca.store.records import ProgramRecord
from shared.model.errors import RefusedError
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.identity.program import Program
from shared.model.policy.rules import Mode
from shared.model.wire.messages import ProgramEvidence
from tests.ca import founded
from tests.ca.founded import NOW, TRUST_DOMAIN, WEB, Founded, join, make_csr

CURL = Program(digest="c" * 64)
SIDECAR = Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=IdentityKind.SIDECAR)
pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


async def ask(core: Founded, csr: bytes | None = None, *, instance: str = "web-1") -> IssuedChain:
    request = make_csr() if csr is None else csr
    return await core.issuance.issue_program(SIDECAR, request, CURL, ProgramEvidence(), NOW, instance=instance)


async def test_what_another_replica_changes_counts_at_once(tmp_path: Path) -> None:
    """Before this one has heard of it: what was decided is compared where it is entered, and a refusal reads again."""
    async with founded.opened(tmp_path, replica="one") as one, founded.opened(tmp_path, replica="two") as two:
        csr = make_csr()
        assert (await ask(one, csr)).record.identity.kind is IdentityKind.OBSERVED
        await two.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        for again in (csr, None):  # Also where it asks for what it was given before.
            with pytest.raises(IssuanceRefused):
                await ask(one, again)
        approved = ProgramRecord(namespace="shop", name="curl", service_account="web", programs=(CURL,))
        await two.store.namespaces.put_program(approved)
        assert (await ask(one)).record.identity.kind is IdentityKind.PROGRAM
        await two.store.namespaces.set_mode("shop", Mode.PERMISSIVE)
        assert (await ask(one)).record.identity.kind is IdentityKind.PROGRAM


async def test_what_another_replica_evicts_gets_nothing(tmp_path: Path) -> None:
    async with founded.opened(tmp_path, replica="one") as one, founded.opened(tmp_path, replica="two") as two:
        await join(one, "web-1")
        await ask(one)
        await two.store.evictions.evict("web-1", now=NOW + 1)
        with pytest.raises(RefusedError, match="evicted"):
            await ask(one)
        assert (await ask(one, instance="web-2")).record.instance == "web-2"


async def test_the_ledger_goes_on_after_its_connection_was_ended(tmp_path: Path) -> None:
    async with founded.opened(tmp_path, replica="one") as one, founded.opened(tmp_path, replica="two") as two:
        await ask(one)
        others = text(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        async with two.store.database.writing() as connection:
            await connection.execute(others)
        issued = await ask(one)
        assert await one.store.ledger.get(issued.record.serial) == issued.record
