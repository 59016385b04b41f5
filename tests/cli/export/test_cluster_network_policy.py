"""ClusterNetworkPolicies: refusals first, what nothing allows last, all within the bounds of the kind."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec

from cli.export.cluster_network_policy import write_cluster_network_policies
from cli.export.plan import Effect, make_plan
from cli.export.resolving import Resolver
from shared.model.policy.cidr import METADATA_ADDRESSES
from shared.model.policy.rules import Action, Peer, PortRange
from tests.cli.export.world import (
    INTERNET,
    SHOP,
    STATES,
    find_specs,
    list_losses,
    make_outward,
    make_resolver,
    make_selectors,
)


def test_denies_go_to_the_admin_tier_and_the_rest_to_baseline_with_the_default_last() -> None:
    objects = write_cluster_network_policies(make_resolver())
    tiers: dict[tuple[str, str], set[int]] = {}
    for each in objects:
        for rule in (*each["spec"].get("ingress", ()), *each["spec"].get("egress", ())):
            tiers.setdefault((each["spec"]["tier"], rule["action"]), set()).add(each["spec"]["priority"])
    assert set(tiers) == {("Admin", "Pass"), ("Admin", "Deny"), ("Baseline", "Accept"), ("Baseline", "Deny")}
    assert max(tiers["Admin", "Pass"]) < min(tiers["Admin", "Deny"])
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


def test_dns_the_ca_and_probes_pass_ahead_of_what_is_refused() -> None:
    resolver = make_outward(Action.DENY)
    objects = write_cluster_network_policies(resolver)
    [kept] = [each["spec"] for each in objects if each["spec"]["tier"] == "Admin" and each["spec"]["priority"] < 100]
    [needed] = [each["spec"] for each in objects if each["metadata"]["name"].startswith("touchmark-shop-needed")]
    for side in ("ingress", "egress"):
        assert kept[side] == [{**each, "action": "Pass"} for each in needed[side]]
    [spec] = find_specs(objects)
    assert [each["action"] for each in spec["egress"]] == ["Deny", "Deny"]
    said = {each.message for each in resolver.losses if "sidecars need" in each.message}
    assert said == {f"leaves out what sidecars need: {each}" for each in ("the cluster's DNS", "the CA")}


def test_a_refusal_elsewhere_leaves_nothing_out() -> None:
    resolver = make_outward(Action.DENY, Peer(namespace="bank"))
    write_cluster_network_policies(resolver)
    assert "shop/out" not in list_losses(resolver, Effect.LOOSER)


def test_a_wide_network_doesnt_allow_metadata_addresses() -> None:
    [spec] = find_specs(write_cluster_network_policies(make_outward(Action.ALLOW, INTERNET)))
    assert all(len(peer["networks"]) <= 25 for rule in spec["egress"] for peer in rule["to"])
    networks = [ip_network(each) for rule in spec["egress"] for peer in rule["to"] for each in peer["networks"]]
    assert sum(each.num_addresses for each in networks) == 2**32 + 2**128 - 3
    assert not [each for each in METADATA_ADDRESSES if any(each in network for network in networks)]


def test_a_permissive_namespace_only_refuses() -> None:
    assert write_cluster_network_policies(make_resolver("bank")) == []


def test_hosts_cant_be_said() -> None:
    resolver = make_outward(Action.ALLOW, Peer(unidentified=True, hosts=("api.example.com",)))
    assert not find_specs(write_cluster_network_policies(resolver))
    [loss] = [each for each in resolver.losses if each.rule == "shop/out"]
    assert (loss.effect, loss.message) == (Effect.STRICTER, "the host api.example.com can't be said: left out")
