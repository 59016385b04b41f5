"""The evaluator: its order as a table, its promises as properties over arbitrary rules and parties."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.model.identity.foreign import ForeignIdentity, is_matched
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.evaluate import Party, Verdict, compile_namespace, evaluate, mesh_group
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import (
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PortRange,
    Requirement,
    Rule,
    WorkloadLabels,
)
from tests.shared.model.policy.scenarios import FOREIGNERS, NAMESPACES, PATTERNS, Scenario, rules, scenarios

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MARKED = ("program", "sidecar")  # Far ends that a certificate proves to be a member.
UNMARKED = ("sidecar", "member", "stranger")  # Far ends that show no program.
EXPLICIT = (Mode.EXPLICIT,)

# ---- properties ------------------------------------------------------------------------------------------------------


@many
@given(scenarios(shapes=("program", "stranger", "foreign")), rules(action=Action.ALLOW, name="the-rule"))
def test_a_matching_deny_rule_always_wins(scenario: Scenario, rule: Rule) -> None:
    """Whatever a rule allows, the same rule as deny refuses, whichever rules stand before it."""
    deny_rule = msgspec.structs.replace(rule, name="the-deny", action=Action.DENY)
    for namespace, state in scenario.states.items():
        bare = msgspec.structs.replace(state, rules=())
        alone = replace(scenario, states={**scenario.states, namespace: bare})
        if alone.with_rule(namespace, rule).decide().rule != f"{namespace}/the-rule":
            continue
        verdict = scenario.with_rule(namespace, rule).with_rule(namespace, deny_rule).decide()
        assert (verdict.allowed, verdict.reason) == (False, Reason.DENY_RULE)


@many
@given(scenarios())
def test_a_deny_rule_without_conditions_refuses_everything(scenario: Scenario) -> None:
    own = scenario.own().workload
    assert own is not None
    everything = Rule(name="nothing-goes", action=Action.DENY, direction=scenario.direction)
    verdict = scenario.with_rule(own.namespace, everything).decide()
    assert (verdict.allowed, verdict.would_deny, verdict.reason) == (False, False, Reason.DENY_RULE)


@many
@given(scenarios(modes=EXPLICIT, shapes=UNMARKED))
def test_explicit_never_allows_an_unidentified_peer_without_a_rule_that_names_it(scenario: Scenario) -> None:
    verdict = scenario.decide()
    if not verdict.allowed:
        return
    assert verdict.reason is Reason.ALLOW_RULE
    namespace, _, name = verdict.rule.partition("/")
    named = [rule for rule in scenario.states[namespace].rules if rule.name == name and rule.action is Action.ALLOW]
    assert any(peer.unidentified for rule in named for peer in rule.peers)
    assert scenario.far() == Party(address=scenario.far().address)


@many
@given(scenarios(modes=EXPLICIT, shapes=UNMARKED))
def test_explicit_without_such_rules_refuses_every_unidentified_peer(scenario: Scenario) -> None:
    for namespace, state in scenario.states.items():
        kept = tuple(rule for rule in state.rules if not any(peer.unidentified for peer in rule.peers))
        changed = msgspec.structs.replace(state, rules=kept)
        scenario = replace(scenario, states={**scenario.states, namespace: changed})
    assert not scenario.decide().allowed


@many
@given(scenarios(modes=EXPLICIT))
def test_explicit_never_allows_an_end_that_isnt_approved(scenario: Scenario) -> None:
    """The own end always needs an approved program; the far end, too, unless it is a stranger whom a rule names."""
    if not scenario.decide().allowed:
        return
    for party in (scenario.source, scenario.destination):
        if party.is_pending or (party is scenario.far() and party.workload is None):
            continue
        policy = scenario.policy_of(party)
        assert policy is not None
        assert party.workload is not None
        assert party.program is not None
        assert policy.find_approval(party.workload, party.program) is not None


@many
@given(scenarios())
def test_permissive_denies_only_by_a_deny_rule_or_for_an_explicit_far_end_without_mtls(scenario: Scenario) -> None:
    verdict = scenario.decide()
    if verdict.mode is Mode.EXPLICIT or verdict.allowed:
        return
    if verdict.reason is Reason.DENY_RULE:
        assert verdict.rule
        return
    far = scenario.policy_of(scenario.destination)
    assert far is not None
    assert (verdict.reason, scenario.direction) == (Reason.MTLS_UNAVAILABLE, Direction.EGRESS)
    assert far.state.mode is Mode.EXPLICIT


@many
@given(scenarios(), st.sampled_from(NAMESPACES), rules(action=Action.ALLOW, name="added"))
def test_adding_an_allow_rule_never_turns_an_allow_into_a_deny(scenario: Scenario, namespace: str, rule: Rule) -> None:
    before, after = scenario.decide(), scenario.with_rule(namespace, rule).decide()
    assert after.allowed or not before.allowed
    if before.allowed:
        assert before.would_deny or not after.would_deny


@many
@given(scenarios(), st.sampled_from(NAMESPACES), rules(action=Action.DENY, name="added"))
def test_adding_a_deny_rule_never_turns_a_deny_into_an_allow(scenario: Scenario, namespace: str, rule: Rule) -> None:
    before, after = scenario.decide(), scenario.with_rule(namespace, rule).decide()
    assert before.allowed or not after.allowed


@many
@given(scenarios(modes=EXPLICIT, shapes=MARKED))
def test_a_member_that_leaves_its_mark_at_home_gains_nothing_in_explicit_mode(scenario: Scenario) -> None:
    far = scenario.far()
    only_sidecar = Party(workload=far.workload, address=far.address, listed=far.workload)
    nothing = Party(address=far.address, listed=far.workload)
    for less in (only_sidecar, nothing):
        assert not scenario.with_far(less).decide().allowed


@many
@given(scenarios(shapes=MARKED))
def test_a_deny_rule_that_holds_for_a_member_holds_when_it_drops_its_certificate(scenario: Scenario) -> None:
    if scenario.decide().reason is Reason.DENY_RULE:
        nothing = Party(address=scenario.far().address, listed=scenario.far().workload)
        assert scenario.with_far(nothing).decide().reason is Reason.DENY_RULE


@many
@given(scenarios(shapes=("stranger",), modes=EXPLICIT), st.sampled_from(NAMESPACES))
def test_being_listed_never_turns_a_deny_into_an_allow_in_explicit_mode(scenario: Scenario, namespace: str) -> None:
    """Addresses only ever restrict."""
    listed = Party(address=scenario.far().address, listed=Workload(namespace=namespace, service_account="web"))
    assert scenario.decide().allowed or not scenario.with_far(listed).decide().allowed


@many
@given(scenarios())
def test_a_verdict_is_whole(scenario: Scenario) -> None:
    """It names a rule exactly when a rule decided, is marked only when allowed, and carries the own side's version."""
    verdict = scenario.decide()
    own = scenario.policy_of(scenario.own())
    assert own is not None
    assert bool(verdict.rule) == (verdict.reason in {Reason.ALLOW_RULE, Reason.DENY_RULE})
    assert not (verdict.would_deny and not verdict.allowed)
    assert not (verdict.would_deny and verdict.mode is Mode.EXPLICIT)
    assert (verdict.mode, verdict.policy_version) == (own.state.mode, own.state.version)
    if verdict.allowed and not verdict.would_deny:
        assert verdict.reason in {Reason.ALLOW_RULE, Reason.SAME_GROUP}
    assert verdict == scenario.decide()


