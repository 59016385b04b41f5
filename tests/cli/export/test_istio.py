"""Istio's AuthorizationPolicies: principals at the destination, an empty policy that refuses the rest."""

from __future__ import annotations

import msgspec

from cli.export.istio import write_istio_policies
from cli.export.plan import Effect, make_plan
from cli.export.resolving import Resolver
from shared.model.policy.rules import PortRange
from tests.cli.export.world import SHOP, STATES, list_losses, make_resolver, make_selectors


def test_peers_are_principals_namespaces_and_addresses_without_a_certificate() -> None:
    sources = {
        each["metadata"]["annotations"]["touchmark.dev/rule"]: [
            entry["source"] for entry in each["spec"]["rules"][0].get("from", ())
        ]
        for each in write_istio_policies(make_resolver())
        if each["spec"]
    }
    assert sources["shop/from-bank"] == [{"namespaces": ["bank"]}]
    assert sources["shop/from-office"] == [{"notPrincipals": ["*"], "ipBlocks": ["198.51.100.0/24", "2001:db8::/32"]}]
    assert sources["shop/not-the-batch"] == [{"principals": ["cluster.local/ns/bank/sa/batch"]}]
    assert {"principals": ["partner.example/ns/a/sa/b"]} in sources["shop/partner"]
    assert sources["shop/nobody"] == []


def test_the_default_allows_nothing_and_denies_are_denies() -> None:
    [default, *others] = write_istio_policies(make_resolver())
    assert default["spec"] == {}
    actions = {each["metadata"]["annotations"]["touchmark.dev/rule"]: each["spec"]["action"] for each in others}
    assert actions["shop/nobody"] == "DENY"
    assert actions["shop/from-bank"] == "ALLOW"


def test_ranges_are_written_out_up_to_a_bound_and_egress_is_a_loss() -> None:
    wide = msgspec.structs.replace(SHOP.rules[0], ports=(PortRange(first=1, last=1000),))
    states = {**STATES, "shop": msgspec.structs.replace(SHOP, rules=(wide, *SHOP.rules[1:]))}
    resolver = Resolver(plan=make_plan("shop", states), selectors=make_selectors())
    objects = write_istio_policies(resolver)
    assert not [
        each for each in objects if each["metadata"].get("annotations") == {"touchmark.dev/rule": "shop/from-bank"}
    ]
    assert "shop/from-bank" in list_losses(resolver, Effect.STRICTER)
    assert {"shop/not-out", "shop/to-api", "shop"} <= set(list_losses(resolver, Effect.LOOSER))
