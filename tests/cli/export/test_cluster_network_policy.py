"""ClusterNetworkPolicies: refusals first, what nothing allows last, all within the bounds of the kind."""

from __future__ import annotations

import msgspec

from cli.export.cluster_network_policy import write_cluster_network_policies
from cli.export.plan import Effect, make_plan
from cli.export.resolving import Resolver
from shared.model.policy.rules import PortRange
from tests.cli.export.world import SHOP, STATES, list_losses, make_resolver, make_selectors


def test_denies_go_to_the_admin_tier_and_the_rest_to_baseline_with_the_default_last() -> None:
    objects = write_cluster_network_policies(make_resolver())
    tiers: dict[tuple[str, str], set[int]] = {}
    for each in objects:
        for rule in (*each["spec"].get("ingress", ()), *each["spec"].get("egress", ())):
            tiers.setdefault((each["spec"]["tier"], rule["action"]), set()).add(each["spec"]["priority"])
    assert set(tiers) == {("Admin", "Deny"), ("Baseline", "Accept"), ("Baseline", "Deny")}
    assert max(tiers["Baseline", "Accept"]) < min(tiers["Baseline", "Deny"])


def test_networks_are_only_named_where_the_kind_has_them() -> None:
    resolver = make_resolver()
    objects = write_cluster_network_policies(resolver)
    assert not [
        peer
        for each in objects
        for rule in each["spec"].get("ingress", ())
        for peer in rule["from"]
        if "networks" in peer
    ]
    assert "outside the cluster" in list_losses(resolver, Effect.LOOSER)["shop"]


def test_lists_stay_within_25() -> None:
    ports = tuple(PortRange(first=port, last=port) for port in range(1000, 1060))
    rules = (msgspec.structs.replace(SHOP.rules[0], ports=ports), *SHOP.rules[1:])
    plan = make_plan("shop", {**STATES, "shop": msgspec.structs.replace(SHOP, rules=rules)})
    found = 0
    for each in write_cluster_network_policies(Resolver(plan=plan, selectors=make_selectors())):
        for rule in each["spec"].get("ingress", ()):
            assert len(rule["from"]) <= 25
            assert len(rule.get("protocols", ())) <= 25
            found += len(rule.get("protocols", ())) if each["metadata"].get("annotations") else 0
    assert found >= 61


def test_a_permissive_namespace_only_refuses() -> None:
    assert write_cluster_network_policies(make_resolver("bank")) == []
