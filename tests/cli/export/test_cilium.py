"""CiliumNetworkPolicies name service accounts, and refuse in sections of their own."""

from __future__ import annotations

from typing import Any

import msgspec

from cli.export.cilium import write_cilium_policies
from cli.export.plan import make_plan
from cli.export.resolving import Resolver
from cli.export.selectors import Selectors
from shared.model.policy.rules import Mode
from tests.cli.export.world import SHOP, STATES, make_resolver, make_selectors

ACCOUNT = "k8s:io.cilium.k8s.policy.serviceaccount"


def find(objects: list[Any], rule: str) -> Any:
    [found] = [each["spec"] for each in objects if each["metadata"].get("annotations") == {"touchmark.dev/rule": rule}]
    return found


def test_workloads_are_service_accounts_without_looking_at_pods() -> None:
    plan = make_plan("shop", STATES)
    objects = write_cilium_policies(Resolver(plan=plan, selectors=Selectors()))
    assert objects == write_cilium_policies(Resolver(plan=plan, selectors=make_selectors()))
    spec = find(objects, "bank/shop-in")
    assert spec["endpointSelector"] == {"matchLabels": {ACCOUNT: "web"}}
    assert spec["egress"][0]["toEndpoints"][0]["matchLabels"][ACCOUNT] == "teller"
    assert [each["port"] for each in spec["egress"][0]["toPorts"][0]["ports"]] == ["5432", "15008"]


def test_everyone_is_pods_and_the_world_but_not_the_node() -> None:
    [pods, world] = find(write_cilium_policies(make_resolver()), "shop/nobody")["ingressDeny"]
    assert pods["fromEndpoints"][0]["matchExpressions"][0]["operator"] == "Exists"
    assert world["fromEntities"] == ["world"]


def test_what_is_refused_in_a_permissive_namespace_doesnt_close_it() -> None:
    states = {**STATES, "shop": msgspec.structs.replace(SHOP, mode=Mode.PERMISSIVE)}
    objects = write_cilium_policies(Resolver(plan=make_plan("shop", states), selectors=make_selectors()))
    assert objects
    assert all(each["spec"]["enableDefaultDeny"] == {"ingress": False, "egress": False} for each in objects)


def test_the_default_closes_both_sides_and_keeps_dns() -> None:
    [default, *_] = write_cilium_policies(make_resolver())
    assert default["spec"]["enableDefaultDeny"] == {"ingress": True, "egress": True}
    assert default["spec"]["egress"][0]["toPorts"][0]["ports"] == [{"port": "53", "protocol": "ANY"}]
