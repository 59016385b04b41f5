"""What a policy says in vain is named, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from shared.model.adoption.lint import Level, LintCode, Surroundings, _covers, lint
from shared.model.identity.program import Program
from shared.model.policy.evaluate import compile_namespace
from shared.model.policy.modes import make_modes
from shared.model.policy.replay import judge
from shared.model.policy.rules import Action, Direction, Mode, NamespaceState, Peer, PortRange, Rule
from tests.shared.model.adoption.worlds import NAMESPACES, _draw_rule, attempt_of, draw_connection, draw_world

AROUND = Surroundings(
    namespaces=frozenset({"shop", "bank"}),
    workloads=frozenset({"shop/web", "shop/db", "bank/teller"}),
    services={"198.18.9.9": "shop/db"},
    members={"198.18.0.2": "shop/web"},
    approvals={"shop/web": frozenset({Program(digest="a" * 64)})},
)
TELLER = Peer(namespace="bank", service_account="teller")


def allow(name: str = "in", **parts: Any) -> Rule:
    return msgspec.structs.replace(Rule(name=name, action=Action.ALLOW, peers=(TELLER,)), **parts)


def outward(*cidrs: str, **parts: Any) -> Rule:
    return allow(direction=Direction.EGRESS, peers=(Peer(unidentified=True, cidrs=cidrs),), **parts)


def named(*hosts: str, **parts: Any) -> Rule:
    return allow(direction=Direction.EGRESS, peers=(Peer(unidentified=True, hosts=hosts),), **parts)


def find(*rules: Rule, around: Surroundings = AROUND) -> list[tuple[Level, LintCode]]:
    return [(each.level, each.code) for each in lint(NamespaceState(namespace="shop", rules=rules), around)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (allow(workloads=("web",)), None),
        (allow(peers=(Peer(namespace="bnak"),)), (Level.ERROR, LintCode.UNKNOWN_NAMESPACE)),
        (allow(peers=(Peer(namespace="planned"),)), (Level.WARNING, LintCode.UNKNOWN_NAMESPACE)),
        (allow(workloads=("wbe",)), (Level.ERROR, LintCode.UNKNOWN_WORKLOAD)),
        (allow(workloads=("planned",)), (Level.WARNING, LintCode.UNKNOWN_WORKLOAD)),
        (
            allow(peers=(Peer(namespace="bank", service_account="tellr"),)),
            (Level.ERROR, LintCode.UNKNOWN_WORKLOAD),
        ),
        (
            allow(workloads=("web",), programs=(Program(digest="b" * 64),)),
            (Level.WARNING, LintCode.UNAPPROVED_PROGRAM),
        ),
        (allow(workloads=("web",), programs=(Program(digest="a" * 64),)), None),
        (outward("198.18.9.9/32"), (Level.ERROR, LintCode.SERVICE_ADDRESS)),
        (outward("198.18.9.0/24"), (Level.WARNING, LintCode.SERVICE_ADDRESS)),
        (outward("192.0.2.0/24"), None),
        (outward("0.0.0.0/0"), None),
        (named("api.example.com"), None),
        (named("db.shop.svc.cluster.local"), (Level.WARNING, LintCode.CLUSTER_HOST)),
        (named("db.shop.svc"), (Level.WARNING, LintCode.CLUSTER_HOST)),
        (named("intranet"), (Level.WARNING, LintCode.SINGLE_LABEL_HOST)),
        (
            allow(peers=(Peer(unidentified=True, cidrs=("198.18.0.2/32",)),)),
            (Level.ERROR, LintCode.MEMBER_ADDRESS),
        ),
        (allow(direction=Direction.EGRESS), (Level.ERROR, LintCode.NEVER_MATCHES)),
        (allow(direction=Direction.EGRESS, peers=()), (Level.ERROR, LintCode.NEVER_MATCHES)),
    ],
)
def test_a_rule_by_itself(rule: Rule, expected: tuple[Level, LintCode] | None) -> None:
    assert find(rule) == ([expected] if expected else [])


def test_a_misspelt_name_is_answered_with_the_one_that_was_meant() -> None:
    (finding,) = lint(NamespaceState(namespace="shop", rules=(allow(workloads=("wbe",)),)), AROUND)
    assert (finding.rule, finding.hint) == ("in", "did you mean web?")


def test_what_is_not_known_is_not_judged_by() -> None:
    assert find(allow(workloads=("wbe",), peers=(Peer(namespace="bnak"),)), around=Surroundings()) == []


def test_rules_beside_one_another() -> None:
    wide, narrow = allow("wide"), allow("narrow", workloads=("web",), ports=(PortRange(first=80, last=80),))
    assert find(wide, narrow) == find(narrow, wide) == [(Level.WARNING, LintCode.REDUNDANT)]
    assert find(wide, allow("again")) == [(Level.WARNING, LintCode.REDUNDANT)], "one of two that say the same"
    deny = Rule(name="no", action=Action.DENY)
    assert find(narrow, deny) == [(Level.ERROR, LintCode.SHADOWED)]
    same = msgspec.structs.replace(narrow, name="no", action=Action.DENY)
    assert find(narrow, same) == [(Level.ERROR, LintCode.CONTRADICTORY)]
    assert find(narrow, allow("other", workloads=("db",))) == []


def test_a_rule_that_is_said_to_cover_another_one_matches_whatever_that_matches() -> None:
    """By the evaluator, over drawn rules and connections."""
    rng = random.Random(11)
    tried = 0
    for seed in range(60):
        world = draw_world(seed)
        seen = [each for number in range(20) for each in draw_connection(rng, world.states, number)]
        rules = [_draw_rule(rng, number) for number in range(12)]
        for wide in rules:
            for narrow in rules:
                if wide is narrow or wide.direction is not narrow.direction or wide.action is not narrow.action:
                    continue
                if not _covers(wide, narrow):
                    continue
                tried += 1
                for each in seen:
                    assert not (_matches(world.states, narrow, each) and not _matches(world.states, wide, each))
    assert tried > 50


def _matches(states: dict[str, NamespaceState], rule: Rule, each: object) -> bool:
    from shared.model.adoption.seen import Seen

    assert isinstance(each, Seen)
    policies = {name: compile_namespace(msgspec.structs.replace(states[name], rules=(rule,))) for name in NAMESPACES}
    return bool(judge(attempt_of(each), policies).rule)


def test_a_rule_for_the_metadata_address_isnt_redundant_beside_one_for_the_internet() -> None:
    everywhere = outward("0.0.0.0/0", "::/0", name="internet")
    assert find(everywhere, outward("169.254.169.254/32", name="metadata")) == []
    assert find(everywhere, outward("198.51.100.7/32", name="host")) == [(Level.WARNING, LintCode.REDUNDANT)]


def test_hosts_are_covered_by_the_same_hosts_or_by_every_address_and_never_by_some() -> None:
    api, both = named("api.example.com"), named("api.example.com", "other.example")
    assert _covers(both, api)
    assert not _covers(api, both)
    assert _covers(outward("0.0.0.0/0", "::/0"), api)
    assert not _covers(outward("0.0.0.0/0"), api)
    assert not _covers(outward("192.0.2.0/24"), api)
    assert not _covers(api, outward("192.0.2.7/32"))


def test_a_mode_of_a_workload_that_isnt_there_is_named() -> None:
    modes = make_modes({"web": Mode.EXPLICIT, "wbe": Mode.EXPLICIT})
    (found,) = lint(NamespaceState(namespace="shop", workload_modes=modes), AROUND)
    assert (found.level, found.code, found.rule) == (Level.ERROR, LintCode.UNKNOWN_WORKLOAD, "")
    assert "shop/wbe" in found.message
    assert "web" in found.hint
    assert lint(NamespaceState(namespace="shop", workload_modes=modes), Surroundings()) == ()
