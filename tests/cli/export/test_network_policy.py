"""Exported NetworkPolicies, judged by the evaluator that ``touchmark doctor`` judges a cluster's with."""

from __future__ import annotations

import pytest

from cli.cluster.network_policies import NetworkPolicies, PodGroup, group_pods
from cli.export.network_policy import write_network_policies
from cli.export.plan import Effect
from shared.model.kubernetes.contract import STREAM_PORT, TUNNEL_PORT
from shared.model.policy.rules import Action, Peer
from tests.cli.export.world import INTERNET, PODS, STATES, find_specs, list_losses, make_outward, make_resolver

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


def test_a_wide_network_doesnt_allow_metadata_addresses_and_pods_within_are_said() -> None:
    resolver = make_outward(Action.ALLOW, INTERNET, Peer(unidentified=True, cidrs=("169.254.169.254/32",)))
    [spec] = find_specs(write_network_policies(resolver))
    assert [each["ipBlock"] for each in spec["egress"][0]["to"]] == [
        {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]},
        {"cidr": "::/0", "except": ["fd00:ec2::254/128", "fd20:ce::254/128"]},
        {"cidr": "169.254.169.254/32"},
    ]
    assert "although the peer shows an identity" in list_losses(resolver, Effect.LOOSER)["shop/out"]


def test_a_permissive_namespace_has_none() -> None:
    assert write_network_policies(make_resolver("bank")) == []


def test_hosts_cant_be_said() -> None:
    resolver = make_outward(Action.ALLOW, Peer(unidentified=True, hosts=("api.example.com",)))
    assert not find_specs(write_network_policies(resolver))
    [loss] = [each for each in resolver.losses if each.rule == "shop/out"]
    assert (loss.effect, loss.message) == (Effect.STRICTER, "the host api.example.com can't be said: left out")
