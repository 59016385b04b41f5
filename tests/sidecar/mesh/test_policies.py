"""Policies: what is in force, acknowledged, and asked for again."""

from __future__ import annotations

import asyncio

from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.messages import FromSidecar, NamespaceInstalled, Subscribe
from sidecar.mesh.policies import Policies
from tests.sidecar.little_ca import ask_into


async def test_a_change_is_in_force_at_once_and_told() -> None:
    policies = Policies(NamespaceState(namespace="shop", version=1), ask=ask_into([]), timeout_s=1)
    told: list[int] = []
    policies.on_change(lambda: told.append(policies.generation))
    changed = NamespaceState(namespace="shop", version=2, mode=Mode.EXPLICIT)
    assert policies.install(changed) == NamespaceInstalled(namespace="shop", version=2)
    assert policies.own.state is changed
    assert policies.install(changed) is not None
    assert told == [2]


async def test_another_namespace_is_subscribed_to_once_and_again_on_a_new_stream() -> None:
    sent: list[FromSidecar] = []
    policies = Policies(NamespaceState(namespace="shop"), ask=ask_into(sent), timeout_s=1)
    waiting = [asyncio.create_task(policies.obtain("bank")) for _ in range(3)]
    await asyncio.sleep(0)
    policies.install(NamespaceState(namespace="bank", version=4))
    assert {policy.state.version for policy in await asyncio.gather(*waiting)} == {4}
    assert sent == policies.subscriptions() == [Subscribe(namespace="bank")]
