"""NetworkPolicies are read as Kubernetes defines them, and only those that break the mesh are named."""

from __future__ import annotations

from typing import Any

import pytest

from cli.cluster.network_policies import Drop, NetworkPolicies, PodGroup, group_pods, is_selected

NAMESPACES = {
    "shop": {"kubernetes.io/metadata.name": "shop", "team": "a"},
    "bank": {"kubernetes.io/metadata.name": "bank", "team": "b"},
    "touchmark-system": {"kubernetes.io/metadata.name": "touchmark-system"},
}
WEB = PodGroup(
    namespace="shop", example="web-1", labels={"app": "web"}, addresses=("198.18.0.7",), ports={"http": 8080}
)
DB = PodGroup(namespace="shop", example="db-0", labels={"app": "db"}, addresses=("198.18.0.8",), ports={"sql": 5432})
TELLER = PodGroup(namespace="bank", example="teller-1", labels={"app": "teller"}, addresses=("198.18.1.9", "fd00::9"))
CA = PodGroup(namespace="touchmark-system", example="ca-0", labels={"app.kubernetes.io/name": "touchmark-ca"})


def policy(name: str = "p", *, namespace: str = "shop", select: Any = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": select or {}, **spec}}


def port(number: Any, **more: Any) -> dict[str, Any]:
    return {"port": number, "protocol": "TCP", **more}


def drops(*policies: dict[str, Any], groups: tuple[PodGroup, ...] = (WEB, DB, TELLER)) -> list[Drop]:
    return NetworkPolicies(policies, NAMESPACES).find_tunnel_drops(groups)


def test_without_policies_everything_passes() -> None:
    assert drops() == []
    assert NetworkPolicies([], NAMESPACES).find_stream_drops([WEB], CA) == []
    assert NetworkPolicies([], NAMESPACES).find_webhook_drops(CA) == []


def test_the_tutorial_s_database_policy_drops_the_tunnel() -> None:
    """Port 5432 from web alone: what travels is 15008."""
    only_web = policy(
        "db-from-web",
        select={"matchLabels": {"app": "db"}},
        ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [port(5432)]}],
    )
    [drop] = drops(only_web)
    assert drop == Drop(
        port=15008, side="ingress", source="shop/web-1", destination="shop/db-0", policies=("shop/db-from-web",)
    )
    only_web["spec"]["ingress"][0]["ports"].append(port(15008))
    assert drops(only_web) == []


def test_isolation_that_lets_nothing_through_is_meant_so() -> None:
    assert drops(policy(policyTypes=["Ingress", "Egress"])) == []


def test_a_further_policy_that_allows_the_tunnel_suffices() -> None:
    narrow = policy("narrow", ingress=[{"ports": [port(8080)]}])
    wide = policy("mesh", ingress=[{"ports": [port(15008)]}])
    assert drops(narrow) != []
    assert drops(narrow, wide) == []


def test_egress_counts_at_the_source() -> None:
    out = policy(
        "out", select={"matchLabels": {"app": "web"}}, policyTypes=["Egress"], egress=[{"ports": [port(5432)]}]
    )
    found = drops(out, groups=(WEB, DB))
    assert {(drop.side, drop.source, drop.destination) for drop in found} == {
        ("egress", "shop/web-1", "shop/db-0"),
        ("egress", "shop/web-1", "shop/web-1"),
    }


