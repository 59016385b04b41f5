"""History, undo and modes on trial, asked over the real socket; the CA itself lets a mode go back."""

from __future__ import annotations

import pytest

from ca.observation.namespace_changes import describe_changes, view_content
from ca.runtime.compose import RunningCA
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from shared.model.wire import admin as api
from tests.ca.running import CURL, WEB, Admin, ShiftedClock, eventually

RULE = Rule(name="web", action=Action.ALLOW)
SHOP = "/v1/namespaces/shop"


async def test_a_namespace_goes_back_and_its_history_says_who_did_what(services: RunningCA, admin: Admin) -> None:
    program = api.ProgramRequest(namespace="shop", service_account="web", programs=(WEB,), name="web")
    await admin.ask("POST", "/v1/programs", api.ProgramView, program)
    policy = api.PolicyRequest(namespace="shop", rules=(RULE,), mode=Mode.EXPLICIT)
    await admin.ask("PUT", "/v1/policies", api.PolicyView, policy)
    other = api.ProgramRequest(namespace="shop", service_account="web", programs=(CURL,), name="web")
    await admin.ask("POST", "/v1/programs", api.ProgramView, other)
    await admin.ask("DELETE", "/v1/policies/shop", NamespaceState)
    history = await admin.get(f"{SHOP}/history", api.History)
    assert [(each.generation, each.act, each.changes) for each in history.generations] == [
        (5, "policy.delete", ("- rule web",)),
        (4, "program.put", ("~ program web",)),
        (3, "policy.put", ("mode permissive → explicit", "+ rule web")),
        (2, "program.put", ("+ program web",)),
        (1, "before", ()),
    ]
    assert (history.generations[0].actor.kind, history.trial) == ("socket", None)
    (newest,) = (await admin.get(f"{SHOP}/history", api.History, limit="1")).generations
    assert newest == history.generations[0], "what it changed is known without the others"
    content = await admin.get(f"{SHOP}/history/3", api.GenerationContent)
    assert (content.mode, content.rules, content.programs[0].programs) == (Mode.EXPLICIT, (RULE,), (WEB,))
    undone = await admin.ask("POST", f"{SHOP}/undo", NamespaceState, api.UndoRequest(to=3, expected=5))
    assert (undone.rules, [each.program for each in undone.approvals]) == ((RULE,), [WEB])
    late = await admin.fail("POST", f"{SHOP}/undo", 409, api.UndoRequest(expected=5))
    assert late.code == "conflict"
    assert (await admin.fail("GET", f"{SHOP}/history/99", 404)).code == "not_found"
    assert (await admin.fail("GET", f"{SHOP}/history/x", 400)).code == "bad_input"
    first, third = [await services.store.history.get_generation("shop", number) for number in (1, 3)]
    assert describe_changes(third.content, first.content) == (
        "mode explicit → permissive", "- rule web", "- program web",
    )  # fmt: skip
    assert view_content(third) == content


async def test_the_ca_itself_lets_a_mode_go_back_that_nobody_confirms(
    services: RunningCA, admin: Admin, clock: ShiftedClock
) -> None:
    tried = api.ModeRequest(mode=Mode.EXPLICIT, for_s=600)
    assert (await admin.ask("PUT", f"{SHOP}/mode", NamespaceState, tried)).mode is Mode.EXPLICIT
    trial = (await admin.get(f"{SHOP}/history", api.History)).trial
    assert trial is not None
    assert (trial.mode, trial.back_to) == (Mode.EXPLICIT, Mode.PERMISSIVE)
    clock.shift_s += 601

    async def is_back() -> bool:
        return (await admin.get(SHOP, NamespaceState)).mode is Mode.PERMISSIVE

    await eventually(is_back)
    history = await admin.get(f"{SHOP}/history", api.History)
    assert (history.generations[0].act, history.generations[0].actor.kind, history.trial) == ("mode.return", "ca", None)
    assert (await admin.fail("POST", f"{SHOP}/mode/confirm", 409)).code == "conflict"


async def test_a_confirmed_mode_stays(admin: Admin) -> None:
    await admin.ask("PUT", f"{SHOP}/mode", NamespaceState, api.ModeRequest(mode=Mode.EXPLICIT, for_s=600))
    await admin.ask("POST", f"{SHOP}/mode/confirm", NamespaceState)
    assert (await admin.get(f"{SHOP}/history", api.History)).trial is None


@pytest.mark.parametrize("for_s", [0.0, -1.0, 1e9])
async def test_a_trial_has_bounds(admin: Admin, for_s: float) -> None:
    wanted = api.ModeRequest(mode=Mode.EXPLICIT, for_s=for_s)
    assert (await admin.fail("PUT", f"{SHOP}/mode", 400, wanted)).code == "bad_input"
