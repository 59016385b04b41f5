"""Two replicas on one PostgreSQL: what one changes, the other's sidecars learn; what one waits for, both report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import select, update

from ca.authority.kek import KeyEncryptionError
from ca.distribution import replica_sync as following_module
from ca.runtime.compose import SETTLING_S, RunningCA
from ca.store import replicas as replicas_module
from ca.store.tables import replicas
from shared.model.policy.decision import Answer
from shared.model.policy.rules import Action, Mode, Rule
from shared.model.trust.bundle import RotationKind, public_key_digest
from shared.model.trust.root_hint import format_root_hint
from shared.model.wire import admin as api
from shared.model.wire.messages import (
    BundleChanged,
    BundleInstalled,
    Decisions,
    DecisionsStored,
    DirectoryEntry,
    Enrol,
    ForeignTrustChanged,
    Lookup,
    NamespaceChanged,
    NamespaceInstalled,
    Reissue,
    Subscribe,
    Welcome,
)
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import (
    DEADLINE_S,
    Admin,
    FakeSidecar,
    eventually,
    make_client_context,
    make_decision,
    make_registration,
    make_token,
    running_ca,
)
from tests.sidecar.partner import Partner

SOON_S = 3.0  # What one replica has changed is with the other's sidecars by then.
RULE = Rule(name="web", action=Action.ALLOW)


@pytest.fixture
def url(postgresql: PostgreSQL, tmp_path: Path) -> str:
    """A database of the test's own."""
    return postgresql.url_for(tmp_path)


@contextlib.asynccontextmanager
async def replica(directory: Path, url: str, **options: Any) -> AsyncIterator[RunningCA]:
    """A replica with files of its own and the common key-encryption key."""
    directory.mkdir(exist_ok=True)
    async with running_ca(directory, database=url, kek_file=directory.parent / "kek", **options) as services:
        yield services


@contextlib.asynccontextmanager
async def two(directory: Path, url: str) -> AsyncIterator[tuple[RunningCA, RunningCA]]:
    async with replica(directory / "one", url) as one, replica(directory / "two", url) as other:
        yield one, other


async def test_a_policy_change_reaches_the_other_replicas_sidecar_and_both_count_it(tmp_path: Path, url: str) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(one) as web, FakeSidecar(other) as db:
        await web.enrol("web-1", "198.18.0.1")
        await db.enrol("db-1", "198.18.0.2", workload="bank/db")
        await db.send(Subscribe(namespace="shop"))
        await db.expect(NamespaceChanged)
        async with Admin(one) as admin, Admin(other) as elsewhere:
            policy = api.PolicyRequest(namespace="shop", rules=(RULE,), mode=Mode.EXPLICIT)
            await admin.ask("PUT", "/v1/policies", api.PolicyView, policy)
            changed = await db.expect(NamespaceChanged)
            assert (changed.state.mode, changed.state.rules) == (Mode.EXPLICIT, (RULE,))
            assert (await web.expect(NamespaceChanged)).state == changed.state
            path = "/v1/namespaces/shop/acknowledgements"
            for view in (admin, elsewhere):
                found = await view.get(path, api.Acknowledgements)
                assert (found.total, found.waiting) == (2, ("db-1", "web-1"))
            await db.send(NamespaceInstalled(namespace="shop", version=changed.state.version))

            async def is_counted() -> bool:
                return (await admin.get(path, api.Acknowledgements)).waiting == ("web-1",)

            await eventually(is_counted)


async def test_another_trust_domain_is_known_everywhere(tmp_path: Path, url: str) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(other) as db:
        await db.enrol("db-1", "198.18.0.2")
        partner = Partner().roots
        await one.foreign.put(partner, now=one.clock())
        assert (await db.expect(ForeignTrustChanged)).domains == (partner,)


async def test_a_rotation_waits_for_the_sidecars_of_both(tmp_path: Path, url: str) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(one) as web, FakeSidecar(other) as db:
        await web.enrol("web-1", "198.18.0.1")
        await db.enrol("db-1", "198.18.0.2")
        before = one.authorities.active.authority_id
        status = await one.rotation.start()
        assert status.waiting_for == ("db-1", "web-1")
        bundle = (await db.expect(BundleChanged)).bundle
        assert (await web.expect(BundleChanged)).bundle == bundle
        await web.send(BundleInstalled(sequence=bundle.sequence))
        await asyncio.sleep(SOON_S)
        assert one.authorities.active.authority_id == other.authorities.active.authority_id == before
        await db.send(BundleInstalled(sequence=bundle.sequence))
        await db.expect(Reissue)
        await web.expect(Reissue)
        assert one.authorities.active.authority_id == other.authorities.active.authority_id != before
        # Whatever the other signs from now on is of the new authority.
        _, csr = db.key, db.csr
        record = await other.store.sidecars.get("db-1")
        assert record is not None
        issued = await other.issuance.issue_sidecar(record.grant, csr, other.clock())
        assert issued.record.authority_id == one.authorities.active.authority_id


