"""Policies: what is in force, acknowledged, and asked for again."""

from __future__ import annotations

import asyncio
import sys

import pytest

from shared.model.identity.identity import Workload
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Action, Direction, Mode, NamespaceState, Peer, PolicyDraft, Rule
from shared.model.wire.messages import FromSidecar, NamespaceInstalled, Subscribe
from sidecar.mesh.policies import Policies
from tests.sidecar.little_ca import ask_into, until

WEB = Workload(namespace="shop", service_account="web")


def many_rules(count: int) -> tuple[Rule, ...]:
    networks = tuple(f"10.0.{number}.0/24" for number in range(20))
    peers = (Peer(unidentified=True, cidrs=networks),)
    return tuple(Rule(name=f"r{number}", action=Action.ALLOW, peers=peers) for number in range(count))


async def test_a_change_is_in_force_at_once_and_told() -> None:
    policies = Policies(
        NamespaceState(namespace="shop", version=1),
        workload=Workload(namespace="shop", service_account="web"),
        ask=ask_into([]),
        timeout_s=30,
    )
    told: list[object] = []
    policies.on_change(lambda namespace: told.append((namespace, policies.generation)))
    changed = NamespaceState(namespace="shop", version=2, mode=Mode.EXPLICIT)
    for _ in range(2):
        policies.install(changed, acknowledge=told.append)
    assert policies.own.state is changed
    acknowledgement = NamespaceInstalled(namespace="shop", version=2)
    assert told == [("shop", 2), acknowledgement, acknowledgement]


async def test_a_large_state_is_compiled_while_other_things_happen_and_the_old_one_holds_until_then() -> None:
    policies = Policies(
        NamespaceState(namespace="shop", version=1),
        workload=Workload(namespace="shop", service_account="web"),
        ask=ask_into([]),
        timeout_s=30,
    )
    told: list[NamespaceInstalled] = []
    large = NamespaceState(namespace="shop", version=2, rules=many_rules(1000))
    policies.install(large, acknowledge=told.append)
    assert (policies.own.state.version, told) == (1, [])
    iterations = 0
    while policies.own.state is not large:
        await asyncio.sleep(0)
        iterations += 1
    assert iterations > 5
    assert told == [NamespaceInstalled(namespace="shop", version=2)]


async def test_a_newer_state_overtakes_one_that_is_being_compiled() -> None:
    policies = Policies(
        NamespaceState(namespace="shop", version=1),
        workload=Workload(namespace="shop", service_account="web"),
        ask=ask_into([]),
        timeout_s=30,
    )
    told: list[NamespaceInstalled] = []
    policies.install(NamespaceState(namespace="shop", version=2, rules=many_rules(1000)), acknowledge=told.append)
    newest = NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT)
    policies.install(newest, acknowledge=told.append)
    for _ in range(50):
        await asyncio.sleep(0)
    assert policies.own.state is newest
    assert told == [NamespaceInstalled(namespace="shop", version=3)]
    policies.install(NamespaceState(namespace="shop", version=4, rules=many_rules(1000)), acknowledge=told.append)
    policies.install(newest, acknowledge=told.append)  # What is in force, once more: the CA was restored.
    for _ in range(50):
        await asyncio.sleep(0)
    assert policies.own.state is newest


@pytest.mark.parametrize("borrowed", [0, 1])
async def test_a_replaced_state_is_given_up_in_slices_unless_somebody_decides_by_it(
    monkeypatch: pytest.MonkeyPatch, borrowed: int
) -> None:
    """From Python 3.14 on a variable's reference isn't counted twice where it is passed."""
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda each: count(each) - 1 - borrowed)
    policies = Policies(
        NamespaceState(namespace="shop", version=1),
        workload=Workload(namespace="shop", service_account="web"),
        ask=ask_into([]),
        timeout_s=30,
    )
    told: list[NamespaceInstalled] = []

    async def install(version: int) -> None:
        state = NamespaceState(namespace="shop", version=version, rules=many_rules(200))
        policies.install(state, acknowledge=told.append)
        await until(lambda: NamespaceInstalled(namespace="shop", version=version) in told)

    await install(2)
    index = policies.own.allows[Direction.INGRESS]
    await install(3)
    await until(lambda: not index.rules)
    kept = policies.own
    await install(4)
    for _ in range(300):
        await asyncio.sleep(0)
    assert len(kept.allows[Direction.INGRESS].rules) == 200
    del kept
    in_force, generation = policies.own, policies.generation
    told.clear()
    await install(4)  # As it is already: only compared.
    assert (policies.own, policies.generation) == (in_force, generation)


