"""What stands against explicit mode, in one round, each with what changes it."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.adoption.blockers import find_blockers, find_namespaces
from shared.model.adoption.fixes import FixKind, apply
from shared.model.adoption.seen import Seen
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import judge
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Rule
from tests.shared.model.adoption.worlds import (
    NAMESPACES,
    PROGRAMS,
    attempt_of,
    compiled_as_is,
    draw_world,
    refuses,
    report,
)

CURL, NGINX = PROGRAMS[0], PROGRAMS[1]
TELLER = PartyRecord(address="198.18.0.3:40000", workload="bank/teller", listed="bank/teller", program=str(CURL))
WEB = PartyRecord(address="198.18.0.2:80", workload="shop/web", listed="shop/web", program=str(NGINX))
WORLDS = 1_000


def see(source: PartyRecord = TELLER, destination: PartyRecord = WEB, **changes: object) -> Seen:
    states = {name: NamespaceState(namespace=name) for name in ("shop", "bank")}
    seen = report(states, Direction.INGRESS, "shop", source, destination, 80, connection="c")
    return msgspec.structs.replace(seen, **changes)


def test_no_world_is_without_blockers_that_has_a_connection_which_explicit_mode_would_refuse() -> None:
    clear = 0
    for seed in range(WORLDS):
        world = draw_world(seed)
        for namespace in (NAMESPACES[seed % 3],):
            own = [each for each in world.seen if each.namespace == namespace]
            found = find_blockers(own, world.states, namespace)
            refused = {refuses(world.states, namespace, each) for each in own} - {None, Reason.DENY_RULE}
            assert bool(found.blockers) == bool(refused), f"world {seed}, {namespace}"
            clear += not found.blockers
    assert clear > WORLDS // 8, "worlds that are too hard prove nothing"


def test_every_fix_that_can_be_applied_lets_its_connections_pass() -> None:
    fixed = 0
    for seed in range(WORLDS // 4):
        world = draw_world(seed)
        for namespace in (NAMESPACES[seed % 3],):
            own = [each for each in world.seen if each.namespace == namespace]
            before = find_blockers(own, world.states, namespace)
            fixes = [each.fix for each in before.blockers]
            after = find_blockers(own, apply(fixes, world.states), namespace)
            left = [each for each in after.blockers if each.fix.kind is not FixKind.ADVICE]
            assert not left, f"world {seed}, {namespace}: a second round"
            assert len(after.blockers) <= sum(each.fix.kind is FixKind.ADVICE for each in before.blockers)
            for each in own:
                if refuses(world.states, namespace, each) in (None, Reason.DENY_RULE):
                    continue
                then = refuses(apply(fixes, world.states), namespace, each)
                if then is not None:
                    alone = find_blockers([each], world.states, namespace).blockers
                    assert any(blocker.fix.kind is FixKind.ADVICE for blocker in alone), f"world {seed}: {then}"
                fixed += then is None
    assert fixed > WORLDS // 16


def test_whichever_sidecar_switches_first_nothing_that_was_seen_is_refused_in_between() -> None:
    """Each side judges by its own workload's mode and the states that it has, so that a switch needs no order."""
    switched = 0
    for seed in range(WORLDS // 4):
        world, namespace = draw_world(seed), NAMESPACES[seed % 3]
        own = [each for each in world.seen if each.namespace == namespace]
        first = {**world.states, namespace: msgspec.structs.replace(world.states[namespace], workload_modes=())}
        states = apply([each.fix for each in find_blockers(own, first, namespace).blockers], first)
        if find_blockers(own, states, namespace).blockers:
            continue
        before, after = (
            {**states, namespace: msgspec.structs.replace(states[namespace], mode=mode)}
            for mode in (Mode.PERMISSIVE, Mode.EXPLICIT)
        )
        for each in world.seen:
            old, new = (
                judge(attempt_of(each), {name: compiled_as_is(state) for name, state in states.items()})
                for states in (before, after)
            )
            if each.namespace == namespace:
                refused = {verdict.reason for verdict in (old, new) if not verdict.allowed}
                assert refused <= {Reason.DENY_RULE}, f"world {seed}"
                switched += 1
            else:
                assert old == new, f"world {seed}: the other end's mode doesn't matter here"
    assert switched > WORLDS // 16


def test_one_round_shows_both_programs_and_the_rule() -> None:
    states = {"shop": NamespaceState(namespace="shop"), "bank": NamespaceState(namespace="bank")}
    found = find_blockers([see(), see(connection="d")], states, "shop")
    assert [(each.reason, each.is_next, each.count) for each in sorted(found.blockers, key=lambda b: b.reason)] == [
        (Reason.LISTENER_NOT_APPROVED, False, 2),
        (Reason.NO_RULE, True, 2),
        (Reason.PROGRAM_NOT_APPROVED, False, 2),
    ]
    rule = next(each.fix.rule for each in found.blockers if each.reason is Reason.NO_RULE)
    assert rule is not None
    assert (rule.name, rule.workloads, rule.peers[0].namespace) == ("bank-teller-to-web-80", ("web",), "bank")
    assert find_namespaces([see()]) == {"shop", "bank"}


def test_a_program_that_is_needed_by_many_connections_is_named_once() -> None:
    seen = [see(port=port, connection=str(port)) for port in range(80, 90)]
    states = {"bank": NamespaceState(namespace="bank", approvals=(Approval(service_account="teller", program=CURL),))}
    found = find_blockers(seen, states, "shop")
    assert [(each.count, each.fix.workload) for each in found.blockers if each.fix.kind is FixKind.APPROVE] == [
        (10, "shop/web")
    ]


def test_a_program_that_serves_and_calls_needs_one_approval() -> None:
    """It was listed as a listener and as a client: two changes, of which the second one changed nothing."""
    calls = see(source=WEB, destination=TELLER, direction=Direction.EGRESS, connection="e")
    for seen in ([see(), calls], [calls, see()]):
        found = find_blockers(seen, {}, "shop").blockers
        (approval,) = (each for each in found if each.fix.workload == "shop/web")
        assert (approval.reason, approval.count) == (Reason.PROGRAM_NOT_APPROVED, 2)


def test_of_both_sides_records_that_of_the_program_s_own_side_is_shown_which_knows_its_path() -> None:
    shop = NamespaceState(namespace="shop", mode=Mode.EXPLICIT)
    own = see(path="/usr/bin/curl", direction=Direction.EGRESS, namespace="bank", last=1.0)
    other = see(path="/usr/sbin/nginx", last=2.0)
    for seen in ([own, other], [other, own]):
        found = {
            each.fix.workload: each
            for each in find_blockers(seen, {"shop": shop}, "bank").blockers
            if each.fix.workload
        }
        assert {name: (each.seen.path, each.last) for name, each in found.items()} == {
            "bank/teller": ("/usr/bin/curl", 2.0),
            "shop/web": ("/usr/sbin/nginx", 2.0),
        }


def test_a_listener_that_the_client_cannot_name_is_left_out_where_its_own_side_has_named_it() -> None:
    own = see(reason=Reason.LISTENER_NOT_APPROVED)
    unnamed = msgspec.structs.replace(WEB, program="", why="listener_not_approved")
    client = msgspec.structs.replace(
        see(source=msgspec.structs.replace(TELLER, workload="shop/db", listed="shop/db")),
        direction=Direction.EGRESS,
        destination=unnamed,
        connection="e",
    )
    state = NamespaceState(namespace="shop", approvals=(Approval(service_account="db", program=CURL),))
    both = find_blockers([own, client], {"shop": state}, "shop").blockers
    assert [each.fix.kind for each in both if each.reason is Reason.LISTENER_NOT_APPROVED] == [FixKind.APPROVE]
    calls = see(source=WEB, destination=TELLER, direction=Direction.EGRESS, connection="f", last=9.0)
    calling = find_blockers([own, calls, client], {"shop": state}, "shop").blockers
    assert not [each for each in calling if each.reason is Reason.LISTENER_NOT_APPROVED and not each.fix.workload]
    alone = find_blockers([client], {"shop": state}, "shop").blockers
    assert [(each.reason, each.fix.kind) for each in alone] == [(Reason.LISTENER_NOT_APPROVED, FixKind.ADVICE)]


def test_what_a_deny_rule_refuses_is_intended_and_neither_blocks_nor_counts_as_settled() -> None:
    state = NamespaceState(namespace="shop", rules=(Rule(name="no", action=Action.DENY),))
    found = find_blockers([see(answer=Answer.DENY, reason=Reason.DENY_RULE)], {"shop": state}, "shop")
    assert (found.blockers, found.settled) == ((), 0)


def test_a_member_without_certificate_cannot_be_helped_by_a_rule() -> None:
    bare = PartyRecord(address="198.18.0.3:1", listed="bank/teller", why="peer_unidentified")
    (blocker, _) = find_blockers([see(source=bare)], {}, "shop").blockers
    fixes = {each.reason: each.fix.kind for each in find_blockers([see(source=bare)], {}, "shop").blockers}
    assert fixes == {Reason.LISTENER_NOT_APPROVED: FixKind.APPROVE, Reason.PEER_UNIDENTIFIED: FixKind.ADVICE}
    assert blocker.sidecars == ()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_connection_that_failed_whatever_the_mode_is_told_apart(mode: Mode) -> None:
    failed = see(answer=Answer.DENY, reason=Reason.APPLICATION_UNREACHABLE, mode=mode, detail="connection refused")
    found = find_blockers([failed, failed], {}, "shop")
    assert (found.blockers, found.settled) == ((), 0)
    (failure,) = found.failures
    assert failure.fix.advice.endswith("It said: connection refused")


def test_a_program_whose_destination_was_down_is_missing_all_the_same() -> None:
    """It will try again, and explicit mode refuses it then."""
    failed = see(answer=Answer.DENY, reason=Reason.DESTINATION_UNREACHABLE, direction=Direction.EGRESS)
    failed = msgspec.structs.replace(failed, namespace="bank")
    found = find_blockers([failed], {}, "bank")
    assert [(each.reason, each.fix.workload) for each in found.blockers] == [
        (Reason.PROGRAM_NOT_APPROVED, "bank/teller")
    ]
    assert len(found.failures) == 1
    approved = NamespaceState(namespace="bank", approvals=(Approval(service_account="teller", program=CURL),))
    assert find_blockers([failed], {"bank": approved}, "bank").blockers == ()


def test_a_server_whose_listener_another_program_holds_stands_against_explicit_mode() -> None:
    """Permissive mode lets it go on; its program is approved, and a rule changes nothing."""
    shared = msgspec.structs.replace(WEB, why="socket_shared")
    states = {
        "shop": NamespaceState(
            namespace="shop",
            approvals=(Approval(service_account="web", program=NGINX),),
            rules=(Rule(name="all", action=Action.ALLOW),),
        ),
        "bank": NamespaceState(namespace="bank", approvals=(Approval(service_account="teller", program=CURL),)),
    }
    unproven = see(destination=shared, would_deny=True, reason=Reason.SOCKET_SHARED, detail="process 7 holds it")
    found = find_blockers([unproven], states, "shop")
    assert [(each.reason, each.fix.kind) for each in found.blockers] == [(Reason.SOCKET_SHARED, FixKind.ADVICE)]
    assert found.settled == 0
    assert find_blockers([see()], states, "shop").blockers == ()


def test_a_record_that_names_no_workload_counts_as_it_was() -> None:
    odd = msgspec.structs.replace(see(), source=PartyRecord(workload="no workload"), reason=Reason.NO_RULE)
    (blocker,) = find_blockers([odd], {}, "shop").blockers
    assert (blocker.reason, blocker.fix.kind) == (Reason.NO_RULE, FixKind.ADVICE)
