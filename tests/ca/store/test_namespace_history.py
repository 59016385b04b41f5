"""A namespace goes back to what it said before, and a mode on trial goes back by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ca.store import namespace_history
from ca.store.audit.acting import acting_as
from ca.store.history import generations
from ca.store.records import ProgramRecord
from shared.model.errors import ConflictError, NotFoundError, UnavailableError
from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Action, Mode, NamespaceState, Requirement, Rule
from shared.model.wire.admin_audit import AuditActor, read_entry
from tests.ca.founded import NOW, Founded, opened

RULE = Rule(name="all", action=Action.ALLOW)
CURL = ProgramRecord(
    namespace="shop",
    name="curl",
    service_account="web",
    programs=(Program(digest="c" * 64),),
    approved_by="ann",
    approved=NOW,
    code=ApprovedCode(jit=True),
)


def what(state: NamespaceState) -> tuple[object, ...]:
    return state.mode, state.group_label, state.rules, state.requires, state.approvals


async def list_acts(core: Founded) -> list[tuple[str, Mode]]:
    listed = await core.store.history.list_generations("shop", limit=100)
    return [(each.act, Mode(each.content.mode)) for each in listed]


async def test_undo_gives_rules_approvals_and_mode_back_together_and_can_be_undone(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store
        states = [await store.namespaces.get_state("shop")]
        states.append(await store.namespaces.put_program(CURL))
        states.append(
            await store.namespaces.put_policy(
                "shop", rules=[RULE], group_label="team", mode=Mode.EXPLICIT, requires=[Requirement.OWN_SOCKETS]
            )
        )
        states.append(await store.namespaces.delete_program("shop", "curl"))
        assert what(await store.history.undo("shop")) == what(states[2])
        assert (await store.namespaces.list_programs("shop")) == [CURL], "as it was approved, by whom and when"
        assert what(await store.history.undo("shop")) == what(states[3]), "the undo is undone"
        for generation, state in enumerate(states, start=1):
            restored = await store.history.undo("shop", to=generation)
            assert what(restored) == what(state)
            assert restored.version > state.version, "sidecars take a newer version only"
        (line,) = (await store.audit.list_lines(limit=1, newest=True)).lines
        entry = read_entry(line)
        assert (entry.act, entry.before["mode"], entry.after["programs"]) == ("namespace.undo", "explicit", [])
        assert [each["name"] for each in entry.before["programs"]] == ["curl"]
    async with opened(tmp_path / "d") as core:
        assert what(await core.store.namespaces.get_state("shop")) == what(states[3])


async def test_what_changes_nothing_is_no_generation_and_the_first_one_is_what_was_there(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        for _ in range(3):
            await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert await list_acts(core) == [("mode.set", Mode.EXPLICIT), ("before", Mode.PERMISSIVE)]
        assert await core.store.history.list_generations("bank", limit=5) == []
        with pytest.raises(ConflictError, match="nothing to undo"):
            await core.store.history.undo("bank")
        with pytest.raises(NotFoundError):
            await core.store.history.undo("shop", to=9)
        with pytest.raises(ConflictError, match="changed since"):
            await core.store.history.undo("shop", expected=1)
        assert (await core.store.namespaces.get_state("bank")).version == 0


async def test_the_oldest_generations_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "MAX_GENERATIONS", 3)
    async with opened(tmp_path / "d") as core:
        for number in range(6):
            await core.store.namespaces.set_mode("shop", list(Mode)[number % 2])
        listed = await core.store.history.list_generations("shop", limit=100)
        assert len(listed) == 3
        newest = listed[0].generation
        monkeypatch.setattr(generations, "MAX_BYTES", 1)
        await core.store.namespaces.put_policy("shop", rules=[RULE])
        listed = await core.store.history.list_generations("shop", limit=100)
        assert [each.generation for each in listed] == [newest + 1, newest], "an undo is always there"


async def test_a_mode_on_trial_goes_back_by_itself_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.put_program(CURL)
        state = await core.store.history.try_mode("shop", Mode.EXPLICIT, for_s=600, now=NOW)
        assert state.mode is Mode.EXPLICIT
        assert await core.store.history.end_due_trials(now=NOW + 599) == []
    async with opened(tmp_path / "d") as core:
        trial = await core.store.history.get_trial("shop")
        assert trial is not None
        assert (trial.mode, trial.back_to, trial.until) == (Mode.EXPLICIT, Mode.PERMISSIVE, NOW + 600)
        await core.store.namespaces.put_policy("shop", rules=[RULE])
        ended = await asyncio.gather(*(core.store.history.end_due_trials(now=NOW + 600) for _ in range(3)))
        assert [name for names in ended for name in names] == ["shop"], "one of several replicas"
        state = await core.store.namespaces.get_state("shop")
        assert (state.mode, state.rules, len(state.approvals)) == (Mode.PERMISSIVE, (RULE,), 1), "the mode alone"
        assert await core.store.history.get_trial("shop") is None
        (line,) = (await core.store.audit.list_lines(limit=1, newest=True)).lines
        entry = read_entry(line)
        assert (entry.act, entry.actor.kind, entry.before["mode"]) == ("mode.return", "ca", "explicit")
        assert entry.before["trial"] == {"back_to": "permissive", "until": NOW + 600}
        assert "trial" not in entry.after


@pytest.mark.parametrize("how", ["confirm", "set", "policy", "undo"])
async def test_a_mode_that_was_confirmed_or_set_stays(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        await core.store.history.try_mode("shop", Mode.PERMISSIVE, for_s=60, now=NOW)
        if how == "confirm":
            await core.store.history.confirm_mode("shop")
        elif how == "set":
            await core.store.namespaces.set_mode("shop", Mode.PERMISSIVE)
        elif how == "policy":
            await core.store.namespaces.put_policy("shop", rules=[RULE], mode=Mode.PERMISSIVE)
        else:
            await core.store.history.undo("shop")
        assert await core.store.history.end_due_trials(now=NOW + 10_000) == []
        mode = (await core.store.namespaces.get_state("shop")).mode
        assert mode is (Mode.EXPLICIT if how == "undo" else Mode.PERMISSIVE)
        with pytest.raises(ConflictError, match="nothing to confirm"):
            await core.store.history.confirm_mode("shop")


async def test_an_undo_that_leaves_the_mode_on_trial_as_it_is_leaves_it_on_trial(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        await core.store.history.try_mode("shop", Mode.PERMISSIVE, for_s=60, now=NOW)
        await core.store.namespaces.put_policy("shop", rules=[RULE])
        undone = await core.store.history.undo("shop")
        assert (undone.mode, undone.rules) == (Mode.PERMISSIVE, ())
        assert await core.store.history.end_due_trials(now=NOW + 60) == ["shop"]
        assert (await core.store.namespaces.get_state("shop")).mode is Mode.EXPLICIT


@pytest.mark.parametrize("trial", list(Mode))
async def test_an_undo_never_makes_a_trial_that_has_gone_back_permanent(tmp_path: Path, trial: Mode) -> None:
    settled = next(mode for mode in Mode if mode is not trial)
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.namespaces.put_policy("shop", rules=[], mode=settled)
        await store.history.try_mode("shop", trial, for_s=60, now=NOW)
        await store.namespaces.put_policy("shop", rules=[RULE])
        assert await store.history.end_due_trials(now=NOW + 60) == ["shop"]
        with pytest.raises(ConflictError, match="was on trial in shop and has gone back"):
            await store.history.undo("shop")
        newest, tried, first = (await store.history.list_generations("shop", limit=3))[:3]
        assert (newest.act, tried.content.back_to, first.act) == ("mode.return", settled.value, "mode.try")
        undone = await store.history.undo("shop", to=first.generation)
        assert (undone.mode, undone.rules) == (settled, ()), "the rules of that time, and the mode that stays"
        confirmed = await store.history.undo("shop", to=tried.generation)
        assert (confirmed.mode, confirmed.rules) == (settled, (RULE,))


async def test_an_undo_after_a_confirmed_trial_keeps_the_mode_that_was_confirmed(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        history = core.store.history
        await history.try_mode("shop", Mode.EXPLICIT, for_s=60, now=NOW)
        (tried,) = await history.list_generations("shop", limit=1)
        await core.store.namespaces.put_policy("shop", rules=[RULE])
        await history.confirm_mode("shop")
        assert (await history.undo("shop")).mode is Mode.EXPLICIT
        undone = await history.undo("shop", to=tried.generation)
        assert (undone.mode, undone.rules) == (Mode.EXPLICIT, ())
        await core.store.namespaces.set_mode("shop", Mode.PERMISSIVE)
        assert (await history.undo("shop", to=tried.generation)).mode is Mode.PERMISSIVE


async def test_a_namespace_that_cannot_go_back_keeps_no_other_from_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        for namespace in ("bank", "shop"):
            await core.store.history.try_mode(namespace, Mode.EXPLICIT, for_s=60, now=NOW)

        async def change(namespace: str, change: Any, **options: Any) -> NamespaceState:
            if namespace == "bank":
                raise UnavailableError("the store doesn't answer")
            return await core.store.namespaces.change(namespace, change, **options)

        faulty = namespace_history.NamespaceHistory(core.store.database, change=change)
        assert await faulty.end_due_trials(now=NOW + 60) == ["shop"]
        assert await core.store.history.end_due_trials(now=NOW + 60) == ["bank"], "tried again"


async def test_a_trial_is_prolonged_and_one_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        with pytest.raises(ConflictError, match="nothing to go back to"):
            await core.store.history.try_mode("shop", Mode.PERMISSIVE, for_s=60, now=NOW)
        await core.store.history.try_mode("shop", Mode.EXPLICIT, for_s=60, now=NOW)
        await core.store.history.try_mode("shop", Mode.EXPLICIT, for_s=60, now=NOW + 50)
        trial = await core.store.history.get_trial("shop")
        assert trial is not None
        assert (trial.back_to, trial.until) == (Mode.PERMISSIVE, NOW + 110)
        with pytest.raises(ConflictError, match="goes back to permissive by itself"):
            await core.store.history.try_mode("shop", Mode.PERMISSIVE, for_s=60, now=NOW)
        with pytest.raises(ConflictError):
            await core.store.history.try_mode("shop", Mode.EXPLICIT, for_s=60, now=NOW, expected_version=1)
        assert namespace_history.MIN_TRIAL_S <= 60 <= namespace_history.MAX_TRIAL_S


DB_EXPLICIT = make_modes({"db": Mode.EXPLICIT})


async def test_workloads_modes_are_kept_told_and_given_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store
        with acting_as(AuditActor(kind="user", name="ann")):
            state = await store.namespaces.set_workload_modes("shop", ["db"], Mode.EXPLICIT)
        assert (state.mode, state.workload_modes) == (Mode.PERMISSIVE, DB_EXPLICIT)
        same = await store.namespaces.set_workload_modes("shop", ["db"], Mode.EXPLICIT)
        assert same.workload_modes == DB_EXPLICIT
        assert [act for act, _ in await list_acts(core)] == ["mode.set", "before"], "what changes nothing is none"
        (newest, _) = await store.history.list_generations("shop", limit=2)
        assert (newest.actor.name, newest.content.workload_modes) == ("ann", DB_EXPLICIT)
        explicit = await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert explicit.workload_modes == DB_EXPLICIT, "a switch of the namespace leaves them"
        gone = await store.namespaces.set_workload_modes("shop", ["db"], None)
        assert gone.workload_modes == ()
        assert (await store.history.undo("shop")).workload_modes == DB_EXPLICIT
        (line,) = (await store.audit.list_lines(limit=1, newest=True)).lines
        assert read_entry(line).after["workload_modes"] == [{"service_account": "db", "mode": "explicit"}]
        put = await store.namespaces.put_policy("shop", rules=[RULE])
        assert put.workload_modes == DB_EXPLICIT, "a policy that doesn't name them leaves them"
        assert (await store.namespaces.put_policy("shop", rules=[], workload_modes=())).workload_modes == ()
        assert (await store.history.undo("shop", to=1)).workload_modes == ()
    async with opened(tmp_path / "d") as core:
        assert (await core.store.namespaces.get_state("shop")).workload_modes == ()


async def test_workloads_modes_on_trial_go_back_and_the_namespaces_stays(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store, history = core.store, core.store.history
        await store.namespaces.set_workload_modes("shop", ["web"], Mode.PERMISSIVE)
        tried = await history.try_workload_modes("shop", ["db"], Mode.EXPLICIT, for_s=10, now=NOW)
        web = make_modes({"web": Mode.PERMISSIVE})
        assert tried.workload_modes == make_modes({"db": Mode.EXPLICIT, "web": Mode.PERMISSIVE})
        trial = await history.get_trial("shop")
        assert trial is not None
        assert (trial.workload_modes, trial.until) == (web, NOW + 10)
        with pytest.raises(ConflictError, match="on trial already"):
            await history.try_mode("shop", Mode.EXPLICIT, for_s=10, now=NOW)
        await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert await history.get_trial("shop") is not None, "a switch of the namespace is another matter"
        assert await history.end_due_trials(now=NOW + 9) == []
        assert await history.end_due_trials(now=NOW + 10) == ["shop"]
        state = await store.namespaces.get_state("shop")
        assert (state.mode, state.workload_modes) == (Mode.EXPLICIT, web)
        with pytest.raises(ConflictError, match="nothing to undo"):
            await history.undo("shop")
        with pytest.raises(ConflictError, match="nothing to go back to"):
            await history.try_workload_modes("shop", ["web"], Mode.PERMISSIVE, for_s=10, now=NOW)


async def test_workloads_modes_on_trial_are_confirmed_undone_or_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store, history = core.store, core.store.history
        await history.try_workload_modes("shop", ["db"], Mode.EXPLICIT, for_s=10, now=NOW)
        assert (await history.confirm_mode("shop")).workload_modes == DB_EXPLICIT
        await history.try_workload_modes("shop", ["db"], None, for_s=10, now=NOW)
        await store.namespaces.put_program(CURL)
        assert (await history.undo("shop")).workload_modes == (), "the program goes, the modes on trial stay"
        assert await history.get_trial("shop") is not None
        assert (await history.undo("shop", to=3)).workload_modes == DB_EXPLICIT
        assert await history.get_trial("shop") is None
        await history.try_workload_modes("shop", ["db"], None, for_s=10, now=NOW)
        assert (await store.namespaces.set_workload_modes("shop", ["db"], None)).workload_modes == ()
        assert await history.get_trial("shop") is None, "set is kept"
        await history.try_mode("shop", Mode.EXPLICIT, for_s=10, now=NOW)
        with pytest.raises(ConflictError, match="the mode of shop is on trial already"):
            await history.try_workload_modes("shop", ["db"], Mode.EXPLICIT, for_s=10, now=NOW)


async def test_a_switch_of_another_workload_neither_keeps_nor_prolongs_a_mode_on_trial(tmp_path: Path) -> None:
    """A break-glass of one workload must not become permanent by another one's switch."""
    async with opened(tmp_path / "d") as core:
        store, history = core.store, core.store.history
        await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        await history.try_workload_modes("shop", ["db"], Mode.PERMISSIVE, for_s=10, now=NOW)
        state = await store.namespaces.set_workload_modes("shop", ["web"], Mode.EXPLICIT)
        web = make_modes({"web": Mode.EXPLICIT})
        assert state.workload_modes == make_modes({"db": Mode.PERMISSIVE, "web": Mode.EXPLICIT})
        with pytest.raises(ConflictError, match="other workloads of shop are on trial already: db"):
            await history.try_workload_modes("shop", ["cart"], Mode.EXPLICIT, for_s=1000, now=NOW)
        trial = await history.get_trial("shop")
        assert trial is not None
        assert (trial.workload_modes, trial.until) == (web, NOW + 10)
        assert await history.end_due_trials(now=NOW + 10) == ["shop"]
        assert (await store.namespaces.get_state("shop")).workload_modes == web
