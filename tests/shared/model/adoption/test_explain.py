"""What is explained is what is enforced, and what replaying the record gives."""

from __future__ import annotations

from shared.model.adoption.explain import explain
from shared.model.adoption.fixes import FixKind, apply
from shared.model.identity.identity import parse_workload
from shared.model.policy.decision import PartyRecord
from shared.model.policy.evaluate import NamespacePolicy, Verdict, compile_namespace
from shared.model.policy.modes import effective_mode
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import Attempt, replay
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Rule
from sidecar.connection.parties import Parties
from tests.shared.model.adoption.worlds import PROGRAMS, attempt_of, draw_world
from tests.shared.model.policy.records import make_record

WEB = PartyRecord(workload="shop/web", program=str(PROGRAMS[0]))
DB = PartyRecord(workload="shop/db", program=str(PROGRAMS[1]))


class Policies:
    """What a sidecar of one workload has."""

    def __init__(self, workload: str, policies: dict[str, NamespacePolicy]) -> None:
        self.own = policies[workload.partition("/")[0]]
        self.mode = effective_mode(self.own.state, parse_workload(workload))
        self._policies = policies

    def get(self, namespace: str) -> NamespacePolicy | None:
        return self._policies.get(namespace)


def enforce(workload: str, direction: Direction, attempt: Attempt, policies: dict[str, NamespacePolicy]) -> Verdict:
    """Decide as a connection of a workload's sidecar does."""
    parties = Parties(direction, source=("198.18.0.2", 1), destination=("198.18.0.3", attempt.port))
    parties.source, parties.destination = attempt.source, attempt.destination
    source = Policies(workload, policies)
    verdict = parties.evaluate(source)
    assert verdict.mode is source.mode, "what the sidecar acts by and what it decides by is one mode"
    return verdict


def test_explain_is_enforce_is_replay_on_both_sides() -> None:
    asked, modes = 0, set()
    for seed in range(120):
        world = draw_world(seed)
        policies = {name: compile_namespace(state) for name, state in world.states.items()}
        for seen in world.seen:
            explained = explain(seen.source, seen.destination, seen.port, world.states)
            (side,) = [each for each in explained.sides if each.side is seen.direction]
            record = make_record(
                namespace=seen.namespace,
                direction=seen.direction,
                source=seen.source,
                destination=seen.destination,
                port=seen.port,
            )
            own = seen.own.workload or seen.own.listed
            enforced = enforce(own, seen.direction, attempt_of(seen), policies)
            modes.add((world.states[seen.namespace].mode, enforced.mode))
            assert side.verdict == enforced == replay(record, policies), f"world {seed}"
            assert explained.allowed == all(each.verdict.allowed for each in explained.sides)
            asked += 1
    assert asked > 300
    assert len(modes) == 4, "workloads with their namespace's mode and with the other one, of both"


def test_it_says_what_is_missing_for_explicit_mode_and_applying_it_helps() -> None:
    states = {"shop": NamespaceState(namespace="shop", version=3)}
    explained = explain(WEB, DB, 5432, states)
    assert explained.allowed
    assert [(each.side, each.in_explicit) for each in explained.sides] == [
        (Direction.EGRESS, Reason.PROGRAM_NOT_APPROVED),
        (Direction.INGRESS, Reason.PROGRAM_NOT_APPROVED),
    ]
    missing = explained.sides[0].missing
    assert {fix.kind for _, fix in missing} == {FixKind.APPROVE}
    then = explain(WEB, DB, 5432, apply([fix for _, fix in missing], states))
    assert [each.in_explicit for each in then.sides] == [None, None]
    assert then.sides[0].verdict.reason is Reason.SAME_GROUP


def test_of_a_record_only_the_reporters_own_program_is_proposed_for_approval() -> None:
    explained = explain(WEB, DB, 5432, {"shop": NamespaceState(namespace="shop")}, reporter=Direction.INGRESS)
    for side in explained.sides:
        assert {fix.workload for _, fix in side.missing if fix.kind is FixKind.APPROVE} == {DB.workload}
        assert [fix.kind for _, fix in side.missing if WEB.workload in fix.advice] == [FixKind.ADVICE]


def test_a_deny_rule_is_named_and_nothing_is_missing() -> None:
    approvals = tuple(
        Approval(service_account=name, program=program) for name, program in (("web", PROGRAMS[0]), ("db", PROGRAMS[1]))
    )
    rules = (Rule(name="closed", action=Action.DENY, workloads=("db",)),)
    state = NamespaceState(namespace="shop", mode=Mode.EXPLICIT, approvals=approvals, rules=rules)
    explained = explain(WEB, DB, 5432, {"shop": state})
    assert not explained.allowed
    assert {(each.verdict.rule, each.missing) for each in explained.sides} == {("shop/closed", ())}


def test_two_strangers_are_nobodys_connection() -> None:
    outside = PartyRecord(address="192.0.2.7:1", why="peer_unidentified")
    assert explain(outside, outside, 80, {}).sides == ()