@many
@given(scenarios(directions=(Direction.EGRESS,), shapes=("program",)))
def test_a_pending_destination_is_refused_early_only_if_it_is_refused_later(scenario: Scenario) -> None:
    """The first look, before the tunnel is dialled, never refuses what a known program would have been allowed."""
    far = scenario.far()
    pending = scenario.with_far(msgspec.structs.replace(far, program=None, is_pending=True)).decide()
    assert pending.allowed or not scenario.decide().allowed


@many
@given(scenarios(directions=(Direction.EGRESS,), shapes=("foreign",)))
def test_a_foreign_destination_is_refused_early_only_if_it_is_refused_later(scenario: Scenario) -> None:
    """The same before a foreign peer is dialled: nothing but its address is known of it then."""
    pending = scenario.with_far(Party(address=scenario.far().address, is_pending=True)).decide()
    assert pending.allowed or not scenario.decide().allowed


@many
@given(scenarios(modes=EXPLICIT, shapes=("foreign",)), st.one_of(st.none(), st.sampled_from(NAMESPACES)))
def test_explicit_allows_a_foreign_peer_by_its_spiffe_id_alone(scenario: Scenario, listed: str | None) -> None:
    """Not by an address, a namespace, a rule without peers or a mesh group, wherever the directory lists it."""
    if listed and scenario.direction is Direction.INGRESS:
        workload = Workload(namespace=listed, service_account="web")
        scenario = scenario.with_far(msgspec.structs.replace(scenario.far(), listed=workload))
    verdict = scenario.decide()
    if not verdict.allowed:
        return
    assert verdict.reason is Reason.ALLOW_RULE
    namespace, _, name = verdict.rule.partition("/")
    foreign = scenario.far().foreign
    assert foreign is not None
    named = [rule for rule in scenario.states[namespace].rules if rule.name == name and rule.action is Action.ALLOW]
    patterns = [peer.spiffe_id for rule in named for peer in rule.peers if peer.spiffe_id]
    assert any(is_matched(pattern, foreign) for pattern in patterns)