def test_a_policy_without_types_isolates_egress_only_when_it_has_such_rules() -> None:
    policies = NetworkPolicies([policy(ingress=[{}])], NAMESPACES)
    assert policies.allow_egress(WEB, DB) == ((1, 65535),)
    policies = NetworkPolicies([policy(egress=[{"ports": [port(1)]}])], NAMESPACES)
    assert policies.allow_egress(WEB, DB) == ((1, 1),)
    assert policies.allow_ingress(WEB, DB) == ()


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ({"podSelector": {}}, {"shop/web-1"}),
        ({"podSelector": {"matchLabels": {"app": "teller"}}}, set()),
        ({"namespaceSelector": {}}, {"shop/web-1", "bank/teller-1"}),
        ({"namespaceSelector": {"matchLabels": {"team": "b"}}}, {"bank/teller-1"}),
        ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "teller"}}}, {"bank/teller-1"}),
        ({"ipBlock": {"cidr": "198.18.0.0/24"}}, {"shop/web-1"}),
        ({"ipBlock": {"cidr": "198.18.0.0/15", "except": ["198.18.0.0/24"]}}, {"bank/teller-1"}),
        ({"ipBlock": {"cidr": "fd00::/8"}}, {"bank/teller-1"}),
        ({"ipBlock": {"cidr": "nonsense"}}, set()),
    ],
)
def test_each_kind_of_peer(peer: dict[str, Any], expected: set[str]) -> None:
    policies = NetworkPolicies([policy(ingress=[{"from": [peer]}])], NAMESPACES)
    assert {str(each) for each in (WEB, TELLER) if policies.allow_ingress(each, DB)} == expected


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (None, ((1, 65535),)),
        ([], ((1, 65535),)),
        ([port(5432)], ((5432, 5432),)),
        ([port(15000, endPort=15100)], ((15000, 15100),)),
        ([{"protocol": "TCP"}], ((1, 65535),)),
        ([{"port": 5432}], ((5432, 5432),)),
        ([port(53, protocol="UDP")], ()),
        ([port("sql")], ((5432, 5432),)),
        ([port("unknown")], ()),
    ],
)
def test_each_kind_of_port(ports: Any, expected: Any) -> None:
    rule = {} if ports is None else {"ports": ports}
    policies = NetworkPolicies([policy(ingress=[rule])], NAMESPACES)
    assert policies.allow_ingress(WEB, DB) == expected


def test_a_range_that_holds_the_tunnel_s_port_is_enough() -> None:
    assert drops(policy(ingress=[{"ports": [port(1024, endPort=65535)]}])) == []


@pytest.mark.parametrize(
    ("expression", "is_there"),
    [
        ({"key": "app", "operator": "In", "values": ["web", "x"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["web"]}, False),
        ({"key": "tier", "operator": "NotIn", "values": ["web"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
        ({"key": "app", "operator": "Later"}, False),
    ],
)
def test_each_operator_of_a_selector(expression: dict[str, Any], is_there: bool) -> None:
    assert is_selected({"matchExpressions": [expression]}, {"app": "web"}) is is_there
    assert is_selected(None, {})


def test_the_ca_must_be_reached_whatever_else_is_meant() -> None:
    closed = policy("closed", policyTypes=["Egress"])
    [drop] = NetworkPolicies([closed], NAMESPACES).find_stream_drops([WEB, TELLER], CA)
    assert (drop.port, drop.side, drop.source) == (15443, "egress", "shop/web-1")
    door = policy("door", namespace="touchmark-system", ingress=[{"ports": [port(15444)]}])
    found = NetworkPolicies([door], NAMESPACES).find_stream_drops([WEB], CA)
    assert [(drop.side, drop.policies) for drop in found] == [("ingress", ("touchmark-system/door",))]


def test_the_api_server_is_no_pod_that_a_selector_could_name() -> None:
    rule: dict[str, Any] = {"ports": [port(15444)], "from": [{"namespaceSelector": {}}]}
    policies = NetworkPolicies([policy(namespace="touchmark-system", ingress=[rule])], NAMESPACES)
    [drop] = policies.find_webhook_drops(CA)
    assert (drop.port, drop.source) == (15444, "the API server")
    rule["from"].append({"ipBlock": {"cidr": "192.0.2.0/24"}})
    assert policies.find_webhook_drops(CA) == []


def test_probes_are_only_named_where_no_rule_allows_them() -> None:
    policies = NetworkPolicies([policy(ingress=[{"ports": [port(8080)]}])], NAMESPACES)
    assert [(drop.port, drop.destination) for drop in policies.find_probe_drops([WEB, TELLER])] == [
        (15020, "shop/web-1")
    ]
    assert NetworkPolicies([policy(ingress=[{}])], NAMESPACES).find_probe_drops([WEB]) == []


def test_pods_of_one_template_are_one_group() -> None:
    def pod(name: str, **labels: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIPs": [{"ip": "198.18.0.7"}]},
        }

    found = group_pods([pod("a", app="web", **{"pod-template-hash": "1"}), pod("b", app="web"), pod("c", app="db")])
    assert [str(group) for group in found] == ["shop/a", "shop/c"]
    assert found[0].ports == {"http": 8080}
    assert found[0].addresses == ("198.18.0.7",)
