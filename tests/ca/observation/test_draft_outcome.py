"""What a draft decided otherwise is counted once for each connection (``ca.observation.draft_outcome``)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ca.observation.draft_outcome import add_fixes, count_otherwise, is_partly_unknown, view_draft
from ca.store.edges.edge import DraftedEdge, EdgeEvidence
from ca.store.edges.tally import make_key
from shared.model.adoption.fixes import FixKind, with_approvals
from shared.model.identity.program import parse_program
from shared.model.policy.decision import Answer, DraftVerdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, NamespaceState, Peer, PolicyDraft, Requirement, Rule
from tests.ca.founded import opened
from tests.ca.running import make_decision

DENIED = DraftVerdict(answer=Answer.DENY, would_deny=False, reason=Reason.NO_RULE, rule="", drafts=())
MARKED = DraftVerdict(answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE, rule="", drafts=())


def make(
    direction: Direction, connections: int, verdict: DraftVerdict = DENIED, *, last: float = 1e9, **changes: object
) -> DraftedEdge:
    record = make_decision("c", direction=direction, **{"answer": Answer.ALLOW, **changes})
    return DraftedEdge(
        key=make_key(record, reporter="shop/web" if direction is Direction.EGRESS else "shop/db"),
        evidence=EdgeEvidence(path=f"/bin/{direction}"),
        verdict=verdict,
        connections=connections,
        last=last,
    )


def test_both_sides_counts_of_the_same_connections_are_one() -> None:
    """Each counts them for itself, and one may have lost some."""
    edges = [
        make(Direction.EGRESS, 5, service="shop/db:5432", last=2e9),
        make(Direction.INGRESS, 4),
        make(Direction.INGRESS, 3, mode=Mode.EXPLICIT),
        make(Direction.INGRESS, 1, MARKED, answer=Answer.DENY),
    ]
    looked_at: list[None] = []
    found = count_otherwise(edges, check=lambda: looked_at.append(None))
    denied, allowed = ([each.changed for each in one] for one in found)
    assert [(each.before, each.after, each.connections, each.service, each.path) for each in denied] == [
        ("allow", "deny", 7, "shop/db:5432", "/bin/egress")
    ]
    assert [(each.before, each.after, each.connections) for each in allowed] == [("deny", "would deny", 1)]
    assert len(looked_at) == len(edges)


def test_what_would_let_it_pass_goes_by_the_drafts_rules() -> None:
    """By the rules in force nothing is missing."""
    denied, _ = count_otherwise(
        [
            make(Direction.EGRESS, 2),
            make(Direction.EGRESS, 1, msgspec.structs.replace(DENIED, reason=Reason.DENY_RULE, rule="shop/no")),
        ]
    )
    key = denied[0].newest.key
    programs = {key.source.workload: key.source.program, key.destination.workload: key.destination.program}
    own = NamespaceState(namespace="shop")
    state = with_approvals(
        own, [(name.partition("/")[2], parse_program(program)) for name, program in programs.items() if program]
    )
    drafted = msgspec.structs.replace(state, draft=PolicyDraft(number=2, group_label="team"))
    (missing, ruled), settled = add_fixes(denied, {"shop": drafted})
    assert settled == ()
    (fix,) = missing.fixes
    assert (fix.kind, fix.namespace) == (FixKind.RULE, "shop")
    assert fix.rule is not None
    assert fix.rule.peers[0].service_account == key.source.workload.partition("/")[2]
    nothing = msgspec.structs.replace(drafted, draft=PolicyDraft(number=3))
    refused, settled = add_fixes(denied, {"shop": nothing})
    assert (refused, settled) == ((), tuple(each.changed for each in denied)), "nothing is missing any more"
    denying = PolicyDraft(number=4, rules=(Rule(name="no", action=Action.DENY),))
    found, settled = add_fixes(denied, {"shop": msgspec.structs.replace(state, draft=denying)})
    assert settled == (), "a deny rule refuses it, whatever did then"
    assert "By now a deny rule refuses it" in found[0].fixes[0].advice
    assert found[1].fixes[0].advice == "The rule shop/no denies it: change that rule if it should pass."
    assert ruled.rule == "shop/no"


def test_what_edges_dont_keep_is_never_taken_for_settled() -> None:
    """An edge has neither the process's origin nor a member's address: without them all would pass."""
    origin = msgspec.structs.replace(DENIED, reason=Reason.PROCESS_ORIGIN)
    ruled = msgspec.structs.replace(DENIED, reason=Reason.DENY_RULE, rule="shop/no")
    gone = msgspec.structs.replace(DENIED, reason=Reason.DENY_RULE, rule="shop/former")
    denied, _ = count_otherwise([make(Direction.EGRESS, 3 - at, each) for at, each in enumerate((origin, ruled, gone))])
    key = denied[0].newest.key
    programs = [
        (party.workload.partition("/")[2], parse_program(party.program)) for party in (key.source, key.destination)
    ]
    rules = (
        Rule(name="no", action=Action.DENY, peers=(Peer(unidentified=True, cidrs=("198.18.0.0/24",)),)),
        Rule(name="all", action=Action.ALLOW),
    )
    draft = PolicyDraft(number=2, rules=rules, requires=(Requirement.CONTAINER_ORIGIN,))
    state = with_approvals(NamespaceState(namespace="shop", draft=draft), programs)
    refused, settled = add_fixes(denied, {"shop": state})
    assert [each.reason for each in refused] == [Reason.PROCESS_ORIGIN, Reason.DENY_RULE]
    assert "containerOrigin" in refused[0].fixes[0].advice
    assert [each.rule for each in settled] == ["shop/former"]


async def test_a_draft_is_outdated_once_the_rules_in_force_are_others(tmp_path: Path) -> None:
    """To put it in force would take the newer ones back."""
    rule = Rule(name="none", action=Action.DENY)
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.drafts.put("shop", PolicyDraft(number=0, mode=Mode.EXPLICIT))
        assert not (await view_draft(store, "shop")).is_outdated
        await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert not (await view_draft(store, "shop")).is_outdated, "its mode is another matter"
        await store.namespaces.put_policy("shop", rules=(rule,))
        assert (await view_draft(store, "shop")).is_outdated
        await store.namespaces.put_policy("shop", rules=())
        assert not (await view_draft(store, "shop")).is_outdated
        await store.namespaces.put_policy("shop", rules=(rule,))
        await store.drafts.put("shop", PolicyDraft(number=0, mode=Mode.EXPLICIT))
        assert not (await view_draft(store, "shop")).is_outdated, "it was written since"


async def test_a_draft_that_somebody_has_put_in_force_meanwhile_takes_nothing_back(tmp_path: Path) -> None:
    """The CA may put a promotion in force after its command has given up: it is repeated then, to end the draft."""
    rules = (Rule(name="none", action=Action.DENY),)
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.namespaces.put_policy("shop", rules=(), mode=Mode.PERMISSIVE)
        await store.drafts.put("shop", PolicyDraft(number=0, mode=Mode.EXPLICIT, rules=rules))
        await store.namespaces.put_policy("shop", rules=rules, mode=Mode.EXPLICIT)
        assert not (await view_draft(store, "shop")).is_outdated
        await store.namespaces.put_policy("shop", rules=rules, group_label="team")
        assert (await view_draft(store, "shop")).is_outdated, "somebody wrote more than the draft"


async def test_a_draft_that_takes_a_newer_mode_back_is_outdated(tmp_path: Path) -> None:
    """Explicit mode that somebody switched on meanwhile isn't switched off by an older draft unasked."""
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.namespaces.put_policy("shop", rules=(), mode=Mode.PERMISSIVE)
        await store.drafts.put("shop", PolicyDraft(number=0, mode=Mode.PERMISSIVE))
        assert not (await view_draft(store, "shop")).is_outdated
        await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert (await view_draft(store, "shop")).is_outdated
        await store.drafts.put("shop", PolicyDraft(number=0, mode=Mode.PERMISSIVE))
        assert not (await view_draft(store, "shop")).is_outdated, "it was written since"
        await store.drafts.put("shop", PolicyDraft(number=0))
        await store.namespaces.set_mode("shop", Mode.PERMISSIVE)
        assert not (await view_draft(store, "shop")).is_outdated, "it leaves the mode as it is"


