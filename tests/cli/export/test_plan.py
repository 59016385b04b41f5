"""A plan is what a namespace allows and refuses, without programs, and says what that loses."""

from __future__ import annotations

import msgspec
import pytest

from cli.export.plan import SAME_GROUP, Effect, End, Flow, make_plan
from shared.model.identity.identity import Workload
from shared.model.policy.evaluate import Party, compile_namespace, evaluate
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Direction, Mode, NamespaceState
from tests.cli.export.world import BANK, LABELLED, PROGRAM, SHOP, STATES


def find(flows: tuple[Flow, ...], rule: str) -> Flow:
    [flow] = [each for each in flows if each.rule == rule]
    return flow


def test_a_rule_of_another_namespace_lets_its_callers_out() -> None:
    flow = find(make_plan("shop", STATES).flows, "bank/shop-in")
    assert flow.direction is Direction.EGRESS
    assert flow.own == ("web",)
    assert flow.ends == (End(namespace="bank", service_account="teller"),)


def test_an_egress_rule_that_allows_is_only_about_what_is_outside_the_mesh() -> None:
    assert find(make_plan("shop", STATES).flows, "shop/to-api").ends == (End(cidrs=("203.0.113.7/32",)),)


def test_a_deny_rule_for_programs_is_left_out_and_said_to_be_looser() -> None:
    plan = make_plan("shop", STATES)
    assert not [each for each in plan.flows if each.rule == "shop/no-curl"]
    assert ("shop/no-curl", Effect.LOOSER) in [(each.rule, each.effect) for each in plan.losses]


def test_a_permissive_namespace_has_only_what_it_refuses_unless_explicit_is_asked_for() -> None:
    permissive = {**STATES, "shop": msgspec.structs.replace(SHOP, mode=Mode.PERMISSIVE)}
    plan = make_plan("shop", permissive)
    assert not plan.is_closed
    assert all(each.denies for each in plan.flows)
    assert "would deny" in " ".join(each.message for each in plan.losses)
    assert make_plan("shop", permissive, as_explicit=True).flows == make_plan("shop", STATES).flows


def test_the_order_doesnt_depend_on_the_order_of_rules() -> None:
    turned = {**STATES, "shop": msgspec.structs.replace(SHOP, rules=tuple(reversed(SHOP.rules)))}
    assert make_plan("shop", turned) == make_plan("shop", STATES)


def test_a_group_by_label_is_the_workloads_of_its_value() -> None:
    blue = msgspec.structs.replace(LABELLED, namespace="blue")
    flows = make_plan("red", {"red": LABELLED, "blue": blue}).flows
    assert {(each.rule, each.own, each.ends) for each in flows} == {
        (
            SAME_GROUP,
            (account,),
            (End(namespace="blue", service_account=account), End(namespace="red", service_account=account)),
        )
        for account in ("a", "b")
    }


@pytest.mark.parametrize("account", ["web", "db"])
@pytest.mark.parametrize("peer", ["teller", "batch"])
@pytest.mark.parametrize("port", [22, 5432, 8080, 9090])
def test_what_the_evaluator_allows_between_members_a_flow_allows(account: str, peer: str, port: int) -> None:
    """The other way round isn't true: programs are lost, as the losses say."""
    approved = [Workload(namespace="shop", service_account=account), Workload(namespace="bank", service_account=peer)]
    states = {
        each.namespace: msgspec.structs.replace(
            each,
            approvals=tuple(
                msgspec.structs.replace(SHOP.approvals[0], service_account=name)
                for name in ("web", "db", "teller", "batch")
            ),
        )
        for each in (SHOP, BANK)
    }
    verdict = evaluate(
        direction=Direction.INGRESS,
        source=Party(workload=approved[1], program=PROGRAM),
        destination=Party(workload=approved[0], program=PROGRAM),
        port=port,
        source_policy=compile_namespace(states["bank"]),
        destination_policy=compile_namespace(states["shop"]),
    )

    def matches(flow: Flow) -> bool:
        return (
            flow.direction is Direction.INGRESS
            and (not flow.own or account in flow.own)
            and (not flow.ports or any(each.first <= port <= each.last for each in flow.ports))
            and any(
                each.is_everyone
                or (each.is_member and each.namespace in ("", "bank") and each.service_account in ("", peer))
                for each in flow.ends
            )
        )

    found = [each for each in make_plan("shop", states).flows if matches(each)]
    allowed = bool(found) and not any(each.denies for each in found)
    assert allowed or not verdict.allowed


def test_a_namespace_without_a_policy_is_permissive() -> None:
    plan = make_plan("empty", {"empty": NamespaceState(namespace="empty")})
    assert (plan.flows, plan.is_closed) == ((), False)


def test_a_workloads_own_mode_that_differs_is_a_loss() -> None:
    modes = make_modes({"db": Mode.EXPLICIT, "web": Mode.PERMISSIVE})
    for mode, as_explicit, expected in (
        (Mode.PERMISSIVE, False, [(Effect.LOOSER, "db is explicit by a mode of its own, which isn't exported")]),
        (Mode.EXPLICIT, False, [(Effect.STRICTER, "web is permissive by a mode of its own, which isn't exported")]),
        (Mode.PERMISSIVE, True, [(Effect.STRICTER, "web is permissive by a mode of its own, which isn't exported")]),
    ):
        state = NamespaceState(namespace="shop", mode=mode, workload_modes=modes)
        losses = make_plan("shop", {"shop": state}, as_explicit=as_explicit).losses
        assert [(each.effect, each.message) for each in losses if "of its own" in each.message] == expected
