"""One rule's meaning; the evaluator's tests say what follows from it."""

from __future__ import annotations

import ipaddress

import pytest

from shared.model.identity.identity import Workload
from shared.model.policy.matching import Matcher, compile_rule
from shared.model.policy.party import Party
from shared.model.policy.rules import Action, Peer, PortRange, Rule

WEB = Party(workload=Workload(namespace="shop", service_account="web"))


def matcher(source: Party, *, port: int = 443) -> Matcher:
    return Matcher(
        source=source, destination=WEB, port=port, source_identified=False, destination_identified=True
    )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "matches"), [("198.18.0.9", True), ("::ffff:198.18.0.9", True), ("198.20.0.9", False), ("::1", False)]
)
def test_a_stranger_is_matched_by_its_address_a_mapped_one_as_ipv4(address: str, matches: bool) -> None:
    peers = (Peer(unidentified=True, cidrs=("203.0.113.0/24", "198.18.0.0/15")),)
    rule = compile_rule("shop", Rule(name="r", action=Action.ALLOW, peers=peers))
    stranger = Party(address=ipaddress.ip_address(address))
    assert matcher(stranger).allows_ingress(rule) is matches
    assert matcher(stranger).denies_ingress(rule) is matches
    assert rule.qualified_name == "shop/r"


def test_ports_are_ranges_with_both_ends() -> None:
    rule = compile_rule("shop", Rule(name="r", action=Action.DENY, ports=(PortRange(first=80, last=90),)))
    assert [matcher(Party(), port=port).denies_ingress(rule) for port in (79, 80, 90, 91)] == [False, True, True, False]
