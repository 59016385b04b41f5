"""What a draft decided otherwise is counted once for each connection (``ca.observation.draft_outcome``)."""

from __future__ import annotations

from ca.observation.draft_outcome import count_otherwise
from shared.model.policy.decision import Answer, DecisionRecord, DraftVerdict, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
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
