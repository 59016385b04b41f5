"""A draft policy beside the one in force: real sidecars evaluate it for real connections and enforce nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import UNSET

from shared.model.policy.decision import Answer, DecisionRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from shared.model.wire.admin import DraftRequest, DraftView, PolicyView, PromoteRequest
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.shop import Shop

pytestmark = pytest.mark.needs_root
DRAFT = DraftRequest(mode=Mode.EXPLICIT, rules=(Rule(name="closed", action=Action.DENY, workloads=("server",)),))


@pytest.fixture(autouse=True)
def _leave_no_draft(shop: Shop) -> Iterator[None]:
    """The CA is the session's."""
    yield
    if shop.mesh.admin.call("GET", "/v1/namespaces/shop", NamespaceState).draft is not None:
        shop.mesh.admin.call("DELETE", "/v1/namespaces/shop/draft", NamespaceState)


def test_what_a_draft_would_refuse_flows_and_its_verdict_is_the_one_that_it_gives_in_force(shop: Shop) -> None:
    port, admin = shop.sell(), shop.mesh.admin
    admin.call("PUT", "/v1/namespaces/shop/draft", NamespaceState, DRAFT)
    shop.mesh.wait_installed("shop")
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    sent = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    got = shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    drafted = [_read(record) for record in (sent, got)]
    assert drafted == [(Answer.DENY, Reason.DENY_RULE, "shop/closed")] * 2

    def is_shown() -> bool:
        view = admin.call("GET", "/v1/namespaces/shop/draft", DraftView)
        ours = [each for each in view.denied if each.port == port]
        return [(each.before, each.after, each.connections) for each in ours] == [("allow", "deny", 1)]

    wait_until(is_shown, "the CA shows what the draft would refuse")
    admin.call("POST", "/v1/namespaces/shop/draft/promote", PolicyView, PromoteRequest(force=True))
    shop.mesh.wait_installed("shop")
    assert shop.buy().do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.DENY_RULE, port=port)
    assert (record.answer, record.reason, record.rule) == drafted[0]
    assert record.draft is UNSET


def _read(record: DecisionRecord) -> tuple[Answer, Reason, str]:
    assert record.draft is not UNSET
    return record.draft.answer, record.draft.reason, record.draft.rule
