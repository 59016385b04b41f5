"""A backup takes a store's place, whole or not at all, and what was given out since stays valid (``ca.backup``)."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest
from cryptography import x509

from ca.authenticate.sidecar_certificate import CertificateAuthentication
from ca.authority.authorities import Authorities
from ca.authority.kek import KekOrigin, KeyEncryptionError, KeyEncryptionKey
from ca.backup.restore import KEPT, restore_directory
from ca.store.engine.database import DATABASE_NAME
from ca.store.records import RotationStep
from ca.store.store import Store
from shared.model.errors import ConflictError, InputError, RefusedError
from shared.model.policy.rules import Mode
from shared.model.trust.bundle import AuthorityPhase
from tests.ca import founded
from tests.ca.backup.backups import LATER, open_backup, restore, take
from tests.ca.founded import DATABASE, KEK, NOW, TRUST_DOMAIN, WEB, join, make_csr, make_rotation, opened
from tests.ca.migrated import provide_sqlite
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import make_decision

OTHER_KEK = KeyEncryptionKey(key=bytes(32), origin=KekOrigin.FILE)


async def fill(core: founded.Founded) -> None:
    grant = await join(core, "one", WEB, "198.18.0.2")
    await core.issuance.issue_sidecar(grant, make_csr(), NOW)
    await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
    await core.store.decisions.insert([make_decision(f"c{number}") for number in range(1_234)])


async def test_restored_elsewhere_it_is_the_same_ca(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await fill(core)
        file, pin = await take(core.store), core.authorities.root_pin
        issued = await core.store.ledger.list_lines()
    loaded = await restore(file, tmp_path / "elsewhere")
    assert (loaded.trust_domain, loaded.taken, loaded.counts["decisions"]) == (TRUST_DOMAIN, NOW, 1_234)
    async with opened(tmp_path / "elsewhere", now=LATER) as core:
        assert core.authorities.root_pin == pin
        assert await core.store.ledger.list_lines() == issued
        assert (await core.store.namespaces.get_state("shop")).mode is Mode.EXPLICIT
        sidecar = await core.store.sidecars.get_at("198.18.0.2")
        assert sidecar is not None and sidecar.instance == "one"
        assert (await core.store.authorities.list_journal())[0].event == "restored"
        assert "store.restore" in (await core.store.audit.list_lines(limit=1, newest=True)).lines[0]
        # Whatever numbers its rows goes on behind what was restored.
        await fill(core)


async def test_under_load_it_is_one_moment(tmp_path: Path) -> None:
    """Each joining writes a token, a sidecar, an address and a certificate: none is in the backup in part."""
    async with opened(tmp_path / "d") as core:

        async def keep_joining() -> None:
            for number in range(10_000):
                grant = await join(core, f"s{number}", WEB, f"198.18.1.{number % 250}")
                await core.issuance.issue_sidecar(grant, make_csr(), NOW)

        load = asyncio.create_task(keep_joining())
        while len(await core.store.sidecars.list_all()) < 5:
            await asyncio.sleep(0.001)
        file = await take(core.store)
        load.cancel()
        await asyncio.wait([load])
    loaded = await restore(file, tmp_path / "elsewhere")
    counts = loaded.counts
    assert counts["sidecars"] >= 5
    assert 0 <= counts["join_tokens"] - counts["sidecars"] <= 1
    assert 0 <= counts["sidecars"] - counts["certificates"] <= 1


async def test_of_sqlite_into_postgresql_and_back(
    tmp_path: Path, postgresql: PostgreSQL, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d") as core:
        await fill(core)
        file, pin = await take(core.store), core.authorities.root_pin
    monkeypatch.setattr(founded, "locate", postgresql.url_for if backend == "sqlite" else Path)
    monkeypatch.setattr(founded, "provide", postgresql.provide if backend == "sqlite" else provide_sqlite)
    await restore(file, tmp_path / "other")
    async with opened(tmp_path / "other", now=LATER) as core:
        assert core.authorities.root_pin == pin
        await fill(core)


async def test_without_decisions_everything_else_is_there(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await fill(core)
        file = await take(core.store, with_decisions=False)
    counts = (await restore(file, tmp_path / "elsewhere")).counts
    assert (counts["decisions"], counts["sidecars"]) == (0, 1)


async def test_a_store_that_is_there_is_replaced_only_when_told_to(tmp_path: Path, backend: str) -> None:
    async with opened(tmp_path / "d") as core:
        file = await take(core.store)
        pin = core.authorities.root_pin
    async with opened(tmp_path / "other") as core:
        other = core.authorities.root_pin
    with pytest.raises(ConflictError, match="already"):
        await restore(file, tmp_path / "other")
    async with opened(tmp_path / "other") as core:
        assert core.authorities.root_pin == other
    await restore(file, tmp_path / "other", may_replace=True)
    async with opened(tmp_path / "other", now=LATER) as core:
        assert core.authorities.root_pin == pin
    if backend == "sqlite":
        kept = tmp_path / "kept"
        kept.mkdir()
        (tmp_path / "other" / KEPT).rename(kept / DATABASE_NAME)
        async with opened(kept) as core:
            assert core.authorities.root_pin == other


@pytest.mark.parametrize("place", [25, 400, -1])
async def test_a_damaged_backup_changes_nothing(tmp_path: Path, place: int) -> None:
    async with opened(tmp_path / "d") as core:
        await fill(core)
        file = bytearray(await take(core.store))
        pin = core.authorities.root_pin
    file[place] ^= 1
    with pytest.raises(InputError):
        await restore(bytes(file), tmp_path / "d", may_replace=True)
    async with opened(tmp_path / "d") as core:
        assert core.authorities.root_pin == pin
        assert len(await core.store.sidecars.list_all()) == 1


async def test_another_key_encryption_key_is_noticed_before_anything_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        file = await take(core.store)
    async with opened(tmp_path / "other", kek=OTHER_KEK) as core:
        pin = core.authorities.root_pin
    with pytest.raises(KeyEncryptionError, match="were sealed with"):
        await restore(file, tmp_path / "other", kek=OTHER_KEK, may_replace=True)
    async with opened(tmp_path / "other", kek=OTHER_KEK) as core:
        assert core.authorities.root_pin == pin


async def test_sequences_go_on_above_what_sidecars_know(tmp_path: Path) -> None:
    """The second time as well, from a backup that is older than the first restore."""
    async with opened(tmp_path / "d") as core:
        await fill(core)
        file = await take(core.store)
    known: list[tuple[int, int]] = []
    for turn in range(1, 3):
        async with opened(tmp_path / "d", now=NOW + turn * 100) as core:
            for _ in range(5):
                await core.store.namespaces.set_mode("shop", Mode.PERMISSIVE)
            bundle = core.authorities.bundle().sequence
            known.append((bundle, (await core.store.namespaces.get_state("shop")).version))
            await core.store.sidecars.mark_bundle_installed("one", bundle)
        await restore(file, tmp_path / "d", may_replace=True, now=NOW + turn * 100 + 50)
        async with opened(tmp_path / "d", now=NOW + turn * 100 + 50) as core:
            now = (core.authorities.bundle().sequence, (await core.store.namespaces.get_state("shop")).version)
            assert now > known[-1] and now[1] > known[-1][1]
            (sidecar,) = await core.store.sidecars.list_all()
            assert sidecar.installed_sequence == 0 and not any(sidecar.namespace_versions.values())


async def test_a_token_that_may_have_been_spent_since_is_void(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        token, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=(), labels={}, expires=NOW + 86_400, now=NOW
        )
        file = await take(core.store)
        await founded.spend(core.store, token.token_id, secret, "one")
    assert (await restore(file, tmp_path / "d", may_replace=True)).voided_tokens == 1
    async with opened(tmp_path / "d") as core:
        with pytest.raises(RefusedError, match="spent"):
            await founded.spend(core.store, token.token_id, secret, "two", key=b"other")


async def test_a_renewal_key_that_may_have_been_used_since_counts_no_longer(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB)
        async with core.store.database.writing() as connection:
            await core.store.renewal_keys.begin(connection, "one", b"key", now=NOW)
        file = await take(core.store)
    await restore(file, tmp_path / "d", may_replace=True)
    async with opened(tmp_path / "d") as core:
        assert await core.store.sidecars.get("one") is not None
        assert not await core.store.renewal_keys.has("one")


async def test_a_certificate_from_after_the_backup_still_speaks_for_its_sidecar(tmp_path: Path) -> None:
    """Sidecars renew every half hour: else each on a machine would need a new token after any restore."""
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one", WEB, "198.18.0.2")
        first = await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        file = await take(core.store)
        await join(core, "later", WEB, "198.18.0.3", now=NOW + 50)
        second = await core.issuance.issue_sidecar(grant, make_csr(), NOW + 100)
    await restore(file, tmp_path / "d", may_replace=True)
    async with opened(tmp_path / "d", now=LATER) as core:
        certificates = CertificateAuthentication(store=core.store, authorities=core.authorities)
        leaf = x509.load_der_x509_certificate(second.chain[0])
        for claimed in ("later", "nobody"):  # Neither is known.
            with pytest.raises(RefusedError, match="ledger"):
                await certificates.authenticate(leaf, claimed=claimed, now=LATER)
        assert await certificates.authenticate(leaf, claimed="one", now=LATER) == grant
        assert len(await core.store.ledger.list_lines()) == 2  # It is entered.
        old = x509.load_der_x509_certificate(first.chain[0])
        assert await certificates.authenticate(old, claimed="one", now=LATER) == grant
    # A store that was never restored believes the ledger alone.
    async with opened(tmp_path / "fresh") as core:
        await join(core, "one", WEB)
        strange = CertificateAuthentication(store=core.store, authorities=core.authorities)
        with pytest.raises(Exception, match=r"(?i)issu|trust|root|bundle"):
            await strange.authenticate(leaf, claimed="one", now=LATER)


async def test_another_workloads_sidecar_cannot_be_claimed_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one", WEB, "198.18.0.2")
        await join(core, "db", DATABASE, "198.18.0.3")
        file = await take(core.store)
        issued = await core.issuance.issue_sidecar(grant, make_csr(), NOW + 100)
    await restore(file, tmp_path / "d", may_replace=True)
    async with opened(tmp_path / "d", now=LATER) as core:
        certificates = CertificateAuthentication(store=core.store, authorities=core.authorities)
        with pytest.raises(RefusedError, match="ledger"):
            await certificates.authenticate(x509.load_der_x509_certificate(issued.chain[0]), claimed="db", now=LATER)


async def test_a_neighbour_of_the_same_workload_cannot_be_claimed_with_it(tmp_path: Path) -> None:
    """A sidecar that joined after the backup has a certificate that says its own name."""
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB)
        file = await take(core.store)
        later = await join(core, "later", WEB)
        issued = await core.issuance.issue_sidecar(later, make_csr(), NOW + 100)
    await restore(file, tmp_path / "d", may_replace=True)
    async with opened(tmp_path / "d", now=LATER) as core:
        certificates = CertificateAuthentication(store=core.store, authorities=core.authorities)
        with pytest.raises(RefusedError, match="ledger"):
            await certificates.authenticate(x509.load_der_x509_certificate(issued.chain[0]), claimed="one", now=LATER)


async def test_no_authority_retires_while_the_ledger_may_lack_what_it_signed(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one")
        await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        await make_rotation(core.store, core.authorities, clock=lambda: NOW).start(force=True)
        file = await take(core.store)
    await restore(file, tmp_path / "d", may_replace=True)
    for hours, step in ((20, RotationStep.ACTIVE), (25, RotationStep.RETIRED)):
        now = LATER + hours * 3600
        async with opened(tmp_path / "d", now=now) as core:
            rotation = make_rotation(core.store, core.authorities, clock=lambda now=now: now)  # type: ignore[misc]
            await rotation.advance()
            await rotation.advance()
            record = await core.store.authorities.get_rotation()
            assert record is not None and record.step is step
    async with opened(tmp_path / "d", now=now) as core:
        phases = [record.phase for record in await core.store.authorities.list_all()]
        assert AuthorityPhase.RETIRED in phases


async def test_a_running_replica_keeps_its_database(tmp_path: Path, backend: str) -> None:
    if backend == "sqlite":
        return  # There the data directory's lock says it.
    async with opened(tmp_path / "d") as core:
        file = await take(core.store)
        store = await Store.open(founded.locate(tmp_path / "d"), trust_domain=TRUST_DOMAIN, replica="r")
        try:
            await store.replicas.beat()
            with pytest.raises(ConflictError, match="works on this database: r"):
                await restore(file, tmp_path / "d", may_replace=True)
            await store.replicas.leave()
        finally:
            await store.close()
    await restore(file, tmp_path / "d", may_replace=True)


async def test_the_log_of_a_killed_ca_is_not_taken_for_the_restored_ones(tmp_path: Path, backend: str) -> None:
    if backend != "sqlite":
        return
    async with opened(tmp_path / "d") as core:
        await fill(core)
        file = await take(core.store)
        await core.store.namespaces.set_mode("later", Mode.EXPLICIT)
        shutil.copytree(tmp_path / "d", tmp_path / "killed")  # With its -wal, as a killed one leaves it.
    assert (tmp_path / "killed" / f"{DATABASE_NAME}-wal").stat().st_size > 0
    await restore(file, tmp_path / "killed", may_replace=True)
    async with opened(tmp_path / "killed", now=LATER) as core:
        assert [state.namespace for state in await core.store.namespaces.list_states()] == ["shop"]
    with sqlite3.connect(tmp_path / "killed" / KEPT) as kept:
        assert kept.execute("SELECT count(*) FROM namespaces WHERE namespace = 'later'").fetchone() == (1,)


async def test_a_damaged_store_is_replaced_and_kept_as_it_is(tmp_path: Path, backend: str) -> None:
    if backend != "sqlite":
        return
    async with opened(tmp_path / "d") as core:
        file = await take(core.store)
    path = tmp_path / "d" / DATABASE_NAME
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ConflictError, match="already"):
        await restore(file, tmp_path / "d")
    await restore(file, tmp_path / "d", may_replace=True)
    assert (tmp_path / "d" / KEPT).read_bytes() == b"no database" * 1000
    async with opened(tmp_path / "d", now=LATER):
        pass


async def test_a_store_that_is_open_elsewhere_stays(tmp_path: Path, backend: str) -> None:
    if backend != "sqlite":
        return
    async with opened(tmp_path / "d") as core:
        file = await take(core.store)
        with sqlite3.connect(tmp_path / "d" / DATABASE_NAME) as reader:
            reader.execute("SELECT count(*) FROM authorities").fetchone()
            with pytest.raises(ConflictError, match="open"):
                await restore_directory(
                    open_backup(file), tmp_path / "d", find_kek=lambda _: KEK, may_replace=True, now=LATER
                )
        await Authorities.open(core.store, KEK, now=NOW)