async def test_a_roots_rotation_is_followed_and_a_token_of_either_root_opens_both_doors(
    tmp_path: Path, url: str
) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(one) as web, FakeSidecar(other) as db:
        await web.enrol("web-1", "198.18.0.1")
        await db.enrol("db-1", "198.18.0.2")
        (old,) = one.authorities.bundle().roots
        tokens = [(old, await make_token(one)), (old, await make_token(other))]
        status = await one.rotation.start(kind=RotationKind.ROOT)
        assert status.waiting_for == ("db-1", "web-1")
        for sidecar in (web, db):
            bundle = (await sidecar.expect(BundleChanged)).bundle
            assert bundle.roots[0] == old and len(bundle.roots) == 2
            await sidecar.send(BundleInstalled(sequence=bundle.sequence))
        for sidecar in (web, db):
            await sidecar.expect(Reissue)
        new = bundle.roots[1]
        assert one.authorities.snapshot.root.record == other.authorities.snapshot.root.record
        # It waited until the other replica must have noticed, whatever was acknowledged.
        rotation = await one.store.authorities.get_rotation()
        assert rotation is not None and rotation.changed >= rotation.started + SETTLING_S
        tokens += [(new, await make_token(other)), (new, await make_token(one))]
        for number, (root, token) in enumerate(tokens):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(cadata=root)
            name = format_root_hint([public_key_digest(x509.load_der_x509_certificate(root))])
            async with FakeSidecar(one if number % 2 else other, context, server_name=name) as late:
                registration = make_registration(f"late-{number}")
                await late.send(Enrol(token=token, csr=late.csr, registration=registration))
                welcome = await late.receive()
                assert isinstance(welcome, Welcome)
                issuer = x509.load_der_x509_certificate(welcome.chain[1])
                assert issuer.issuer == x509.load_der_x509_certificate(new).subject


async def test_addresses_are_known_everywhere(tmp_path: Path, url: str) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(one) as web, FakeSidecar(other) as db:
        await db.enrol("db-1", "198.18.0.2")
        await db.send(Lookup(address="198.18.0.1"))
        assert (await db.expect(DirectoryEntry)).namespace == ""
        await web.enrol("web-1", "198.18.0.1")
        entry = await db.expect(DirectoryEntry)
        assert (entry.namespace, entry.service_account) == ("shop", "web")


async def test_a_sidecar_that_moves_is_connected_where_it_is_now(tmp_path: Path, url: str) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(one) as first:
        await first.enrol("web-1", "198.18.0.1")
        await one.rotation.start(force=True)
        pem = first.write_pem(tmp_path / "pem")
        async with FakeSidecar(other, make_client_context(other, pem)) as second:
            await second.resume("web-1", "198.18.0.1", installed_sequence=one.authorities.bundle().sequence)
            await eventually(lambda: len(one.hub) == 0)
            record = await one.store.sidecars.get("web-1")
            assert record is not None and record.connected
            # It had a bundle that this replica hadn't read yet: it counts as installed nevertheless.
            assert record.installed_sequence == one.authorities.bundle().sequence

        async def is_closed() -> bool:
            record = await one.store.sidecars.get("web-1")
            return record is not None and not record.connected

        await eventually(is_closed)


async def test_followers_of_decisions_see_those_of_the_other_replica(tmp_path: Path, url: str) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(other) as db:
        await db.enrol("db-1", "198.18.0.2")
        async with Admin(one) as admin, admin.session.get("/v1/decisions/follow") as response:
            assert response.status == 200  # What is decided after the answer has begun is never missed.
            nul = make_decision("c", answer=Answer.DENY, detail="a\0b")
            await db.send(Decisions(batch=1, records=(nul,), lost=0))
            await db.expect(DecisionsStored)
            async with asyncio.timeout(DEADLINE_S):
                assert b'"a\\u0000b"' in await response.content.readline()


async def test_another_key_encryption_key_is_a_clear_error(tmp_path: Path, url: str) -> None:
    async with replica(tmp_path / "one", url):
        with pytest.raises(KeyEncryptionError, match="sealed with the key-encryption key"):
            async with running_ca(tmp_path / "two", database=url):
                pass