@many
@given(scenarios(shapes=("program", "sidecar", "member", "stranger")), st.sampled_from(PATTERNS))
def test_a_rule_for_a_foreign_peer_changes_nothing_for_any_other(scenario: Scenario, pattern: str) -> None:
    for action in Action:
        for direction in Direction:
            rule = Rule(name="foreign", action=action, direction=direction, peers=(Peer(spiffe_id=pattern),))
            for namespace in NAMESPACES:
                assert scenario.with_rule(namespace, rule).decide() == scenario.decide()


@many
@given(scenarios(shapes=("program",), directions=(Direction.INGRESS,)), st.sampled_from(FOREIGNERS))
def test_a_deny_rule_that_holds_for_a_member_holds_when_it_shows_a_foreign_certificate_instead(
    scenario: Scenario, foreign: ForeignIdentity
) -> None:
    if scenario.decide().reason is Reason.DENY_RULE:
        disguised = Party(address=scenario.far().address, listed=scenario.far().workload, foreign=foreign)
        assert scenario.with_far(disguised).decide().reason is Reason.DENY_RULE


def test_a_party_is_not_foreign_and_ours_at_once() -> None:
    foreign = FOREIGNERS[0]
    for ours in (
        {"workload": Workload(namespace="shop", service_account="web")},
        {"program": Program(digest="a" * 64)},
        {"is_pending": True},
    ):
        with pytest.raises(ValueError, match="foreign"):
            Party(foreign=foreign, **ours)


# ---- the table -------------------------------------------------------------------------------------------------------

WEB, DB = Workload(namespace="shop", service_account="web"), Workload(namespace="shop", service_account="db")
TELLER = Workload(namespace="bank", service_account="teller")
CURL, SERVER, OTHER = Program(digest="a" * 64), Program(digest="b" * 64), Program(digest="c" * 64)
PYTHON = Program(digest="d" * 64)
SCRIPT = Program(digest="d" * 64, main="e" * 64)
HERE, THERE = ipaddress.ip_address("198.18.0.2"), ipaddress.ip_address("198.18.1.3")
OUTSIDE = ipaddress.ip_address("203.0.113.9")