async def test_no_more_namespaces_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.mesh.policies.MAX_NAMESPACES", 1)
    policies = Policies(
        NamespaceState(namespace="shop"),
        workload=Workload(namespace="shop", service_account="web"),
        ask=ask_into([]),
        timeout_s=30,
    )
    told: list[NamespaceInstalled] = []
    policies.install(NamespaceState(namespace="bank"), acknowledge=told.append)
    assert policies.get("bank") is None
    assert told == []


async def test_another_namespace_is_subscribed_to_once_and_again_on_a_new_stream() -> None:
    sent: list[FromSidecar] = []
    policies = Policies(
        NamespaceState(namespace="shop"),
        workload=Workload(namespace="shop", service_account="web"),
        ask=ask_into(sent),
        timeout_s=30,
    )
    waiting = [asyncio.create_task(policies.obtain("bank")) for _ in range(3)]
    await asyncio.sleep(0)
    policies.install(NamespaceState(namespace="bank", version=4), acknowledge=lambda _: None)
    assert {policy.state.version for policy in await asyncio.gather(*waiting)} == {4}
    assert sent == policies.subscriptions() == [Subscribe(namespace="bank")]


async def test_the_own_workloads_mode_counts_and_follows_each_change() -> None:
    web = Workload(namespace="shop", service_account="web")
    policies = Policies(NamespaceState(namespace="shop", version=1), workload=web, ask=ask_into([]), timeout_s=30)
    assert policies.mode is Mode.PERMISSIVE
    for version, (mode, own, counts) in enumerate(
        [
            (Mode.PERMISSIVE, {"web": Mode.EXPLICIT}, Mode.EXPLICIT),
            (Mode.EXPLICIT, {"web": Mode.PERMISSIVE}, Mode.PERMISSIVE),
            (Mode.PERMISSIVE, {"db": Mode.EXPLICIT}, Mode.PERMISSIVE),
            (Mode.EXPLICIT, {}, Mode.EXPLICIT),
        ],
        start=2,
    ):
        installed: list[NamespaceInstalled] = []
        state = NamespaceState(namespace="shop", version=version, mode=mode, workload_modes=make_modes(own))
        policies.install(state, acknowledge=installed.append)
        assert (policies.mode, installed) == (counts, [NamespaceInstalled(namespace="shop", version=version)])


async def test_a_draft_comes_beside_what_is_in_force_and_a_large_one_in_slices() -> None:
    policies = Policies(NamespaceState(namespace="shop", version=1), workload=WEB, ask=ask_into([]), timeout_s=30)
    told: list[NamespaceInstalled] = []
    for version, rules in ((2, many_rules(1000)), (3, many_rules(999)), (4, ())):
        draft = PolicyDraft(number=version, mode=Mode.EXPLICIT, rules=rules)
        state = NamespaceState(namespace="shop", version=version, draft=draft)
        policies.install(state, acknowledge=told.append)
        await until(lambda: told[-1:] == [NamespaceInstalled(namespace="shop", version=version)])  # noqa: B023
        assert policies.own.state is state
        assert policies.own.draft is not None
        assert (policies.own.state.mode, policies.own.state.rules) == (Mode.PERMISSIVE, ())
        assert (policies.own.draft.state.mode, policies.own.draft.state.rules) == (Mode.EXPLICIT, rules)
        assert policies.own.draft.state.draft is None
    policies.install(NamespaceState(namespace="shop", version=5), acknowledge=told.append)
    await until(lambda: policies.own.draft is None)
    assert [each.version for each in told] == [2, 3, 4, 5]


async def test_a_state_of_the_same_draft_is_the_same() -> None:
    draft = PolicyDraft(number=1, rules=many_rules(200))
    first = NamespaceState(namespace="shop", version=2, draft=draft)
    policies = Policies(first, workload=WEB, ask=ask_into([]), timeout_s=30)
    told: list[NamespaceInstalled] = []
    same = NamespaceState(namespace="shop", version=2, draft=PolicyDraft(number=1, rules=many_rules(200)))
    policies.install(same, acknowledge=told.append)
    await until(lambda: told == [NamespaceInstalled(namespace="shop", version=2)])
    assert (policies.own.state, policies.generation) == (first, 1)
    other = NamespaceState(namespace="shop", version=2, draft=PolicyDraft(number=2, rules=many_rules(200)))
    policies.install(other, acknowledge=told.append)
    await until(lambda: policies.generation == 2)
