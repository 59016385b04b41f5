"""CiliumNetworkPolicies name service accounts, and refuse in sections of their own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cli.cluster.network_policies import is_selected
from cli.export.cilium import write_cilium_policies
from cli.export.plan import Effect, Loss, make_plan
from cli.export.resolving import Resolver
from cli.export.selectors import Selectors
from shared.model.kubernetes.contract import STREAM_PORT
from shared.model.policy.rules import Action, Mode, Peer, PortRange
from tests.cli.export.world import INTERNET, SHOP, STATES, find_specs, make_outward, make_resolver, make_selectors

NAMESPACE = "k8s:io.kubernetes.pod.namespace"
ACCOUNT = "k8s:io.cilium.k8s.policy.serviceaccount"


def find(objects: list[Any], rule: str) -> Any:
    [found] = find_specs(objects, rule)
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


def test_a_wide_network_doesnt_allow_metadata_addresses() -> None:
    resolver = make_outward(Action.ALLOW, INTERNET, Peer(unidentified=True, cidrs=("192.0.2.0/24",)))
    [spec] = find_specs(write_cilium_policies(resolver))
    [plain, excepted] = spec["egress"]
    assert plain == {"toCIDR": ["192.0.2.0/24"]}
    assert excepted["toCIDRSet"][0] == {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}
    assert len(excepted["toCIDRSet"][1]["except"]) == 2
    [spec] = find_specs(write_cilium_policies(make_outward(Action.DENY, INTERNET)))
    assert spec["egressDeny"] == [{"toCIDR": ["0.0.0.0/0", "::/0"]}]


DNS = {NAMESPACE: "kube-system", "k8s:k8s-app": "kube-dns"}
CA = {NAMESPACE: "touchmark-system", "k8s:app.kubernetes.io/name": "touchmark-ca"}
OTHERS = ({NAMESPACE: "bank"}, {NAMESPACE: "kube-system"}, {NAMESPACE: "touchmark-system", "k8s:k8s-app": "kube-dns"})


@pytest.mark.parametrize(
    ("peers", "ports", "kept"),
    [
        ((), (), [DNS, CA]),
        ((Peer(),), (), [DNS, CA]),
        ((), (53,), [DNS]),
        ((), (STREAM_PORT,), [CA]),
        ((), (22,), []),
        ((Peer(namespace="kube-system"),), (), [DNS]),
        ((Peer(namespace="touchmark-system", service_account="touchmark-ca"),), (), [CA]),
        ((Peer(namespace="bank"),), (), []),
    ],
)
def test_what_is_refused_never_holds_dns_or_the_ca(
    peers: tuple[Peer, ...], ports: tuple[int, ...], kept: list[dict[str, str]]
) -> None:
    resolver = make_outward(Action.DENY, *peers, ports=tuple(PortRange(first=each, last=each) for each in ports))
    [spec] = find_specs(write_cilium_policies(resolver))
    selectors = [each for rule in spec["egressDeny"] for each in rule.get("toEndpoints", ())]
    assert not [each for each in kept if any(is_selected(one, each) for one in selectors)]
    assert [loss for loss in resolver.losses if "sidecars need" in loss.message] == [
        Loss(rule="shop/out", effect=Effect.LOOSER, message=f"leaves out what sidecars need: {what}")
        for labels, what in ((DNS, "the cluster's DNS"), (CA, "the CA"))
        if labels in kept
    ]
    if not peers:
        others = [*OTHERS, *(each for each in (DNS, CA) if each not in kept)]
        assert all(any(is_selected(one, each) for one in selectors) for each in others)
        assert spec["egressDeny"][-1]["toEntities"] == ["world"]


def test_dns_and_the_ca_may_be_in_one_namespace() -> None:
    [spec] = find_specs(write_cilium_policies(make_outward(Action.DENY), "kube-system"))
    [selectors] = [rule["toEndpoints"] for rule in spec["egressDeny"] if "toEndpoints" in rule]
    assert not [
        each
        for each in (DNS, {**CA, NAMESPACE: "kube-system"})
        if any(is_selected(selector, each) for selector in selectors)
    ]


def test_the_default_closes_both_sides_and_keeps_dns() -> None:
    [default, *_] = write_cilium_policies(make_resolver())
    assert default["spec"]["enableDefaultDeny"] == {"ingress": True, "egress": True}
    assert default["spec"]["egress"][0]["toPorts"][0]["ports"] == [{"port": "53", "protocol": "ANY"}]


def test_hosts_are_told_by_the_answers_that_ciliums_proxy_sees() -> None:
    resolver = make_outward(Action.ALLOW, Peer(unidentified=True, hosts=("api.example.com", "b.example")))
    objects = write_cilium_policies(resolver)
    [spec] = find_specs(objects)
    assert spec["egress"] == [{"toFQDNs": [{"matchName": "api.example.com"}, {"matchName": "b.example"}]}]
    assert [loss.effect for loss in resolver.losses if loss.rule == "shop/out"] == [Effect.LOOSER]
    [default] = [each["spec"] for each in objects if "enableDefaultDeny" in each["spec"]]
    assert default["egress"][0]["toPorts"][0]["rules"] == {"dns": [{"matchPattern": "*"}]}
