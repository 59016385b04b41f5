"""A draft over the admin API: written, shown with what it decided, dropped, put in force."""

from __future__ import annotations

import msgspec
import pytest

from ca.api.policies.drafts import is_told_drafts
from ca.runtime.compose import RunningCA
from ca.store.records import SidecarRecord
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, DraftVerdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from shared.model.wire import admin as api
from shared.model.wire.admin_difference import DraftRequest, DraftView, PromoteRequest
from shared.model.wire.messages import Decisions, DecisionsStored, NamespaceChanged, NamespaceInstalled
from tests.ca.running import Admin, FakeSidecar, ShiftedClock, eventually, make_decision

SHOP = "/v1/namespaces/shop"
DRAFT = DraftRequest(mode=Mode.EXPLICIT, rules=(Rule(name="none", action=Action.DENY),))


async def test_a_draft_goes_to_sidecars_and_shows_what_they_say_of_it(
    services: RunningCA, admin: Admin, clock: ShiftedClock
) -> None:
    assert (await admin.fail("GET", f"{SHOP}/draft", 404)).code == "not_found"
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("web-1", "198.18.0.2")
        state = await admin.ask("PUT", f"{SHOP}/draft", NamespaceState, DRAFT)
        assert state.draft is not None
        told = await sidecar.expect(NamespaceChanged)
        assert (told.state.mode, told.state.rules, told.state.draft) == (Mode.PERMISSIVE, (), state.draft)
        view = await admin.get(f"{SHOP}/draft", DraftView)
        assert (view.sidecars, view.evaluating, view.waiting) == (1, 0, ("web-1",))
        await sidecar.send(NamespaceInstalled(namespace="shop", version=state.version))
        verdict = DraftVerdict(
            answer=Answer.DENY,
            would_deny=False,
            reason=Reason.DENY_RULE,
            rule="shop/none",
            drafts=(f"shop@{state.draft.number}",),
        )
        alike = msgspec.structs.replace(verdict, answer=Answer.ALLOW)
        old = msgspec.structs.replace(verdict, drafts=("shop@0",))
        records = [
            make_decision(name, time=view.written + 1, answer=Answer.ALLOW, draft=draft, count=count)
            for name, draft, count in (("c1", verdict, 1), ("c2", verdict, 1), ("", alike, 5), ("c3", old, 1))
        ]
        await sidecar.send(Decisions(batch=1, records=tuple(records)))
        await sidecar.expect(DecisionsStored)
    view = await admin.get(f"{SHOP}/draft", DraftView)
    (denied,) = view.denied
    assert (denied.before, denied.after, denied.connections) == ("allow", "deny", 2)
    assert (denied.reason, denied.rule) == (Reason.DENY_RULE, "shop/none")
    assert (view.allowed, view.unchanged, view.draft) == ((), 5, state.draft)
    listed = await admin.get("/v1/decisions", api.DecisionList, draft_differs="true")
    assert {each.record.connection for each in listed.decisions} == {"c1", "c2", "c3"}
    listed = await admin.get("/v1/decisions", api.DecisionList, draft_differs="false")
    assert [each.record.count for each in listed.decisions] == [5]
    other = await admin.fail("DELETE", f"{SHOP}/draft?number={state.draft.number - 1}", 409)
    assert other.code == "conflict", "it is another one by now"
    assert (await admin.ask("DELETE", f"{SHOP}/draft", NamespaceState)).draft is None
    assert (await admin.fail("DELETE", f"{SHOP}/draft", 404)).code == "not_found"
    assert clock.shift_s == 0


async def test_a_draft_is_put_in_force_by_the_checks_of_any_policy(services: RunningCA, admin: Admin) -> None:
    assert (await admin.fail("POST", f"{SHOP}/draft/promote", 404, PromoteRequest())).code == "not_found"
    now = services.clock()
    blocked = make_decision("c1", time=now - 5, answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE)
    await services.store.decisions.insert([msgspec.structs.replace(blocked, mode=Mode.PERMISSIVE)])
    draft = (await admin.ask("PUT", f"{SHOP}/draft", NamespaceState, DraftRequest(mode=Mode.EXPLICIT))).draft
    assert draft is not None

    async def is_blocked() -> bool:
        return (await admin.fail("POST", f"{SHOP}/draft/promote", 403, PromoteRequest())).code == "blocked"

    await eventually(is_blocked)
    late = await admin.fail("POST", f"{SHOP}/draft/promote", 409, PromoteRequest(number=draft.number + 1, force=True))
    assert late.code == "conflict"
    request = PromoteRequest(number=draft.number, force=True)
    policy = await admin.ask("POST", f"{SHOP}/draft/promote", api.PolicyView, request)
    assert policy.mode is Mode.EXPLICIT
    assert (await admin.get(SHOP, NamespaceState)).draft is None


async def test_a_policy_that_is_newer_than_the_draft_is_taken_back_by_consent_alone(admin: Admin) -> None:
    """The CA looks itself: whoever asks looked earlier."""
    rules = (Rule(name="newer", action=Action.DENY),)
    wanted = api.PolicyRequest(namespace="shop", rules=rules)
    for consent in (PromoteRequest(takes_back=True), PromoteRequest(force=True)):
        await admin.ask("PUT", f"{SHOP}/draft", NamespaceState, DraftRequest())
        assert not (await admin.get(f"{SHOP}/draft", DraftView)).is_outdated
        await admin.ask("PUT", "/v1/policies", api.PolicyView, wanted)
        assert (await admin.fail("POST", f"{SHOP}/draft/promote", 409, PromoteRequest())).code == "conflict"
        assert (await admin.get(SHOP, NamespaceState)).rules == rules
        await admin.ask("POST", f"{SHOP}/draft/promote", api.PolicyView, consent)
        assert (await admin.get(SHOP, NamespaceState)).rules == ()


@pytest.mark.parametrize(("version", "told"), [("0.1.9", False), ("0.2.0", True), ("1.0", True), ("", False)])
def test_sidecars_of_older_releases_arent_told(version: str, told: bool) -> None:
    workload = Workload(namespace="shop", service_account="web")
    record = SidecarRecord(instance="a", workload=workload, allowed_addresses=(), version=version)
    assert is_told_drafts(record) is told
