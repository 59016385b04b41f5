"""Enrolment: a token is spent by one key, whole or not at all; pods are entered anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from ca.store.enrolment import Enrolment
from ca.store.join_tokens import REPEATABLE_S
from ca.store.records import JoinGrant
from shared.model.errors import ConflictError, RefusedError
from shared.model.identity.identity import Workload
from tests.ca.founded import DATABASE, NOW, WEB, join, make_csr, opened, registration, spend


async def test_of_many_attempts_at_once_exactly_one_spends_a_token(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        assert isinstance(core.store.enrolment, Enrolment)
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=["198.18.0.2"], labels={}, expires=NOW + 60, now=NOW
        )
        attempts = [
            spend(core_.store, record.token_id, secret, f"i-{number}", key=bytes([number, core_ is core]))
            for number in range(6)
            for core_ in (core, other)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        assert all(isinstance(r, RefusedError) for r in results if isinstance(r, BaseException))
        assert len(await core.store.sidecars.list_all()) == 1


async def test_a_replayed_token_is_refused_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=[], labels={}, expires=NOW + 60, now=NOW
        )
        await spend(core.store, record.token_id, secret, "a", now=NOW)
    async with opened(tmp_path / "d") as core:
        with pytest.raises(RefusedError, match="spent"):
            await spend(core.store, record.token_id, secret, "a", key=b"another", now=NOW)


async def test_another_workload_cannot_take_an_instances_name(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB)
        with pytest.raises(RefusedError, match="another workload"):
            await join(core, "one", DATABASE)
        assert [token.spent for token in await core.store.join_tokens.list_all()].count(None) == 1


async def test_an_address_of_a_live_sidecar_of_another_workload_is_not_taken(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB, "198.18.0.2")
        record, secret = await core.store.join_tokens.create(
            workload=DATABASE, addresses=["198.18.0.2"], labels={}, expires=NOW + 600, now=NOW
        )
        with pytest.raises(ConflictError, match="live sidecar"):
            await spend(core.store, record.token_id, secret, "two", "198.18.0.2")
        assert await core.store.sidecars.get("two") is None, "a refused enrolment leaves nothing behind"
        await core.store.sidecars.mark_seen("one", connected=False, now=NOW)
        await spend(core.store, record.token_id, secret, "two", "198.18.0.2")
        found = await core.store.sidecars.get_at("198.18.0.2")
        assert found is not None
        assert found.instance == "two"


async def test_the_key_that_spent_a_token_may_ask_again_for_its_lost_answer(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=["198.18.0.2"], labels={}, expires=NOW + 60, now=NOW
        )
        first = await spend(core.store, record.token_id, secret, "one", "198.18.0.2")
        late = NOW + REPEATABLE_S - 1
        assert await spend(core.store, record.token_id, secret, "one", "198.18.0.2", now=late) == first
        assert [each.instance for each in await core.store.sidecars.list_all()] == ["one"]
        for instance, key, now in (
            ("two", b"key", NOW), ("one", b"another", NOW), ("one", b"key", NOW + REPEATABLE_S),
        ):  # fmt: skip
            with pytest.raises(RefusedError, match="spent"):
                await spend(core.store, record.token_id, secret, instance, "198.18.0.2", key=key, now=now)
        with pytest.raises(RefusedError, match="no such join token"):
            await spend(core.store, record.token_id, "x" * 43, "one", "198.18.0.2")


async def test_a_pod_s_sidecar_is_entered_anew_each_time(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = make_pod_grant("web-0.00000001", "uid-1")
        said = registration("web-0.00000001")
        await core.store.enrolment.enter_pod(
            grant, registration("web-0.00000001", "198.18.0.2"), key_digest=b"key", now=NOW
        )
        await core.store.sidecars.mark_bundle_installed("web-0.00000001", 3)
        await core.store.enrolment.enter_pod(grant, said, key_digest=b"another", now=NOW + 5)
        record = await core.store.sidecars.get("web-0.00000001")
        assert record is not None
        assert (record.joined, record.installed_sequence, record.addresses, record.pod_uid) == (NOW + 5, 0, (), "uid-1")
        assert record.grant == grant
        other = replace(grant, workload=Workload(namespace="bank", service_account="web"))
        with pytest.raises(RefusedError, match="another workload"):
            await core.store.enrolment.enter_pod(other, said, key_digest=b"key", now=NOW)


async def test_the_same_key_again_keeps_what_was_issued_to_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant, said = make_pod_grant("web-0.00000001", "uid-1"), registration("web-0.00000001")
        for key, now, joined in (
            (b"key", NOW, NOW), (b"key", NOW + 5, NOW), (b"another", NOW + 9, NOW + 9), (b"key", NOW + 12, NOW + 12),
        ):  # fmt: skip
            await core.store.enrolment.enter_pod(grant, said, key_digest=key, now=now)
            record = await core.store.sidecars.get("web-0.00000001")
            assert record is not None and record.joined == joined
            await core.store.sidecars.mark_seen("web-0.00000001", connected=False, now=now)


async def test_a_pod_takes_its_address_from_whoever_had_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        old = make_pod_grant("db-0.00000001", "uid-1", account="db")
        new = make_pod_grant("web-0.00000002", "uid-2")
        for grant in (old, new):
            await core.store.enrolment.enter_pod(
                grant, registration(grant.instance, "198.18.0.2"), key_digest=b"key", now=NOW
            )
        record = await core.store.sidecars.get_at("198.18.0.2")
        assert record is not None and record.instance == "web-0.00000002"


async def test_sidecars_of_pods_are_listed_and_forgotten_by_their_pods(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        for number in (1, 2):
            grant = make_pod_grant(f"web-0.0000000{number}", f"uid-{number}")
            said = registration(grant.instance, "198.18.0.2")
            await core.store.enrolment.enter_pod(grant, said, key_digest=b"key", now=NOW + number)
        assert await core.store.sidecars.list_of_pods(joined_before=NOW + 2) == {"web-0.00000001": "uid-1"}
        assert await core.store.sidecars.delete_of_pods(["uid-2", "", "unknown"]) == 1
        assert [record.pod_uid for record in await core.store.sidecars.list_all()] == ["uid-1"]
        assert await core.store.sidecars.get_at("198.18.0.2") is None


async def test_who_comes_again_is_found_by_its_certificate_and_registered(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one", WEB, "198.18.0.2")
        issued = await core.issuance.issue_sidecar(grant, make_csr(), NOW)
        enrolment = core.store.enrolment
        serial = x509.load_der_x509_certificate(issued.chain[0]).serial_number
        line, sidecar = await enrolment.find_by_certificate(serial)
        assert line is not None and sidecar is not None
        assert (line.serial, line.instance, sidecar.grant) == (serial, "one", grant)
        assert await enrolment.find_by_certificate(serial + 1) == (None, None)
        for number, has_key in enumerate((False, True)):
            async with core.store.database.writing() as connection:
                digest = b"1" * 32 if has_key else None
                await core.store.renewal_keys.begin(connection, "one", digest, now=NOW)
            said = registration("one", "198.18.0.2")
            record, has_one = await enrolment.come_again(grant, said, now=NOW + number)
            assert (record.connected, record.last_seen, has_one) == (True, NOW + number, has_key)
        await core.store.evictions.evict("one", now=NOW + 5)
        with pytest.raises(RefusedError, match="evicted"):
            await enrolment.come_again(grant, said, now=NOW + 6)


def make_pod_grant(instance: str, uid: str, *, account: str = "web") -> JoinGrant:
    workload = Workload(namespace="shop", service_account=account)
    return JoinGrant(workload=workload, addresses=("198.18.0.2",), instance=instance, pod_uid=uid)