SHOP_APPROVALS = (
    Approval(service_account="web", program=CURL),
    Approval(service_account="web", program=SCRIPT, weak=True),
    Approval(service_account="db", program=SERVER),
)
BANK_APPROVALS = (Approval(service_account="teller", program=CURL),)


def decide(
    *shop_rules: Rule,
    direction: Direction = Direction.INGRESS,
    source: Party,
    destination: Party,
    mode: Mode = Mode.EXPLICIT,
    bank_mode: Mode = Mode.EXPLICIT,
    bank_rules: tuple[Rule, ...] = (),
    port: int = 5432,
    group_label: str = "",
    labels: tuple[WorkloadLabels, ...] = (),
) -> Verdict:
    states = {
        "shop": NamespaceState(
            namespace="shop",
            version=7,
            mode=mode,
            rules=shop_rules,
            approvals=SHOP_APPROVALS,
            group_label=group_label,
            labels=labels,
        ),
        "bank": NamespaceState(
            namespace="bank",
            version=9,
            mode=bank_mode,
            rules=bank_rules,
            approvals=BANK_APPROVALS,
            group_label=group_label,
            labels=tuple(WorkloadLabels(service_account="teller", labels={"team": "red"}) for _ in (1,) if group_label),
        ),
    }
    return Scenario(direction=direction, source=source, destination=destination, port=port, states=states).decide()


def member(workload: Workload, program: Program | None, **more: object) -> Party:
    party = Party(workload=workload, program=program, address=HERE, listed=workload)
    return msgspec.structs.replace(party, **more)


web, db, teller = member(WEB, CURL), member(DB, SERVER), member(TELLER, CURL)
stranger = Party(address=OUTSIDE)
bare_member = Party(address=HERE, listed=WEB)


def allow(*peers: Peer, **more: object) -> Rule:
    return Rule(**{"name": "a", "action": Action.ALLOW, "peers": peers, **more})  # type: ignore[arg-type]


def deny(*peers: Peer, **more: object) -> Rule:
    return Rule(**{"name": "d", "action": Action.DENY, "peers": peers, **more})  # type: ignore[arg-type]


anyone = Peer(unidentified=True, cidrs=("0.0.0.0/0", "::/0"))
bank = Peer(namespace="bank")
teller_curl = Peer(namespace="bank", service_account="teller", program=CURL)
teller_other = Peer(namespace="bank", service_account="teller", program=OTHER)

YES, NO = True, False

