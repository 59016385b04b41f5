"""Drafts in the store: one of each namespace, sent with its state, dropped or put in force (``ca.store.drafts``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.store.drafts import drafts, tables
from shared.model.errors import ConflictError, InputError, NotFoundError
from shared.model.policy.rules import (
    Action,
    Mode,
    PolicyDraft,
    Requirement,
    Rule,
    WorkloadMode,
    put_draft_in_force,
)
from tests.ca.founded import opened

RULE = Rule(name="none", action=Action.DENY)
DRAFT = PolicyDraft(number=0, mode=Mode.EXPLICIT, rules=(RULE,), requires=(Requirement.OWN_SOCKETS,))


async def test_a_draft_comes_with_the_state_and_changes_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store
        before = await store.namespaces.get_state("shop")
        state = await store.drafts.put("shop", DRAFT)
        assert state.draft is not None
        assert (state.mode, state.rules, state.version) == (before.mode, before.rules, before.version + 1)
        assert (state.draft.mode, state.draft.rules, state.draft.requires) == (DRAFT.mode, DRAFT.rules, DRAFT.requires)
        again = await store.drafts.put("shop", PolicyDraft(number=0, group_label="team"))
        assert again.draft is not None
        assert again.draft.number > state.draft.number
        assert "team" in await store.namespaces.list_group_labels()
        kept = await store.drafts.get("shop")
        assert kept is not None
        assert kept == drafts.StoredDraft(draft=again.draft, written=kept.written, size=2)
        generations = await store.history.list_generations("shop", limit=9)
        assert [each.act for each in generations] == ["before"], "a draft is no generation"
    async with opened(tmp_path / "d") as core:
        assert (await core.store.drafts.drop("shop")).draft is None
        with pytest.raises(NotFoundError, match="no draft"):
            await core.store.drafts.drop("shop")
        assert await core.store.drafts.get("shop") is None


async def test_it_is_put_in_force_only_as_it_was_looked_at(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store
        with pytest.raises(NotFoundError):
            await store.namespaces.put_policy("shop", rules=(), draft=1)
        draft = (await store.drafts.put("shop", DRAFT)).draft
        assert draft is not None
        with pytest.raises(ConflictError, match="another draft"):
            await store.namespaces.put_policy("shop", rules=(), draft=draft.number + 1)
        state = await store.namespaces.put_policy(
            "shop", rules=draft.rules, mode=draft.mode, requires=draft.requires, draft=draft.number
        )
        assert (state.mode, state.rules, state.draft) == (Mode.EXPLICIT, (RULE,), None)
        (newest,) = await store.history.list_generations("shop", limit=1)
        assert newest.act == "draft.promote"


async def test_a_draft_never_keeps_the_rules_in_force_from_sidecars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store
        assert (await store.drafts.put("shop", DRAFT)).draft is not None
        monkeypatch.setattr(drafts, "MAX_BYTES_WITH_RULES", 50)
        state = await store.namespaces.put_policy("shop", rules=(RULE, Rule(name="other", action=Action.DENY)))
        assert (len(state.rules), state.draft) == (2, None)
        assert await store.drafts.get("shop") is not None
        monkeypatch.setattr(drafts, "MAX_BYTES", 20)
        with pytest.raises(InputError, match="at most 20 bytes"):
            await store.drafts.put("shop", DRAFT)


async def test_what_cant_be_a_policy_cant_be_a_draft(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        with pytest.raises(InputError, match="same name"):
            await core.store.drafts.put("shop", PolicyDraft(number=0, rules=(RULE, RULE)))
        assert tables.policy_drafts.name == "policy_drafts"


async def test_workloads_modes_are_drafted_or_left_as_they_are(tmp_path: Path) -> None:
    modes = (WorkloadMode(service_account="db", mode=Mode.EXPLICIT),)
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.put_policy("shop", rules=(), workload_modes=modes)
        for drafted, expected in ((None, modes), ((), ())):
            state = await core.store.drafts.put("shop", PolicyDraft(number=0, workload_modes=drafted))
            assert state.draft is not None
            assert state.draft.workload_modes == drafted
            assert put_draft_in_force(state, state.draft).workload_modes == expected


async def test_only_its_object_changes_an_objects_draft_and_none_is_lost_to_a_first_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store.drafts
        await store.put("shop", DRAFT, spares_objects=True, is_first=True)
        with pytest.raises(ConflictError, match="has a draft already"):
            await store.put("shop", DRAFT, is_first=True)
        with pytest.raises(NotFoundError):
            await store.drop("shop", is_object=True)
        await store.put("shop", DRAFT, is_object=True)
        assert await store.list_of_objects() == ["shop"]
        with pytest.raises(ConflictError, match="what MeshPolicy shop/draft says"):
            await store.put("shop", DRAFT, spares_objects=True)
        with pytest.raises(ConflictError, match="what MeshPolicy shop/draft says"):
            await store.drop("shop", spares_objects=True)
        await store.drop("shop", is_object=True)
        assert await store.list_of_objects() == []
