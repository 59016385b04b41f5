"""Namespaces' versions grow with each change, and states are assembled from policy, programs and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ca.store import namespaces
from ca.store.records import ProgramRecord
from shared.model.errors import ConflictError, InputError, NotFoundError
from shared.model.identity.loaded_code import ApprovedCode, CodeCheck, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.rules import MAX_RULES, Action, Mode, Rule, WorkloadCode
from shared.model.wire.messages import MAX_MESSAGE_BYTES
from tests.ca.founded import NOW, WEB, opened, spend

RULE = Rule(name="all", action=Action.ALLOW)
CURL = ProgramRecord(namespace="shop", name="curl", service_account="web", programs=(Program(digest="c" * 64),))


async def test_each_change_raises_the_version_and_tells_the_listener(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        told: list[str] = []
        core.store.namespaces.on_change(told.append)
        assert (await core.store.namespaces.get_state("shop")).version == 0
        versions = [
            (await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)).version,
            (await core.store.namespaces.put_policy("shop", rules=[RULE], group_label="team")).version,
            (await core.store.namespaces.put_program(CURL)).version,
            (await core.store.namespaces.set_labels(WEB, {"team": "red"})).version,
            (await core.store.namespaces.delete_program("shop", "curl")).version,
        ]
        assert versions == [1, 2, 3, 4, 5]
        assert told == ["shop"] * 5
        state = await core.store.namespaces.get_state("shop")
        assert (state.mode, state.rules, state.group_label) == (Mode.EXPLICIT, (RULE,), "team")
        assert state.labels[0].labels == {"team": "red"}
    async with opened(tmp_path / "d") as core:
        assert await core.store.namespaces.list_states() == [state]


async def test_names_that_nobody_has_keep_no_state_from_being_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """A sidecar may ask for as many as it likes; each certificate asks for its namespace's state."""
    monkeypatch.setattr(namespaces, "MAX_NAMESPACES", 3)
    async with opened(tmp_path / "d") as core:
        for number in range(5):
            await core.store.namespaces.get_state(f"nobody-{number}")
        state = await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        again = await core.store.namespaces.get_state("shop")
        assert again == state
        if backend == "sqlite":
            assert again is await core.store.namespaces.get_state("shop")


async def test_what_a_workloads_programs_may_load_is_gathered_from_all_its_objects(tmp_path: Path) -> None:
    """One object names what the others' programs may load as well, so that a new library is one change."""
    libc, libz = (LoadedObject(path=f"/lib/{name}", digest=letter * 64) for name, letter in (("c", "1"), ("z", "2")))
    enforced = replace(CURL, code=ApprovedCode(objects=(libz, libc)))
    reported = replace(CURL, name="wget", code=ApprovedCode(objects=(libc,), check=CodeCheck.REPORT, jit=True))
    plain = replace(CURL, name="other", service_account="db")
    async with opened(tmp_path / "d") as core:
        for record in (enforced, reported, plain):
            state = await core.store.namespaces.put_program(record)
        assert state.code == (WorkloadCode(service_account="web", digests=("1" * 64, "2" * 64)),)
        assert {(each.name, each.code, each.jit) for each in state.approvals} == {
            ("curl", CodeCheck.ENFORCE, False),
            ("wget", CodeCheck.REPORT, True),
            ("other", None, False),
        }
    async with opened(tmp_path / "d") as core:
        assert await core.store.namespaces.list_states() == [state]
        assert (await core.store.namespaces.get_program("shop", "curl")) == enforced


async def test_deleting_the_policy_keeps_the_mode(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.put_policy("shop", rules=[RULE], mode=Mode.EXPLICIT)
        state = await core.store.namespaces.delete_policy("shop")
        assert (state.mode, state.rules) == (Mode.EXPLICIT, ())
        with pytest.raises(NotFoundError):
            await core.store.namespaces.delete_policy("shop")
        assert (await core.store.namespaces.get_state("shop")).version == state.version


async def test_a_mode_is_not_switched_on_what_is_no_longer_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.put_program(CURL)
        with pytest.raises(ConflictError):
            await core.store.namespaces.set_mode("shop", Mode.EXPLICIT, expected_version=0)
        assert (await core.store.namespaces.set_mode("shop", Mode.EXPLICIT, expected_version=1)).mode is Mode.EXPLICIT


async def test_a_state_that_cannot_be_is_not_stored(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        rules = [Rule(name=f"r{number}", action=Action.ALLOW) for number in range(MAX_RULES + 1)]
        for bad in (rules, [RULE, RULE]):
            with pytest.raises(InputError):
                await core.store.namespaces.put_policy("shop", rules=bad)
        assert (await core.store.namespaces.get_state("shop")).version == 0


async def test_a_state_that_no_sidecar_could_read_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sidecars of other namespaces read it as well: their streams would end with it, again and again."""
    assert namespaces.MAX_STATE_BYTES <= MAX_MESSAGE_BYTES * 3 // 4
    async with opened(tmp_path) as core:
        store = core.store.namespaces
        state = await store.put_program(CURL)
        monkeypatch.setattr(namespaces, "MAX_STATE_BYTES", len(msgspec.json.encode(state)) + 50)
        with pytest.raises(InputError, match="what sidecars are told of namespace shop would take"):
            await store.put_program(replace(CURL, name="another"))
        assert [record.name for record in await store.list_programs()] == [CURL.name]
        assert (await store.get_state("shop")).version == state.version
        # What takes away, or switches a mode, is possible whatever was stored before there was the bound.
        monkeypatch.setattr(namespaces, "MAX_STATE_BYTES", 1)
        await store.set_mode("shop", Mode.EXPLICIT)
        await store.delete_program("shop", CURL.name)


async def test_further_programs_are_refused_without_a_transaction_while_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would take as long as the state is large, and thousands may be refused, again and again."""
    others = tuple(Program(digest=f"{number:064x}") for number in range(3))
    async with opened(tmp_path) as core:
        store = core.store.namespaces
        state = await store.put_program(replace(CURL, programs=others))
        monkeypatch.setattr(namespaces, "MAX_STATE_BYTES", len(msgspec.json.encode(state)) + 50)
        another = replace(CURL, name="another")
        with pytest.raises(InputError, match="would take"):
            await store.put_program(another)
        with monkeypatch.context() as patches:
            patches.setattr(store, "change", None)  # No call of it.
            for record in (another, replace(another, name="third"), replace(CURL, programs=(*others, *CURL.programs))):
                with pytest.raises(InputError, match="would take"):
                    await store.put_program(record)
        monkeypatch.setattr(namespaces, "MAX_STATE_BYTES", len(msgspec.json.encode(state)) + 9_000)
        with monkeypatch.context() as patches:
            patches.setattr(store, "change", None)
            patches.setattr(namespaces, "MAX_PROGRAMS", 3)
            with pytest.raises(InputError, match="at most 3 approved programs"):
                await store.put_program(another)
        monkeypatch.setattr(namespaces, "MAX_STATE_BYTES", len(msgspec.json.encode(state)) + 50)
        await store.put_program(replace(CURL, programs=(*others[:2], *CURL.programs)))  # It takes no more than before.
        await store.put_program(CURL)
        await store.put_program(another)
        assert [record.name for record in await store.list_programs()] == ["another", "curl"]


async def test_labels_of_a_spent_token_are_vouched_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=[], labels={"team": "red"}, expires=NOW + 60, now=NOW
        )
        assert (await core.store.namespaces.get_state("shop")).labels == ()
        await spend(core.store, record.token_id, secret, "a", now=NOW)
        assert (await core.store.namespaces.get_state("shop")).labels[0].labels == {"team": "red"}