TABLE: list[tuple[str, bool, Reason, Verdict]] = [
    ("same namespace, both approved", YES, Reason.SAME_GROUP, decide(source=web, destination=db)),
    ("other namespace, no rule", NO, Reason.NO_RULE, decide(source=teller, destination=db)),
    ("other namespace, allow rule", YES, Reason.ALLOW_RULE, decide(allow(bank), source=teller, destination=db)),
    (
        "allow rule without peers: every approved program",
        YES,
        Reason.ALLOW_RULE,
        decide(allow(), source=teller, destination=db),
    ),
    (
        "allow rule without peers: no stranger",
        NO,
        Reason.PEER_UNIDENTIFIED,
        decide(allow(), source=stranger, destination=db),
    ),
    ("allow rule names the program", YES, Reason.ALLOW_RULE, decide(allow(teller_curl), source=teller, destination=db)),
    (
        "allow rule names another program",
        NO,
        Reason.NO_RULE,
        decide(allow(teller_other), source=teller, destination=db),
    ),
    (
        "allow rule of another port",
        NO,
        Reason.NO_RULE,
        decide(allow(bank, ports=(PortRange(first=1, last=5431),)), source=teller, destination=db),
    ),
    (
        "allow rule of a range with this port",
        YES,
        Reason.ALLOW_RULE,
        decide(allow(bank, ports=(PortRange(first=5000, last=6000),)), source=teller, destination=db),
    ),
    (
        "allow rule of another workload",
        NO,
        Reason.NO_RULE,
        decide(allow(bank, workloads=("web",)), source=teller, destination=db),
    ),
    (
        "allow rule of another own program",
        NO,
        Reason.NO_RULE,
        decide(allow(bank, workloads=("db",), programs=(OTHER,)), source=teller, destination=db),
    ),
    ("unapproved program", NO, Reason.PROGRAM_NOT_APPROVED, decide(source=member(WEB, OTHER), destination=db)),
    (
        "unapproved program, allow rule",
        NO,
        Reason.PROGRAM_NOT_APPROVED,
        decide(allow(Peer()), source=member(WEB, OTHER), destination=db),
    ),
    (
        "approved program in another workload",
        NO,
        Reason.PROGRAM_NOT_APPROVED,
        decide(source=member(DB, CURL), destination=db),
    ),
    (
        "bare interpreter where only a script is approved",
        NO,
        Reason.PROGRAM_NOT_APPROVED,
        decide(source=member(WEB, PYTHON), destination=db),
    ),
    ("approved script", YES, Reason.SAME_GROUP, decide(source=member(WEB, SCRIPT), destination=db)),
    (
        "sidecar says why it names no program",
        NO,
        Reason.SOCKET_SHARED,
        decide(source=member(WEB, None, why_unidentified=Reason.SOCKET_SHARED), destination=db),
    ),
    ("unapproved listener", NO, Reason.LISTENER_NOT_APPROVED, decide(source=web, destination=member(DB, OTHER))),
    (
        "no listener",
        NO,
        Reason.NO_LISTENER,
        decide(source=web, destination=member(DB, None, why_unidentified=Reason.NO_LISTENER)),
    ),
    (
        "unapproved listener, stranger whom a rule would allow",
        NO,
        Reason.LISTENER_NOT_APPROVED,
        decide(allow(anyone), source=stranger, destination=member(DB, OTHER)),
    ),
    ("stranger", NO, Reason.PEER_UNIDENTIFIED, decide(source=stranger, destination=db)),
    (
        "stranger, rule names its address",
        YES,
        Reason.ALLOW_RULE,
        decide(allow(anyone), source=stranger, destination=db),
    ),
    (
        "stranger, rule names other addresses",
        NO,
        Reason.PEER_UNIDENTIFIED,
        decide(allow(Peer(unidentified=True, cidrs=("198.18.0.0/15",))), source=stranger, destination=db),
    ),
    (
        "stranger of unknown address",
        NO,
        Reason.PEER_UNIDENTIFIED,
        decide(allow(anyone), source=Party(), destination=db),
    ),
    (
        "v4-mapped stranger",
        YES,
        Reason.ALLOW_RULE,
        decide(
            allow(Peer(unidentified=True, cidrs=("203.0.113.0/24",))),
            source=Party(address=ipaddress.ip_address("::ffff:203.0.113.9")),
            destination=db,
        ),
    ),
    (
        "member without its mark, rule names everybody",
        NO,
        Reason.PEER_UNIDENTIFIED,
        decide(allow(anyone), source=bare_member, destination=db),
    ),
    (
        "member without its mark, rule names its workload",
        NO,
        Reason.PEER_UNIDENTIFIED,
        decide(allow(Peer(namespace="shop", service_account="web")), source=bare_member, destination=db),
    ),
    (
        "deny rule on a member without its mark",
        NO,
        Reason.DENY_RULE,
        decide(
            deny(Peer(namespace="shop", service_account="web")),
            source=bare_member,
            destination=db,
            mode=Mode.PERMISSIVE,
        ),
    ),
    (
        "deny rule that names a program, member hides it",
        NO,
        Reason.DENY_RULE,
        decide(
            deny(Peer(namespace="shop", service_account="web", program=OTHER)),
            source=bare_member,
            destination=db,
            mode=Mode.PERMISSIVE,
        ),
    ),
    (
        "deny rule that names another program",
        YES,
        Reason.SAME_GROUP,
        decide(deny(Peer(namespace="shop", service_account="web", program=OTHER)), source=web, destination=db),
    ),
    (
        "deny rule on a bare interpreter, whatever it claims to run",
        NO,
        Reason.DENY_RULE,
        decide(
            deny(Peer(namespace="shop", service_account="web", program=PYTHON)),
            source=member(WEB, SCRIPT),
            destination=db,
        ),
    ),
    (
        "deny rule on the listener's interpreter",
        NO,
        Reason.DENY_RULE,
        decide(deny(workloads=("db",), programs=(PYTHON,)), source=web, destination=member(DB, SCRIPT)),
    ),
    (
        "deny rule on strangers",
        NO,
        Reason.DENY_RULE,
        decide(deny(anyone), source=stranger, destination=db, mode=Mode.PERMISSIVE),
    ),
    (
        "deny rule on strangers, identified peer",
        YES,
        Reason.SAME_GROUP,
        decide(deny(anyone), source=web, destination=db),
    ),
    ("deny before allow", NO, Reason.DENY_RULE, decide(allow(bank), deny(bank), source=teller, destination=db)),
    (
        "permissive: unapproved",
        YES,
        Reason.PROGRAM_NOT_APPROVED,
        decide(source=member(WEB, OTHER), destination=db, mode=Mode.PERMISSIVE),
    ),
    (
        "permissive: stranger",
        YES,
        Reason.PEER_UNIDENTIFIED,
        decide(source=stranger, destination=db, mode=Mode.PERMISSIVE),
    ),
    ("permissive: other namespace", YES, Reason.NO_RULE, decide(source=teller, destination=db, mode=Mode.PERMISSIVE)),
    ("egress: same namespace", YES, Reason.SAME_GROUP, decide(direction=Direction.EGRESS, source=web, destination=db)),
    (
        "egress: outside, no rule",
        NO,
        Reason.EGRESS_NOT_ALLOWED,
        decide(direction=Direction.EGRESS, source=web, destination=stranger),
    ),
    (
        "egress: outside, rule",
        YES,
        Reason.ALLOW_RULE,
        decide(allow(anyone, direction=Direction.EGRESS), direction=Direction.EGRESS, source=web, destination=stranger),
    ),
    (
        "egress: outside, unapproved program",
        NO,
        Reason.PROGRAM_NOT_APPROVED,
        decide(
            allow(anyone, direction=Direction.EGRESS),
            direction=Direction.EGRESS,
            source=member(WEB, OTHER),
            destination=stranger,
        ),
    ),
    (
        "egress: an egress rule doesn't reach into the mesh",
        NO,
        Reason.NO_RULE,
        decide(allow(bank, direction=Direction.EGRESS), direction=Direction.EGRESS, source=web, destination=teller),
    ),
    (
        "egress: the destination's ingress rule counts at the source",
        YES,
        Reason.ALLOW_RULE,
        decide(direction=Direction.EGRESS, source=web, destination=teller, bank_rules=(allow(Peer(namespace="shop")),)),
    ),
    (
        "egress: the destination's deny rule counts at the source",
        NO,
        Reason.DENY_RULE,
        decide(
            direction=Direction.EGRESS,
            source=web,
            destination=teller,
            bank_rules=(deny(Peer(namespace="shop")),),
            mode=Mode.PERMISSIVE,
        ),
    ),
    (
        "egress: the source's own deny rule",
        NO,
        Reason.DENY_RULE,
        decide(
            deny(bank, direction=Direction.EGRESS),
            direction=Direction.EGRESS,
            source=web,
            destination=teller,
            bank_rules=(allow(Peer(namespace="shop")),),
        ),
    ),
    (
        "ingress: the source's egress rules aren't asked at the destination",
        YES,
        Reason.ALLOW_RULE,
        decide(
            allow(bank),
            source=teller,
            destination=db,
            bank_rules=(deny(Peer(namespace="shop"), direction=Direction.EGRESS),),
        ),
    ),
    (
        "egress: no tunnel, both permissive",
        YES,
        Reason.MTLS_UNAVAILABLE,
        decide(
            direction=Direction.EGRESS,
            source=web,
            mode=Mode.PERMISSIVE,
            bank_mode=Mode.PERMISSIVE,
            destination=Party(address=THERE, listed=TELLER, why_unidentified=Reason.MTLS_UNAVAILABLE),
        ),
    ),
    (
        "egress: no tunnel, the far end explicit",
        NO,
        Reason.MTLS_UNAVAILABLE,
        decide(
            direction=Direction.EGRESS,
            source=web,
            mode=Mode.PERMISSIVE,
            bank_mode=Mode.EXPLICIT,
            destination=Party(address=THERE, listed=TELLER, why_unidentified=Reason.MTLS_UNAVAILABLE),
        ),
    ),
    (
        "egress: no tunnel, the own end explicit",
        NO,
        Reason.MTLS_UNAVAILABLE,
        decide(
            direction=Direction.EGRESS,
            source=web,
            mode=Mode.EXPLICIT,
            bank_mode=Mode.PERMISSIVE,
            destination=Party(address=THERE, listed=TELLER, why_unidentified=Reason.MTLS_UNAVAILABLE),
        ),
    ),
    (
        "egress: pending program, rule that names one",
        YES,
        Reason.ALLOW_RULE,
        decide(
            direction=Direction.EGRESS,
            source=web,
            destination=Party(workload=TELLER, address=THERE, is_pending=True),
            bank_rules=(allow(Peer(namespace="shop"), workloads=("teller",), programs=(CURL,)),),
        ),
    ),
    (
        "egress: pending program, deny rule that names one waits",
        YES,
        Reason.ALLOW_RULE,
        decide(
            direction=Direction.EGRESS,
            source=web,
            destination=Party(workload=TELLER, address=THERE, is_pending=True),
            bank_rules=(allow(Peer(namespace="shop")), deny(workloads=("teller",), programs=(OTHER,))),
        ),
    ),
    (
        "egress: a pending program isn't a stranger whom a deny rule names",
        YES,
        Reason.ALLOW_RULE,
        decide(
            deny(anyone, direction=Direction.EGRESS),
            direction=Direction.EGRESS,
            source=web,
            destination=Party(workload=TELLER, address=THERE, is_pending=True),
            bank_rules=(allow(Peer(namespace="shop")),),
        ),
    ),
    (
        "group by label: equal values across namespaces",
        YES,
        Reason.SAME_GROUP,
        decide(
            source=teller,
            destination=db,
            group_label="team",
            labels=(WorkloadLabels(service_account="db", labels={"team": "red"}),),
        ),
    ),
    (
        "group by label: other value",
        NO,
        Reason.NO_RULE,
        decide(
            source=teller,
            destination=db,
            group_label="team",
            labels=(WorkloadLabels(service_account="db", labels={"team": "blue"}),),
        ),
    ),
    (
        "group by label: nobody vouches for one",
        NO,
        Reason.NO_RULE,
        decide(
            source=web,
            destination=db,
            group_label="team",
            labels=(WorkloadLabels(service_account="db", labels={"team": "red"}),),
        ),
    ),
    (
        "group by label: nobody vouches for any",
        NO,
        Reason.NO_RULE,
        decide(source=web, destination=db, group_label="team"),
    ),
]