async def test_a_replica_that_ends_says_so(tmp_path: Path, url: str) -> None:
    async with replica(tmp_path / "one", url) as one:
        async with replica(tmp_path / "two", url) as other:
            assert await one.store.replicas.list_alive() == sorted((one.store.replica, other.store.replica))
        assert await one.store.replicas.list_alive() == [one.store.replica]


async def test_a_database_that_is_away_is_waited_for(tmp_path: Path, url: str, postgresql: PostgreSQL) -> None:
    async with two(tmp_path, url) as (one, other), FakeSidecar(other) as web:
        await web.enrol("web-1", "198.18.0.1")
        await asyncio.to_thread(postgresql.stop)
        async with Admin(one) as admin:
            failed = await admin.fail("GET", "/v1/namespaces/shop", 503)
            assert failed.code == "unavailable" and postgresql.password not in failed.message
            await eventually(lambda: all(count_failures(each) for each in (one, other)))
            postgresql.restart()  # On this thread: it ends with the one that started it.
            policy = api.PolicyRequest(namespace="shop", rules=(RULE,))
            await admin.ask("PUT", "/v1/policies", api.PolicyView, policy)
        assert (await web.expect(NamespaceChanged)).state.rules == (RULE,)


@dataclass(slots=True, kw_only=True)
class Elsewhere:
    """A replica in a process of its own, as ``FakeSidecar`` needs it: what it shares is the store's."""

    store: Any
    authorities: Any
    clock: Any
    listen: str


async def test_a_killed_process_doesnt_keep_its_streams(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "BEAT_S", 0.5)
    monkeypatch.setattr(replicas_module, "REPLICA_DEAD_S", 600.0)  # A busy machine's beats may be late.
    async with replica(tmp_path / "one", url) as one:
        (tmp_path / "two").mkdir()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ca", "--listen", "127.0.0.1:0", "--kek-file", tmp_path / "kek"),
            *("--data-dir", tmp_path / "two" / "data", "--admin-socket", tmp_path / "two" / "admin.sock"),
            env={**os.environ, "TOUCHMARK_DATABASE_URL": url},
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            listen = ""
            async with asyncio.timeout(300):
                while not listen:
                    line = (await process.stderr.readline()).decode()
                    assert line, "it has ended"
                    listen = line.partition('"listen": "')[2].partition('"')[0]
            other = Elsewhere(store=one.store, authorities=one.authorities, clock=one.clock, listen=listen)
            async with FakeSidecar(other) as web:  # type: ignore[arg-type]  # As far as it looks.
                await web.enrol("web-1", "198.18.0.1")
                await one.store.namespaces.put_policy("shop", rules=[RULE])
                assert (await web.expect(NamespaceChanged)).state.rules == (RULE,)
                first = await read_last_beats(one)
                assert first
                await eventually(lambda: has_beaten(one, first))
                assert await is_connected(one, "web-1")  # Its own beat keeps it.
                process.send_signal(signal.SIGKILL)
                await process.wait()
                await let_beats_grow_old(one)
                await eventually(lambda: is_gone(one, "web-1"), deadline_s=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        assert await one.store.replicas.list_alive() == [one.store.replica]


def count_failures(services: RunningCA) -> float:
    """Count how often it couldn't see what the other replica has changed."""
    return float(services.metrics.failures.labels(where="following")._value.get())


async def read_last_beats(services: RunningCA) -> dict[str, float]:
    """Read the last sign of life of every other replica, by the database's clock."""
    seen = select(replicas.c.replica, replicas.c.seen).where(replicas.c.replica != services.store.replica)
    async with services.store.replicas._database.reading() as connection:
        return {row.replica: row.seen for row in await connection.execute(seen)}


async def let_beats_grow_old(services: RunningCA) -> None:
    """Let the last sign of life of every other replica lie so far back that it counts as dead."""
    age_s = replicas_module.REPLICA_DEAD_S + 1
    own = services.store.replica
    async with services.store.replicas._database.writing() as connection:
        await connection.execute(update(replicas).where(replicas.c.replica != own).values(seen=replicas.c.seen - age_s))


async def has_beaten(services: RunningCA, before: dict[str, float]) -> bool:
    """Whether every other replica has given a sign of life since then."""
    beats = await read_last_beats(services)
    return all(beats[name] > seen for name, seen in before.items())


async def is_connected(services: RunningCA, instance: str) -> bool:
    record = await services.store.sidecars.get(instance)
    return record is not None and record.connected


async def is_gone(services: RunningCA, instance: str) -> bool:
    return not await is_connected(services, instance)
