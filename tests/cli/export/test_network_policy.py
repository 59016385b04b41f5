"""Exported NetworkPolicies, judged by the evaluator that ``touchmark doctor`` judges a cluster's with."""

from __future__ import annotations

import pytest

from cli.cluster.network_policies import NetworkPolicies, PodGroup, group_pods
from cli.export.network_policy import write_network_policies
from cli.export.plan import Effect
from shared.model.kubernetes.contract import STREAM_PORT, TUNNEL_PORT
from tests.cli.export.world import PODS, STATES, list_losses, make_resolver

NAMESPACES = {name: {"kubernetes.io/metadata.name": name} for name in (*STATES, "touchmark-system", "kube-system")}
CA = PodGroup(namespace="touchmark-system", example="ca", labels={"app.kubernetes.io/name": "touchmark-ca"})
GROUPS = {str(each).partition("-")[0]: each for each in group_pods(PODS)}


@pytest.fixture(scope="module")
def policies() -> NetworkPolicies:
    objects = [
        each for name in ("shop", "bank") for each in write_network_policies(make_resolver(name, as_explicit=True))
    ]
    return NetworkPolicies(objects, NAMESPACES)


def test_the_mesh_keeps_its_tunnel_its_ca_and_its_probes(policies: NetworkPolicies) -> None:
    groups = list(GROUPS.values())
    assert policies.find_tunnel_drops(groups) == []
    assert policies.find_stream_drops(groups, CA) == []
    assert policies.find_probe_drops(groups) == []


@pytest.mark.parametrize(
    ("source", "destination", "port", "passes"),
    [
        ("bank/teller", "shop/web", 8080, True),
        ("bank/teller", "shop/web", 8081, False),
        ("bank/batch", "shop/db", 5432, False),
        ("shop/web", "shop/db", 5432, True),
        ("shop/web", "bank/teller", 5432, True),
        ("shop/db", "bank/teller", 5432, False),
        ("bank/batch", "shop/web", TUNNEL_PORT, True),
        ("shop/db", "bank/batch", TUNNEL_PORT, False),
    ],
)
def test_ports_and_workloads_are_those_of_the_rules(
    policies: NetworkPolicies, source: str, destination: str, port: int, passes: bool
) -> None:
    out = policies.allow_egress(GROUPS[source], GROUPS[destination])
    into = policies.allow_ingress(GROUPS[source], GROUPS[destination])
    assert all(any(first <= port <= last for first, last in each) for each in (out, into)) is passes


def test_dns_and_the_ca_are_let_out() -> None:
    [default, *_] = write_network_policies(make_resolver())
    assert [[port["port"] for port in each["ports"]] for each in default["spec"]["egress"]] == [[53, 53], [STREAM_PORT]]


def test_what_cant_be_refused_or_named_is_said() -> None:
    resolver = make_resolver()
    write_network_policies(resolver)
    assert {"shop/nobody", "shop/not-the-batch", "shop/not-out"} <= set(list_losses(resolver, Effect.LOOSER))
    assert "spiffe://partner.example" in list_losses(resolver, Effect.STRICTER)["shop/partner"]


def test_a_permissive_namespace_has_none() -> None:
    assert write_network_policies(make_resolver("bank")) == []
