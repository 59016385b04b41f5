"""What drafts say of a connection is what they would say in force, and they change nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from shared.model.policy.decision import Answer, DecisionRecord, DraftVerdict, Ending, Origin, Phase, Transport
from shared.model.policy.evaluate import Party, Verdict
from shared.model.policy.modes import make_modes
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import (
    Action,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PolicyDraft,
    PortRange,
    Requirement,
    Rule,
)
from shared.model.policy.rules import put_draft_in_force as put_in_force
from sidecar.connection.describe import make_record
from sidecar.connection.drafts import judge_by_drafts
from sidecar.connection.parties import Parties
from tests.shared.model.policy.scenarios import NAMESPACES, Scenario, scenarios, states
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, FakePolicies, approve

SOURCE, DESTINATION = ("198.18.0.1", 40000), ("198.18.0.2", 5432)
UNPROVEN = (None, Reason.SOCKET_SHARED, Reason.HOLDERS_UNKNOWN)


@st.composite
def drafts(draw: st.DrawFn) -> dict[str, PolicyDraft]:
    """Drafts of none, one or both of the namespaces."""
    found = {}
    for number, namespace in enumerate(NAMESPACES, 1):
        if draw(st.booleans()):
            state = draw(states(namespace))
            found[namespace] = PolicyDraft(
                number=number,
                mode=draw(st.sampled_from((None, *Mode))),
                group_label=state.group_label,
                rules=state.rules,
                workload_modes=draw(
                    st.sampled_from((None, (), make_modes({"web": Mode.EXPLICIT}), state.workload_modes))
                ),
            )
    return found


def record(
    scenario: Scenario, states: dict[str, NamespaceState], unproven: Reason | None, *, origin: Origin = Origin.UNKNOWN
) -> DecisionRecord:
    """Decide and record a connection as a sidecar does by these states."""
    own = scenario.own().workload
    assert own is not None
    policies = FakePolicies(own.namespace, states)
    parties = Parties(scenario.direction, source=SOURCE, destination=DESTINATION)
    parties.source, parties.destination, parties.port = scenario.source, scenario.destination, scenario.port
    parties.attestation = SimpleNamespace(origin=origin)  # type: ignore[assignment]  # Nothing else of it is asked.
    verdict = parties.evaluate(policies)
    closed = verdict.allowed and unproven is not None and verdict.mode is Mode.EXPLICIT
    connection = SimpleNamespace(
        id="0" * 16, parties=parties, verdict=verdict, detail="", transport=Transport.TUNNEL, tunnel="",
        refusal=unproven if closed else None if verdict.allowed else verdict.reason,
        refused_in_explicit=unproven if verdict.allowed and not closed else None, bytes_sent=0, bytes_received=0,
    )  # fmt: skip
    if verdict.allowed and not closed:
        assert connection.refused_in_explicit is unproven
    return make_record(connection, policies, sidecar="w", phase=Phase.END, ending=Ending.FINISHED, now=0, duration_s=0)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(), drafts(), st.sampled_from(UNPROVEN))
def test_a_drafts_verdict_is_the_one_that_it_gives_in_force_and_nothing_else_changes(
    scenario: Scenario, drafted: dict[str, PolicyDraft], unproven: Reason | None
) -> None:
    beside = {name: msgspec.structs.replace(state, draft=drafted.get(name)) for name, state in scenario.states.items()}
    instead = {
        name: put_in_force(state, drafted[name]) if name in drafted else state
        for name, state in scenario.states.items()
    }
    without = record(scenario, scenario.states, unproven)
    found = record(scenario, beside, unproven)
    assert msgspec.structs.replace(found, draft=UNSET) == without
    if found.draft is UNSET:
        concerned = {
            each.namespace
            for party in (scenario.source, scenario.destination)
            if (each := party.workload or party.listed) is not None
        }
        was_closed = without.reason is unproven and without.answer is Answer.DENY
        assert was_closed or not concerned & set(drafted)
        return
    enforced = record(scenario, instead, unproven if without.answer is Answer.ALLOW else None)
    assert found.draft == DraftVerdict(
        answer=enforced.answer,
        would_deny=enforced.would_deny,
        reason=enforced.reason,
        rule=enforced.rule,
        drafts=found.draft.drafts,
    )
    assert set(found.draft.drafts) <= {f"{name}@{draft.number}" for name, draft in drafted.items()}


DRAFT = PolicyDraft(number=4, rules=(Rule(name="none", action=Action.DENY),))
STATE = approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT)
SHOP = msgspec.structs.replace(STATE, draft=DRAFT)


def make_parties() -> Parties:
    parties = Parties(Direction.EGRESS, source=SOURCE, destination=DESTINATION)
    parties.source = msgspec.structs.replace(parties.source, workload=CLIENT, program=CLIENT_PROGRAM)
    parties.destination = msgspec.structs.replace(parties.destination, workload=SERVER, program=SERVER_PROGRAM)
    return parties


def ask(state: NamespaceState, parties: Parties, refusal: Reason | None = None) -> object:
    policies = FakePolicies("shop", {"shop": state})
    verdict: Verdict | None = parties.evaluate(policies)
    connection = SimpleNamespace(parties=parties, verdict=verdict, refusal=refusal, refused_in_explicit=None)
    return judge_by_drafts(connection, policies, *parties.find_policies(policies))


def test_a_draft_that_denies_is_named_with_its_rule() -> None:
    assert ask(SHOP, make_parties()) == DraftVerdict(
        answer=Answer.DENY, would_deny=False, reason=Reason.DENY_RULE, rule="shop/none", drafts=("shop@4",)
    )


def test_what_failed_for_another_reason_than_policy_has_no_verdict() -> None:
    assert ask(SHOP, make_parties(), Reason.DESTINATION_UNREACHABLE) is UNSET


def require(*requires: Requirement, enforced: tuple[Requirement, ...] = ()) -> NamespaceState:
    draft = PolicyDraft(number=1, requires=requires)
    return msgspec.structs.replace(STATE, requires=enforced, draft=draft)


def test_a_required_origin_is_judged_by_what_was_attested() -> None:
    parties = make_parties()
    found: object = None
    for origin, answer in ((Origin.CONTAINER, Answer.ALLOW), (Origin.EXEC, Answer.DENY), (Origin.UNKNOWN, Answer.DENY)):
        parties.attestation = SimpleNamespace(origin=origin)  # type: ignore[assignment]
        found = ask(require(Requirement.CONTAINER_ORIGIN), parties)
        assert isinstance(found, DraftVerdict)
        assert found.answer is answer
    assert isinstance(found, DraftVerdict)
    assert found.reason is Reason.PROCESS_ORIGIN


def test_what_nobody_has_looked_for_isnt_known() -> None:
    assert ask(require(Requirement.OWN_SOCKETS), make_parties()) is UNSET
    known = ask(require(Requirement.OWN_SOCKETS, enforced=(Requirement.OWN_SOCKETS,)), make_parties())
    assert isinstance(known, DraftVerdict)
    refused = make_parties()
    refused.source = msgspec.structs.replace(refused.source, program=None, why_unidentified=Reason.PROCESS_ORIGIN)
    assert ask(require(enforced=(Requirement.CONTAINER_ORIGIN,)), refused) is UNSET
    kept = ask(require(Requirement.CONTAINER_ORIGIN, enforced=(Requirement.CONTAINER_ORIGIN,)), refused)
    assert isinstance(kept, DraftVerdict)
    assert (kept.answer, kept.reason) == (Answer.DENY, Reason.PROCESS_ORIGIN)


def test_names_that_nobody_has_resolved_are_no_verdict() -> None:
    def allow(*hosts: str) -> tuple[Rule, ...]:
        peers = (Peer(unidentified=True, hosts=hosts),)
        return (Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=peers),) if hosts else ()

    outside = make_parties()
    outside.destination = Party(address=outside.destination.address)

    def ask_about(enforced: tuple[Rule, ...], drafted: tuple[Rule, ...]) -> object:
        draft = PolicyDraft(number=1, rules=drafted)
        return ask(msgspec.structs.replace(STATE, rules=enforced, draft=draft), outside)

    assert ask_about((), allow("api.example.com")) is UNSET
    for known in (ask_about(allow("a.example.com"), ()), ask_about(allow("a.example.com"), allow("a.example.com"))):
        assert isinstance(known, DraftVerdict)
        assert (known.answer, known.reason) == (Answer.DENY, Reason.EGRESS_NOT_ALLOWED)
    outside.destination = msgspec.structs.replace(outside.destination, why_unidentified=Reason.HOST_NOT_RESOLVED)
    assert ask_about(allow("a.example.com", "b.example.com"), allow("b.example.com")) is UNSET
    known = ask_about(allow("a.example.com"), ())
    assert isinstance(known, DraftVerdict)
    assert known.reason is Reason.EGRESS_NOT_ALLOWED, "a draft without hosts has nothing to look up"


def test_names_that_were_looked_up_for_others_alone_are_no_verdict() -> None:
    """By the draft in force the name would be asked for, and may have the address."""

    def allow(*ports: PortRange, workloads: tuple[str, ...] = ()) -> Rule:
        peers = (Peer(unidentified=True, hosts=("a.example.com",)),)
        return Rule(
            name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=peers, ports=ports, workloads=workloads
        )

    outside = make_parties()
    outside.destination = Party(address=outside.destination.address)
    any_address = Peer(unidentified=True, cidrs=("0.0.0.0/0",))
    everywhere = Rule(name="all", action=Action.ALLOW, direction=Direction.EGRESS, peers=(any_address,))
    for enforced in ((allow(PortRange(first=1, last=1)),), (allow(workloads=("other",)),), (everywhere, allow())):
        draft = PolicyDraft(number=1, rules=(allow(),))
        assert ask(msgspec.structs.replace(STATE, rules=enforced, draft=draft), outside) is UNSET
