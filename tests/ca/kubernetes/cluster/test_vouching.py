"""Labels of namespaces are vouched for where groups are made by them, and follow every change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.kubernetes.cluster import vouching as vouching_module
from ca.kubernetes.cluster.pods import NamespaceIndex, NamespaceRecord
from ca.kubernetes.cluster.vouching import Vouching
from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.errors import UnavailableError
from shared.model.identity.identity import Workload
from shared.model.policy.rules import WorkloadLabels
from tests.ca.founded import NOW, opened, registration
from tests.ca.running import eventually

RED, BLUE = {"team": "red", "other": "x"}, {"team": "blue"}


def workload(namespace: str, account: str = "web") -> Workload:
    return Workload(namespace=namespace, service_account=account)


async def enter(store: Store, vouching: Vouching, namespace: str, account: str = "web", number: int = 1) -> None:
    grant = JoinGrant(
        workload=workload(namespace, account),
        addresses=(),
        labels=vouching.labels_of(namespace),
        instance=f"{namespace}-{account}.{number:08x}",
        pod_uid=f"{namespace}-{account}-{number}",
    )
    await store.enrolment.enter_pod(grant, registration(grant.instance), key_digest=b"key", now=NOW)


async def vouched(store: Store, namespace: str) -> dict[str, dict[str, str]]:
    state = await store.namespaces.get_state(namespace)
    return {each.service_account: each.labels for each in state.labels if each.labels}


@contextlib.asynccontextmanager
async def running(store: Store, index: NamespaceIndex, is_stale: asyncio.Event) -> AsyncIterator[Vouching]:
    vouching = Vouching(store, index, is_stale=is_stale)
    store.namespaces.on_change(vouching.note_policy)
    await vouching.load()
    task = asyncio.create_task(vouching.run())
    try:
        yield vouching
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_only_labels_that_groups_are_made_by_are_vouched_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as founded:
        store, is_stale = founded.store, asyncio.Event()
        index = NamespaceIndex(on_labels=is_stale.set)
        index.replace([NamespaceRecord("shop", RED)])
        async with running(store, index, is_stale) as vouching:
            await enter(store, vouching, "shop")
            assert (await store.namespaces.get_state("shop")).labels == ()
            assert (await store.namespaces.get_state("shop")).version == 0, "labels that nobody uses change no state"
            await store.namespaces.put_policy("shop", rules=(), group_label="team")
            await eventually(lambda: _is(store, "shop", {"web": {"team": "red"}}))
            # Whoever joins later has them from the start.
            await enter(store, vouching, "shop", "db")
            assert await vouched(store, "shop") == {"web": {"team": "red"}, "db": {"team": "red"}}
            version = (await store.namespaces.get_state("shop")).version
            await enter(store, vouching, "shop", "db", number=2)
            assert (await store.namespaces.get_state("shop")).version == version
            await store.namespaces.put_policy("shop", rules=())
            await eventually(lambda: _is(store, "shop", {}))


async def test_a_namespace_that_changes_its_label_leaves_its_group(tmp_path: Path) -> None:
    async with opened(tmp_path) as founded:
        store, is_stale = founded.store, asyncio.Event()
        index = NamespaceIndex(on_labels=is_stale.set)
        index.replace([NamespaceRecord("shop", RED), NamespaceRecord("bank", RED)])
        await store.namespaces.put_policy("shop", rules=(), group_label="team")
        async with running(store, index, is_stale) as vouching:
            for namespace in ("shop", "bank"):
                await enter(store, vouching, namespace)
            index.apply(NamespaceRecord("bank", BLUE))
            await eventually(lambda: _is(store, "bank", {"web": {"team": "blue"}}))
            index.apply(NamespaceRecord("bank"))
            await eventually(lambda: _is(store, "bank", {}))
            assert await vouched(store, "shop") == {"web": {"team": "red"}}


async def test_what_changed_while_the_ca_was_down_is_noticed_and_join_tokens_labels_are_left_alone(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as founded:
        store, is_stale = founded.store, asyncio.Event()
        index = NamespaceIndex(on_labels=is_stale.set)
        await store.namespaces.put_policy("shop", rules=(), group_label="team")
        await store.namespaces.set_labels(workload("shop", "vm"), {"team": "green"})
        before = Vouching(store, index, is_stale=is_stale)
        await before.load()
        index.replace([NamespaceRecord("shop", RED)])
        await enter(store, before, "shop")
        async with running(store, NamespaceIndex(on_labels=is_stale.set), is_stale) as vouching:
            vouching._namespaces.replace([NamespaceRecord("shop", BLUE)])
            await eventually(lambda: _is(store, "shop", {"web": {"team": "blue"}, "vm": {"team": "green"}}))
            state = await store.namespaces.get_state("shop")
            assert state.labels[0] == WorkloadLabels(service_account="vm", labels={"team": "green"})


async def test_a_store_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouching_module, "RETRY_S", 0.01)
    async with opened(tmp_path) as founded:
        store, is_stale = founded.store, asyncio.Event()
        index = NamespaceIndex(on_labels=is_stale.set)
        index.replace([NamespaceRecord("shop", RED)])
        await store.namespaces.put_policy("shop", rules=(), group_label="team")
        async with running(store, index, is_stale) as vouching:
            await enter(store, vouching, "shop")
            failures = 0

            async def fail() -> dict[Workload, dict[str, str]]:
                nonlocal failures
                failures += 1
                raise UnavailableError("no store")

            with monkeypatch.context() as patch:
                patch.setattr(store.namespaces, "list_pod_workloads", fail)
                index.apply(NamespaceRecord("shop", BLUE))
                await eventually(lambda: failures > 1)
            await eventually(lambda: _is(store, "shop", {"web": {"team": "blue"}}))


async def _is(store: Store, namespace: str, labels: dict[str, dict[str, str]]) -> bool:
    return await vouched(store, namespace) == labels
