"""Join tokens are spent once; sidecars register only what was granted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ca.store.records import JoinGrant
from shared.model.errors import ConflictError, InputError, RefusedError
from shared.model.identity.identity import Workload
from tests.ca.founded import DATABASE, NOW, WEB, join, opened, registration


async def test_of_many_attempts_at_once_exactly_one_spends_a_token(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core, opened(tmp_path / "d") as other:
        record, secret = await core.store.create_join_token(
            workload=WEB, addresses=["198.18.0.2"], labels={}, expires=NOW + 60, now=NOW
        )
        attempts = [
            core_.store.spend_join_token(token_id=record.token_id, secret=secret, instance=f"i-{number}", now=NOW)
            for number in range(6)
            for core_ in (core, other)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        assert all(isinstance(r, RefusedError) for r in results if isinstance(r, BaseException))
        assert len(await core.store.list_sidecars()) == 1


async def test_a_replayed_token_is_refused_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        record, secret = await core.store.create_join_token(
            workload=WEB, addresses=[], labels={}, expires=NOW + 60, now=NOW
        )
        await core.store.spend_join_token(token_id=record.token_id, secret=secret, instance="a", now=NOW)
    async with opened(tmp_path / "d") as core:
        with pytest.raises(RefusedError, match="spent"):
            await core.store.spend_join_token(token_id=record.token_id, secret=secret, instance="a", now=NOW)


async def test_unknown_and_wrong_are_told_alike_and_spend_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        record, secret = await core.store.create_join_token(
            workload=WEB, addresses=[], labels={}, expires=NOW + 60, now=NOW
        )
        messages = []
        for token_id, wrong in ((record.token_id, "x" * 43), ("0" * 16, secret)):
            with pytest.raises(RefusedError) as caught:
                await core.store.spend_join_token(token_id=token_id, secret=wrong, instance="a", now=NOW)
            messages.append(caught.value.message)
        assert messages[0] == messages[1]
        with pytest.raises(RefusedError, match="expired"):
            await core.store.spend_join_token(token_id=record.token_id, secret=secret, instance="a", now=NOW + 60)
        await core.store.spend_join_token(token_id=record.token_id, secret=secret, instance="a", now=NOW)


async def test_another_workload_cannot_take_an_instances_name(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB)
        with pytest.raises(RefusedError, match="another workload"):
            await join(core, "one", DATABASE)
        assert [token.spent for token in await core.store.list_join_tokens()].count(None) == 1


async def test_only_granted_addresses_are_registered_in_whatever_spelling(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = await join(core, "one", WEB, "198.18.0.2")
        with pytest.raises(RefusedError, match=r"198\.18\.0\.3"):
            await core.store.register_sidecar(grant, registration("one", "198.18.0.3"), now=NOW)
        await core.store.register_sidecar(grant, registration("one", "::ffff:198.18.0.2"), now=NOW)
        found = await core.store.get_sidecar_at("198.18.0.2")
        assert found is not None
        assert found.addresses == ("198.18.0.2",)


async def test_an_address_of_a_live_sidecar_of_another_workload_is_not_taken(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one", WEB, "198.18.0.2")
        with pytest.raises(ConflictError, match="live sidecar"):
            await join(core, "two", DATABASE, "198.18.0.2")
        await core.store.mark_seen("one", connected=False, now=NOW)
        two = await core.store.get_sidecar("two")
        assert two is not None
        await core.store.register_sidecar(two.grant, registration("two", "198.18.0.2"), now=NOW)
        found = await core.store.get_sidecar_at("198.18.0.2")
        assert found is not None
        assert found.instance == "two"


async def test_acknowledgements_are_kept_and_forgotten_when_it_joins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await join(core, "one")
        await core.store.mark_bundle_installed("one", 3)
        await core.store.mark_namespace_installed("one", "shop", 7)
        (record,) = await core.store.list_sidecars()
        assert (record.installed_sequence, record.namespace_versions) == (3, {"shop": 7})
        await join(core, "one")
        (record,) = await core.store.list_sidecars()
        assert (record.installed_sequence, record.namespace_versions) == (0, {})


@pytest.mark.parametrize("address", ["300.1.1.1", "host.test", ""])
async def test_a_token_names_ip_addresses_only(tmp_path: Path, address: str) -> None:
    async with opened(tmp_path / "d") as core:
        with pytest.raises(InputError):
            await core.store.create_join_token(workload=WEB, addresses=[address], labels={}, expires=NOW + 60, now=NOW)


async def test_a_pod_s_sidecar_is_entered_anew_each_time(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        grant = make_pod_grant("web-0.00000001", "uid-1")
        await core.store.enter_pod_sidecar(grant, now=NOW)
        await core.store.register_sidecar(grant, registration("web-0.00000001", "198.18.0.2"), now=NOW)
        await core.store.mark_bundle_installed("web-0.00000001", 3)
        await core.store.enter_pod_sidecar(grant, now=NOW + 5)
        record = await core.store.get_sidecar("web-0.00000001")
        assert record is not None
        assert (record.joined, record.installed_sequence, record.addresses, record.pod_uid) == (NOW + 5, 0, (), "uid-1")
        assert record.grant == grant
        other = replace(grant, workload=Workload(namespace="bank", service_account="web"))
        with pytest.raises(RefusedError, match="another workload"):
            await core.store.enter_pod_sidecar(other, now=NOW)


async def test_a_pod_takes_its_address_from_whoever_had_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        old = make_pod_grant("db-0.00000001", "uid-1", account="db")
        new = make_pod_grant("web-0.00000002", "uid-2")
        for grant in (old, new):
            await core.store.enter_pod_sidecar(grant, now=NOW)
            await core.store.register_sidecar(grant, registration(grant.instance, "198.18.0.2"), now=NOW)
        record = await core.store.get_sidecar_at("198.18.0.2")
        assert record is not None and record.instance == "web-0.00000002"


async def test_sidecars_of_pods_are_listed_and_forgotten_by_their_pods(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        for number in (1, 2):
            grant = make_pod_grant(f"web-0.0000000{number}", f"uid-{number}")
            await core.store.enter_pod_sidecar(grant, now=NOW + number)
            await core.store.register_sidecar(grant, registration(grant.instance, "198.18.0.2"), now=NOW + number)
        assert await core.store.list_pod_sidecars(joined_before=NOW + 2) == {"web-0.00000001": "uid-1"}
        assert await core.store.delete_pod_sidecars(["uid-2", "", "unknown"]) == 1
        assert [record.pod_uid for record in await core.store.list_sidecars()] == ["uid-1"]
        assert await core.store.get_sidecar_at("198.18.0.2") is None


def make_pod_grant(instance: str, uid: str, *, account: str = "web") -> JoinGrant:
    workload = Workload(namespace="shop", service_account=account)
    return JoinGrant(workload=workload, addresses=("198.18.0.2",), instance=instance, pod_uid=uid)


async def test_open_tokens_are_listed_by_the_root_that_they_pin(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        pin, store = core.authorities.root_pin, core.store
        spent, secret = await store.create_join_token(workload=WEB, addresses=[], labels={}, expires=NOW + 60, now=NOW)
        late, _ = await store.create_join_token(workload=WEB, addresses=[], labels={}, expires=NOW + 90, now=NOW)
        early, _ = await store.create_join_token(workload=WEB, addresses=[], labels={}, expires=NOW + 30, now=NOW)
        assert late.root_pin == pin
        await store.spend_join_token(token_id=spent.token_id, secret=secret, instance="a", now=NOW)
        assert [each.token_id for each in await store.list_open_tokens(pin, now=NOW)] == [early.token_id, late.token_id]
        assert await store.list_open_tokens(pin, now=NOW + 30) == [late]
        assert await store.list_open_tokens("0" * 64, now=NOW) == []
