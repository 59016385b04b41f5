"""The index never changes a decision, and finds few candidates among many unrelated rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Workload
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace, evaluate
from shared.model.policy.matching import CompiledRule, compile_rule
from shared.model.policy.party import Party
from shared.model.policy.rule_index import RuleIndex
from shared.model.policy.rules import Action, Direction, NamespaceState, Peer, PortRange, Rule
from tests.shared.model.policy.scenarios import NAMESPACES, Scenario, rules, scenarios, states

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Plain:
    """Every rule is a candidate: the evaluation as it is described."""

    def __init__(self, index: RuleIndex) -> None:
        self.rules = index.rules

    def find_candidates(self, *, own: Party, peer: Party, port: int) -> Iterator[CompiledRule]:
        yield from self.rules


def make_plain(policy: NamespacePolicy) -> NamespacePolicy:
    denies = {direction: Plain(index) for direction, index in policy.denies.items()}
    allows = {direction: Plain(index) for direction, index in policy.allows.items()}
    return replace(policy, denies=cast("Any", denies), allows=cast("Any", allows))


@st.composite
def many_rules(draw: st.DrawFn) -> tuple[Rule, ...]:
    """Rules of all shapes, with networks of all lengths and ranges of ports."""
    found: list[Rule] = []
    for number in range(draw(st.integers(min_value=0, max_value=60))):
        rule = draw(rules(name=f"r{number}"))
        if draw(st.booleans()):
            base, length = draw(st.sampled_from(("198.18.1.2", "2001:db8::2"))), draw(st.integers(0, 32))
            network = ipaddress.ip_network((base, length), strict=False)
            rule = Rule(
                name=rule.name,
                action=rule.action,
                direction=rule.direction,
                workloads=rule.workloads,
                peers=(*rule.peers, Peer(unidentified=True, cidrs=(str(network), "203.0.113.0/24"))),
                ports=(PortRange(first=draw(st.integers(1, 500)), last=draw(st.integers(500, 65535))),),
            )
        found.append(rule)
    return tuple(found)


@many
@given(st.data(), scenarios())
def test_every_decision_is_that_of_the_plain_evaluation(data: st.DataObject, scenario: Scenario) -> None:
    for namespace in NAMESPACES:
        state = data.draw(states(namespace))
        state = NamespaceState(
            namespace=namespace, mode=state.mode, approvals=state.approvals, labels=state.labels,
            group_label=state.group_label, rules=data.draw(many_rules()),
        )  # fmt: skip
        scenario = replace(scenario, states={**scenario.states, namespace: state})
    source, destination = scenario.policy_of(scenario.source), scenario.policy_of(scenario.destination)

    def decide(source_policy: NamespacePolicy | None, destination_policy: NamespacePolicy | None) -> object:
        return evaluate(
            direction=scenario.direction,
            source=scenario.source,
            destination=scenario.destination,
            port=scenario.port,
            source_policy=source_policy,
            destination_policy=destination_policy,
        )

    plain = decide(source and make_plain(source), destination and make_plain(destination))
    assert decide(source, destination) == plain


def make_index(rules: Iterable[CompiledRule]) -> RuleIndex:
    index = RuleIndex()
    for rule in rules:
        index.add(rule)
    for _ in index.freeze_in_steps():
        pass
    return index


def candidates(index: RuleIndex, peer: Party, *, port: int = 443, account: str = "web") -> list[str]:
    own = Party(workload=Workload(namespace="shop", service_account=account))
    return [each.rule.name for each in index.find_candidates(own=own, peer=peer, port=port)]


def test_rules_of_other_workloads_peers_ports_and_networks_arent_candidates() -> None:
    def rule(number: int, **changes: Any) -> CompiledRule:
        return compile_rule("shop", Rule(name=f"r{number}", action=Action.ALLOW, **changes))

    networks = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(500)]
    index = make_index(
        [
            *(rule(n, peers=(Peer(unidentified=True, cidrs=(networks[n],)),)) for n in range(500)),
            *(rule(n, peers=(Peer(namespace=f"n{n}"),)) for n in range(500, 1000)),
            *(rule(n, peers=(Peer(namespace="bank", service_account=f"s{n}"),)) for n in range(1000, 1500)),
            *(rule(n, workloads=(f"w{n}",)) for n in range(1500, 2000)),
            *(rule(n, ports=(PortRange(first=n, last=n + 10),)) for n in range(2000, 2500)),
            *(rule(n, peers=(Peer(spiffe_id=f"spiffe://partner.example/a{n}/*"),)) for n in range(2500, 3000)),
            rule(3000),
        ]
    )
    stranger = Party(address=ipaddress.ip_address("10.1.7.9"))
    assert candidates(index, stranger) == ["r263", "r3000"]
    member = Party(workload=Workload(namespace="bank", service_account="s1234"))
    assert candidates(index, member) == ["r1234", "r3000"]
    assert candidates(index, Party(workload=Workload(namespace="n600", service_account="x"))) == ["r600", "r3000"]
    assert candidates(index, stranger, account="w1999") == ["r263", "r1999", "r3000"]
    assert len(candidates(index, stranger, port=2100)) == 2 + 11
    foreign = Party(foreign=ForeignIdentity(trust_domain="partner.example", path="/a2700/b/c"))
    assert candidates(index, foreign) == ["r2700", "r3000"]


def test_candidates_come_in_the_rules_order_however_many_share_a_key() -> None:
    index = make_index([compile_rule("shop", Rule(name=f"r{n}", action=Action.DENY)) for n in range(300)])
    assert candidates(index, Party()) == [f"r{n}" for n in range(300)]
    assert candidates(make_index([]), Party()) == []


def test_an_index_that_is_given_up_holds_nothing_after_short_steps() -> None:
    peers = (Peer(unidentified=True, cidrs=("10.0.0.0/8",)), Peer(namespace="bank"))
    index = make_index([compile_rule("shop", Rule(name=f"r{n}", action=Action.ALLOW, peers=peers)) for n in range(600)])
    assert candidates(index, Party(address=ipaddress.ip_address("10.0.0.1")))
    assert sum(1 for _ in index.clear_in_steps()) >= 3
    assert index.rules == []
    for table in (index._own, index._peers, index._addresses[4]._by_shift[24]):
        assert not table._few
        assert not table._many


def test_a_policy_is_compiled_into_one_index_for_each_action_and_direction() -> None:
    state = NamespaceState(namespace="shop", rules=(Rule(name="r", action=Action.DENY, direction=Direction.EGRESS),))
    policy = compile_namespace(state)
    assert [len(policy.denies[each].rules) for each in (Direction.EGRESS, Direction.INGRESS)] == [1, 0]
    assert [len(policy.allows[each].rules) for each in (Direction.EGRESS, Direction.INGRESS)] == [0, 0]