@pytest.mark.parametrize(("allowed", "reason", "verdict"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_table(allowed: bool, reason: Reason, verdict: Verdict) -> None:
    assert (verdict.allowed, verdict.reason) == (allowed, reason)
    assert verdict.would_deny == (allowed and reason not in {Reason.ALLOW_RULE, Reason.SAME_GROUP})


def test_a_verdict_names_rule_mode_version_and_weakness() -> None:
    verdict = decide(allow(bank), source=teller, destination=db)
    assert (verdict.rule, verdict.mode, verdict.policy_version, verdict.weak) == ("shop/a", Mode.EXPLICIT, 7, False)
    assert decide(source=member(WEB, SCRIPT), destination=db).weak


def test_the_deciding_side_brings_its_policy() -> None:
    with pytest.raises(ValueError, match="own namespace policy"):
        evaluate(
            direction=Direction.INGRESS, source=web, destination=db, port=1, source_policy=None, destination_policy=None
        )


def test_an_approval_is_of_one_namespace() -> None:
    policy = compile_namespace(NamespaceState(namespace="shop", approvals=SHOP_APPROVALS))
    assert policy.find_approval(WEB, CURL) is not None
    assert policy.find_approval(Workload(namespace="bank", service_account="web"), CURL) is None


def test_a_group_is_the_namespace_unless_a_label_is_named() -> None:
    by_namespace = compile_namespace(NamespaceState(namespace="shop"))
    assert mesh_group(by_namespace, WEB) == ("namespace", "shop")
    by_label = compile_namespace(NamespaceState(namespace="shop", group_label="team"))
    assert mesh_group(by_label, WEB) is None


@pytest.mark.parametrize("mode", [*Mode])
@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize(
    ("source", "is_elsewhere"),
    [
        (Party(workload=WEB, program=CURL, listed=WEB), False),
        (Party(workload=WEB, program=CURL), False),
        (Party(workload=WEB, program=CURL, listed=TELLER), True),
        (Party(foreign=FOREIGNERS[0], listed=TELLER), True),
        (Party(listed=TELLER), False),  # No certificate: `listed` then narrows rules, as ever.
    ],
)
def test_a_certificate_from_another_workloads_address_is_refused_where_that_is_required(
    source: Party, is_elsewhere: bool, is_required: bool, mode: Mode
) -> None:
    everything = Rule(name="everything", action=Action.ALLOW, peers=(Peer(namespace="shop"),))
    state = NamespaceState(
        namespace="shop", mode=mode, rules=(everything,), requires=(Requirement.MATCHING_ADDRESS,) * is_required
    )
    policy = compile_namespace(state)
    verdict = evaluate(
        direction=Direction.INGRESS,
        source=source,
        destination=Party(workload=WEB, program=CURL),
        port=80,
        source_policy=policy,
        destination_policy=policy,
    )
    assert (verdict.reason is Reason.PEER_WORKLOAD_MISMATCH) is (is_elsewhere and is_required)
    if is_elsewhere and is_required:
        assert not verdict.allowed


# ---- the cloud's metadata address ------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"])
@pytest.mark.parametrize("mode", Mode)
def test_the_metadata_address_is_refused_unless_a_rule_names_it(address: str, mode: Mode) -> None:
    """Permissive mode marks it, so that ``touchmark ready`` tells before the switch. A wide deny rule means it."""
    program = Program(digest="ab" * 32)

    def decide(action: Action, *cidrs: str) -> Verdict:
        peer = Peer(unidentified=True, cidrs=cidrs)
        rule = Rule(name="out", action=action, direction=Direction.EGRESS, peers=(peer,))
        approval = Approval(service_account="web", program=program)
        state = NamespaceState(namespace="shop", mode=mode, rules=(rule,), approvals=(approval,))
        return evaluate(
            direction=Direction.EGRESS,
            source=Party(workload=Workload(namespace="shop", service_account="web"), program=program),
            destination=Party(address=ipaddress.ip_address(address)),
            port=80,
            source_policy=compile_namespace(state),
            destination_policy=None,
        )

    wide = decide(Action.ALLOW, "0.0.0.0/0", "::/0")
    assert (wide.allowed, wide.would_deny, wide.reason) == (
        mode is Mode.PERMISSIVE,
        mode is Mode.PERMISSIVE,
        Reason.EGRESS_NOT_ALLOWED,
    )
    named = decide(Action.ALLOW, "0.0.0.0/0", "169.254.169.254/32", "fd00:ec2::254/128")
    assert (named.allowed, named.reason) == (True, Reason.ALLOW_RULE)
    assert decide(Action.DENY, "0.0.0.0/0", "::/0").reason is Reason.DENY_RULE