def test_what_sidecars_cant_tell_of_a_draft_is_no_proof_that_nothing_breaks() -> None:
    """As ``sidecar.connection.drafts`` gives no verdict."""
    wide = Rule(
        name="any",
        action=Action.ALLOW,
        direction=Direction.EGRESS,
        peers=(Peer(unidentified=True, cidrs=("0.0.0.0/0",)),),
    )
    host = Rule(
        name="api",
        action=Action.ALLOW,
        direction=Direction.EGRESS,
        peers=(Peer(unidentified=True, hosts=("api.example",)),),
    )
    state = NamespaceState(namespace="shop", rules=(wide, host), requires=(Requirement.CONTAINER_ORIGIN,))

    def is_unknown(*rules: Rule, requires: tuple[Requirement, ...] = state.requires) -> bool:
        return is_partly_unknown(PolicyDraft(number=1, rules=rules, requires=requires), state)

    assert not is_unknown(wide, host), "another mode alone"
    assert not is_unknown(), "no hosts"
    assert is_unknown(host), "what another rule allowed has no host"
    assert is_unknown(requires=()), "which program it was"
    assert is_unknown(requires=(*state.requires, Requirement.OWN_SOCKETS)), "who made the socket"
    assert not is_unknown(requires=(*state.requires, Requirement.MATCHING_ADDRESS))
