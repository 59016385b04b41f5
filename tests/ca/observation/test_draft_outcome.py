"""What a draft decided otherwise is counted once for each connection (``ca.observation.draft_outcome``)."""

from __future__ import annotations

from pathlib import Path

from ca.observation.draft_outcome import count_otherwise, view_draft
from shared.model.policy.decision import Answer, DecisionRecord, DraftVerdict, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, PolicyDraft, Rule
from tests.ca.founded import opened
from tests.ca.running import make_decision

DENIED = DraftVerdict(answer=Answer.DENY, would_deny=False, reason=Reason.NO_RULE, rule="", drafts=("shop@2",))
MARKED = DraftVerdict(answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE, rule="", drafts=("shop@2",))


def make(connection: str, direction: Direction, draft: DraftVerdict = DENIED, **changes: object) -> DecisionRecord:
    return make_decision(connection, direction=direction, draft=draft, **{"answer": Answer.ALLOW, **changes})


def test_both_sides_and_both_phases_of_a_connection_are_one() -> None:
    records = [
        make("c1", Direction.EGRESS, phase=Phase.START, service="shop/db:5432"),
        make("c1", Direction.EGRESS, time=2e9, service="shop/db:5432"),
        make("c1", Direction.INGRESS),
        make("c2", Direction.INGRESS),
        make("c3", Direction.INGRESS, MARKED, answer=Answer.DENY),
    ]
    denied, allowed = count_otherwise(records, "shop@2")
    assert [(each.before, each.after, each.connections, each.service) for each in denied] == [
        ("allow", "deny", 2, "shop/db:5432")
    ]
    assert [(each.before, each.after, each.connections) for each in allowed] == [("deny", "would deny", 1)]
    assert count_otherwise(records, "shop@1") == ((), ())


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
