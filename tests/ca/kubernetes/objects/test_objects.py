"""Objects into the store: each change once, nothing twice, and a fault leaves what was in force."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ca.kubernetes.objects import objects as objects_module
from ca.kubernetes.objects import room as room_module
from ca.kubernetes.objects.objects import (
    APPROVED_BY,
    COMPARE_S,
    MESH_POLICY,
    PROGRAM,
    ObjectIndex,
    ObjectWriter,
    RawObject,
    WatchedObject,
    collection_path,
    fit_into,
    read_object,
)
from ca.kubernetes.objects.room import OBJECT_BYTES, Room
from ca.store.records import ProgramRecord
from ca.store.store import Store
from shared.model.errors import UnavailableError
from shared.model.identity.program import Program
from shared.model.kubernetes.contract import FORCE_EXPLICIT
from shared.model.policy.modes import make_modes, read_modes
from shared.model.policy.rules import Mode, PolicyDraft, put_draft_in_force
from shared.model.wire.admin_audit import AuditActor, read_entry
from tests.ca.founded import NOW, opened
from tests.ca.running import eventually
from tests.shared.model.policy.object_cases import CASES, A, B, policy, program

RULE = {"name": "web", "action": "allow", "ports": [80]}


def make_object(document: dict[str, Any], *, generation: int = 1, uid: str = "u1", **metadata: Any) -> WatchedObject:
    """An object as the watch gives it, from the JSON that an API server sends."""
    document = {**document, "metadata": {**document["metadata"], "generation": generation, "uid": uid, **metadata}}
    raw = msgspec.json.decode(msgspec.json.encode(document), type=RawObject)
    return read_object(document["kind"])(raw)


class Writing:
    """A store, an index and a writer that leads as long as it may."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.leads = True
        self.index = ObjectIndex()
        self.now = NOW
        self.writer = ObjectWriter(store, self.index, may_write=lambda: self.leads, clock=lambda: self.now)

    async def put(self, document: dict[str, Any], **metadata: Any) -> None:
        value = make_object(document, **metadata)
        self.index.sink(value.kind).apply(value)
        await self.writer.write_changes()

    async def remove(self, document: dict[str, Any]) -> None:
        value = make_object(document)
        self.index.sink(value.kind).remove(value)
        await self.writer.write_changes()

    async def version(self) -> int:
        return (await self.store.namespaces.get_state("shop")).version


@contextlib.asynccontextmanager
async def writing(directory: Path) -> AsyncIterator[Writing]:
    async with opened(directory) as core:
        yield Writing(core.store)


def test_the_collections_are_those_of_the_definitions() -> None:
    assert collection_path(MESH_POLICY) == "/apis/touchmark.dev/v1alpha1/meshpolicies"
    assert collection_path(PROGRAM) == "/apis/touchmark.dev/v1alpha1/programs"


async def test_a_namespace_with_thousands_of_changes_lets_the_others_have_their_turns(tmp_path: Path) -> None:
    """Also one whose change comes while they are written."""
    async with opened(tmp_path / "d") as core:
        writing = Writing(core.store)
        written: list[str] = []

        def note(namespace: str) -> None:
            written.append(namespace)
            if len(written) == 3:
                writing.index.sink(PROGRAM).apply(make_object(_program_of("late", "p")))

        core.store.namespaces.on_change(note)
        for number in range(6):
            writing.index.sink(PROGRAM).apply(make_object(_program_of("busy", f"p{number}")))
        writing.index.sink(PROGRAM).apply(make_object(_program_of("zoo", "p")))
        await writing.writer.write_changes()
        assert written == ["busy", "zoo", "busy", "busy", "late", "busy", "busy", "busy"]


async def test_a_program_beyond_its_namespaces_room_is_told_so_and_what_was_in_force_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once others take less it is wanted again, and then it is as if there had been room at first."""
    monkeypatch.setattr(room_module, "MAX_NAMESPACE_BYTES", 4 * OBJECT_BYTES)
    many = [f"sha256:{number:064x}" for number in range(12)]  # More than another object takes.
    async with writing(tmp_path / "d") as w:
        wanted: list[bool] = []
        w.index.on_room = lambda: wanted.append(True)
        for name in ("a", "b"):
            await w.put(program(name))
        await w.put(program("a", digests=many), generation=2)
        assert not wanted
        await w.put(program("b", digests=many), generation=2)
        outcome = w.writer.outcomes[PROGRAM, "shop", "b"]
        assert (outcome.is_accepted, outcome.generation) == (False, 2)
        assert outcome.message.startswith("the Programs of namespace shop take more than")
        counts = [(each.name, len(each.programs)) for each in await w.store.namespaces.list_programs()]
        assert counts == [("a", 12), ("b", 1)]
        await w.put({**program("b", digests=many), "metadata": {"name": "b", "namespace": "bank"}})
        assert w.writer.outcomes[PROGRAM, "bank", "b"].is_accepted, "another namespace has its own room"

        listed = [make_object(program("a", digests=many), generation=2), make_object(program("b", digests=many))]
        fit = fit_into(Room())
        w.index.sink(PROGRAM).replace([fit(value) for value in listed])
        await w.writer.write_changes()
        assert not w.writer.outcomes[PROGRAM, "shop", "b"].is_accepted
        assert not wanted
        await w.remove(program("a"))
        assert wanted
        await w.put(program("b", digests=many), generation=2)
        assert w.writer.outcomes[PROGRAM, "shop", "b"].is_accepted


def test_no_annotation_is_remembered_as_long_as_it_may_be() -> None:
    annotations = {APPROVED_BY: "x" * 100_000, FORCE_EXPLICIT: "y" * 100_000}
    value = make_object(program(), annotations=annotations)
    assert len(value.approved_by) == len(value.force_mark) == 2_000


async def test_what_was_not_written_when_the_store_failed_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d") as core:
        writing = Writing(core.store)
        for namespace in ("one", "two"):
            writing.index.sink(PROGRAM).apply(make_object(_program_of(namespace, "p")))

        async def fail(_record: ProgramRecord) -> None:
            raise UnavailableError("gone")

        with monkeypatch.context() as patches:
            patches.setattr(core.store.namespaces, "put_program", fail)
            with pytest.raises(UnavailableError):
                await writing.writer.write_changes()
        await writing.writer.write_changes()
        assert {each.namespace for each in await core.store.namespaces.list_programs()} == {"one", "two"}


def _program_of(namespace: str, name: str) -> dict[str, Any]:
    document = program()
    return {**document, "metadata": {"name": name, "namespace": namespace}}


async def test_a_policy_takes_its_place_once(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "explicit", "group": {"label": "team"}, "rules": [RULE]}))
        state = await w.store.namespaces.get_state("shop")
        assert (state.version, state.mode, state.group_label) == (1, Mode.EXPLICIT, "team")
        assert [rule.name for rule in state.rules] == ["web"]
        outcome = w.writer.outcomes[MESH_POLICY, "shop", "default"]
        assert (outcome.is_accepted, outcome.generation, outcome.reason) == (True, 1, "InForce")
        # The same content again, in whatever generation: no new version, so that no sidecar has to acknowledge it.
        await w.put(policy({"mode": "explicit", "group": {"label": "team"}, "rules": [RULE]}), generation=2)
        assert await w.version() == 1
        assert w.writer.outcomes[MESH_POLICY, "shop", "default"].generation == 2


async def test_a_change_of_the_status_alone_is_not_looked_at(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({}))
        w.writer.outcomes.clear()
        await w.put({**policy({}), "status": {"mode": "permissive"}})
        assert w.writer.outcomes == {}
        value = w.index.get((MESH_POLICY, "shop", "default"))
        assert value is not None and value.status == {"mode": "permissive"}


async def test_neither_leaving_the_mode_out_nor_deleting_the_policy_loosens(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "explicit", "rules": [RULE]}))
        await w.put(policy({"rules": [RULE]}), generation=2)
        assert await w.version() == 1
        await w.remove(policy({}))
        state = await w.store.namespaces.get_state("shop")
        assert (state.version, state.mode, state.rules) == (2, Mode.EXPLICIT, ())
        assert w.writer.outcomes == {}
        await w.put(policy({"mode": "permissive"}), uid="u2")
        assert (await w.store.namespaces.get_state("shop")).mode is Mode.PERMISSIVE


async def test_a_mode_on_trial_goes_back_whichever_leader_looks_when_its_time_is_up(tmp_path: Path) -> None:
    """The object says all that is needed, and nothing writes it: a leader that comes later knows the same."""
    until = datetime.datetime.fromtimestamp(NOW + 600, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    trial_spec = {"backTo": "permissive", "until": until}
    # To try one workload, the others have the present mode as their own, which the trial leaves alone.
    others = {"cart": "permissive"}
    tried = policy({"mode": "explicit", "trial": trial_spec, "workloadModes": others, "rules": [RULE]})
    async with writing(tmp_path) as first:
        store = first.store
        await first.put(tried)
        trial = await store.history.get_trial("shop")
        assert trial is not None
        assert (trial.mode, trial.back_to) == (Mode.EXPLICIT, Mode.PERMISSIVE)
        assert first.writer.seconds_until_look() == COMPARE_S
        first.now = trial.until - 10
        assert 10 <= first.writer.seconds_until_look() < 11
        await first.writer.compare_all()
        assert (await store.namespaces.get_state("shop")).mode is Mode.EXPLICIT
        assert await first.version() == 1, "nothing was to be done"

        second = Writing(store)
        second.now = trial.until
        await second.put(tried)
        state = await store.namespaces.get_state("shop")
        assert (state.mode, [rule.name for rule in state.rules]) == (Mode.PERMISSIVE, ["web"])
        assert read_modes(state.workload_modes) == others
        assert await store.history.get_trial("shop") is None
        outcome = second.writer.outcomes[MESH_POLICY, "shop", "default"]
        assert (outcome.is_accepted, outcome.message) == (
            True, "the trial of explicit is over: permissive is in force while spec.trial is there",
        )  # fmt: skip
        version = await second.version()
        await second.writer.compare_all()
        assert await second.version() == version
        assert second.writer.seconds_until_look() == COMPARE_S


async def test_a_trial_that_is_taken_out_of_the_object_or_prolonged_is_confirmed_or_prolonged(tmp_path: Path) -> None:
    def make(until: float) -> dict[str, Any]:
        text = datetime.datetime.fromtimestamp(until, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return policy({"mode": "explicit", "trial": {"backTo": "permissive", "until": text}})

    async with writing(tmp_path) as w:
        await w.put(make(NOW + 60))
        await w.put(make(NOW + 120), generation=2)
        trial = await w.store.history.get_trial("shop")
        assert trial is not None
        assert trial.until >= NOW + 119
        assert trial.back_to is Mode.PERMISSIVE
        await w.put(policy({"mode": "explicit"}), generation=3)
        assert await w.store.history.get_trial("shop") is None
        assert await w.store.history.end_due_trials(now=NOW + 600) == []
        assert (await w.store.namespaces.get_state("shop")).mode is Mode.EXPLICIT
        (line,) = (await w.store.audit.list_lines(limit=1, newest=True)).lines
        assert "trial" in read_entry(line).before


async def test_a_forced_switch_is_recorded(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "explicit"}), annotations={FORCE_EXPLICIT: "1"})
        (line,) = (await w.store.audit.list_lines(limit=1, newest=True)).lines
        assert read_entry(line).after["forced"] is True


async def test_an_object_that_cannot_be_read_keeps_what_was_in_force(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "explicit", "rules": [RULE]}))
        await w.put(program())
        bad_peer = {"unidentified": True, "cidrs": ["10.0.0.1/8"]}
        await w.put(policy({"rules": [{**RULE, "peers": [bad_peer]}]}), generation=2)
        await w.put(program(digests=["abc"]), generation=2)
        state = await w.store.namespaces.get_state("shop")
        assert (state.version, len(state.rules), len(state.approvals)) == (2, 1, 1)
        outcome = w.writer.outcomes[MESH_POLICY, "shop", "default"]
        assert (outcome.is_accepted, outcome.generation, outcome.reason) == (False, 2, "Invalid")
        assert outcome.message.startswith("spec.rules[0].peers[0].cidrs[0]: not a CIDR")
        assert not w.writer.outcomes[PROGRAM, "shop", "postgres"].is_accepted


async def test_a_policy_of_another_name_does_nothing(tmp_path: Path) -> None:
    """The API server refuses it; where the definition has been weakened, its deletion mustn't delete the true one."""
    async with writing(tmp_path) as w:
        await w.put(policy({"rules": [RULE]}))
        await w.put(policy({"mode": "explicit"}, name="other"))
        assert not w.writer.outcomes[MESH_POLICY, "shop", "other"].is_accepted
        await w.remove(policy({}, name="other"))
        state = await w.store.namespaces.get_state("shop")
        assert (state.version, state.mode, len(state.rules)) == (1, Mode.PERMISSIVE, 1)


async def test_programs_are_approved_changed_and_taken_back(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(program(digests=[A, A, f"{A}/main:none"], weak=True))
        record = await w.store.namespaces.get_program("shop", "postgres")
        assert record == ProgramRecord(
            namespace="shop",
            name="postgres",
            service_account="db",
            programs=(Program(digest=A), Program(digest=A, main="none")),
            weak=True,
            approved_by="Kubernetes",
            approved=NOW,
        )
        await w.put(program(digests=[A, f"{A}/main:none"], weak=True), generation=2)
        assert await w.version() == 1
        await w.put(program(digests=[B]), generation=3, annotations={APPROVED_BY: "ann@example.com"})
        record = await w.store.namespaces.get_program("shop", "postgres")
        assert record is not None and record.approved_by == "ann@example.com" and not record.weak
        await w.remove(program())
        assert await w.store.namespaces.list_programs() == []
        await w.remove(program())
        assert await w.version() == 3


async def test_what_was_deleted_while_nobody_looked_is_noticed(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "explicit", "rules": [RULE]}))
        await w.put(program())
        await w.put(program("kept"))
    async with writing(tmp_path) as w:
        w.index.sink(MESH_POLICY).replace([])
        w.index.sink(PROGRAM).replace([make_object(program("kept")), make_object(program("new"))])
        await w.writer.compare_all()
        state = await w.store.namespaces.get_state("shop")
        assert (state.mode, state.rules) == (Mode.EXPLICIT, ())
        assert [record.name for record in await w.store.namespaces.list_programs()] == ["kept", "new"]
        version = state.version
        await w.writer.compare_all()
        assert await w.version() == version


async def test_a_list_replaces_what_was_known_of_its_kind_alone(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"rules": [RULE]}))
        await w.put(program())
        sink = w.index.sink(PROGRAM)
        sink.replace([make_object(program("other"))])
        await w.writer.write_changes()
        assert [record.name for record in await w.store.namespaces.list_programs()] == ["other"]
        assert (len(sink), len(w.index.sink(MESH_POLICY))) == (1, 1)
        assert (await w.store.namespaces.get_state("shop")).rules != ()


async def test_what_the_store_refuses_is_said(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        digests = [f"{number:064x}" for number in range(6000)]
        await w.put(program("one", digests=digests))
        await w.put(program("two", digests=digests))
        outcome = w.writer.outcomes[PROGRAM, "shop", "two"]
        assert (outcome.is_accepted, outcome.reason) == (False, "Refused")
        assert "at most" in outcome.message
        assert await w.version() == 1


async def test_who_does_not_lead_writes_nothing_and_forgets_nothing(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        w.leads = False
        await w.put(policy({"rules": [RULE]}))
        assert await w.version() == 0
        w.leads = True
        await w.writer.write_changes()
        assert await w.version() == 1


async def test_a_store_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "RETRY_S", 0.05)
    monkeypatch.setattr(objects_module, "COMPARE_S", 0.1)
    async with writing(tmp_path) as w:
        put_policy, failures = w.store.namespaces.put_policy, [1, 1, 1]

        async def fail(*arguments: Any, **options: Any) -> Any:
            if failures:
                failures.pop()
                raise UnavailableError("away")
            return await put_policy(*arguments, **options)

        monkeypatch.setattr(w.store.namespaces, "put_policy", fail)
        task = asyncio.create_task(w.writer.run())
        try:
            value = make_object(policy({"rules": [RULE]}))
            w.index.sink(MESH_POLICY).apply(value)
            await eventually(lambda: (MESH_POLICY, "shop", "default") in w.writer.outcomes)
            assert await w.version() == 1
            # A store that lost what it knew (a backup was restored) is put right without any event.
            await w.store.namespaces.put_policy("shop", rules=())
            await eventually(lambda: _has_rules(w))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _has_rules(w: Writing) -> bool:
    return bool((await w.store.namespaces.get_state("shop")).rules)


async def test_the_audit_log_names_the_object_and_its_newest_field_managers(tmp_path: Path) -> None:
    managers = [
        {"manager": "first", "time": "2026-11-01T00:00:00Z", "fieldsV1": {}},
        {"manager": "kubectl-edit", "time": "2026-11-02T00:00:00Z"},
        {"manager": "touchmark-ca", "time": "2026-11-03T00:00:00Z", "subresource": "status"},
    ]
    async with writing(tmp_path / "d") as work:
        await work.put(policy({"mode": "explicit", "rules": [RULE]}), managedFields=managers, generation=3)
        await work.remove(policy({"mode": "explicit", "rules": [RULE]}))
        lines = (await work.store.audit.list_lines(limit=2, newest=True)).lines
    put, gone = (read_entry(line) for line in lines)
    assert (put.act, gone.act) == ("policy.put", "policy.delete")
    assert put.actor == AuditActor(
        kind="object", name="kubectl-edit, first", origin="MeshPolicy shop/default, generation 3"
    )
    assert gone.actor == AuditActor(kind="object", origin="MeshPolicy shop/default, deleted")


async def test_workloads_modes_are_what_the_object_says_and_stay_where_it_leaves_them_out(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "permissive", "workloadModes": {"db": "explicit", "web": "permissive"}}))
        modes = make_modes({"db": Mode.EXPLICIT, "web": Mode.PERMISSIVE})
        assert (await w.store.namespaces.get_state("shop")).workload_modes == modes
        await w.put(policy({"workloadModes": {"web": "permissive", "db": "explicit"}}), generation=2)
        await w.put(policy({}), generation=3)
        assert await w.version() == 1, "nothing of this says anything else"
        await w.remove(policy({}))
        assert (await w.store.namespaces.get_state("shop")).workload_modes == modes
        await w.put(policy({"workloadModes": {}}), uid="u2")
        assert (await w.store.namespaces.get_state("shop")).workload_modes == ()


DRAFT = {"draft": True, "mode": "explicit", "rules": [RULE], "workloadModes": {"db": "permissive"}}


async def test_a_draft_object_is_evaluated_beside_the_policy_and_nothing_of_it_is_in_force(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.put(policy({"mode": "permissive", "group": {"label": "team"}}))
        await w.put(policy(DRAFT, name="draft"), uid="u2")
        state = await w.store.namespaces.get_state("shop")
        assert (state.version, state.mode, state.rules, state.workload_modes) == (2, Mode.PERMISSIVE, (), ())
        assert state.draft is not None
        assert (state.draft.mode, state.draft.workload_modes) == (Mode.EXPLICIT, make_modes({"db": Mode.PERMISSIVE}))
        outcome = w.writer.outcomes[MESH_POLICY, "shop", "draft"]
        assert (outcome.is_accepted, outcome.reason) == (True, "Draft")
        assert outcome.message.startswith("nothing of it is in force")
        await w.writer.compare_all()
        assert await w.version() == 2, "it says the same"
        await w.put(policy({"draft": True, "mode": "strict"}, name="draft"), uid="u2", generation=2)
        assert w.writer.outcomes[MESH_POLICY, "shop", "draft"].reason == "Invalid"
        assert (await w.store.namespaces.get_state("shop")).draft == state.draft
        await w.remove(policy({}, name="draft"))
        ended = await w.store.namespaces.get_state("shop")
        assert (ended.draft, ended.mode) == (None, Mode.PERMISSIVE)
        await w.remove(policy({}, name="draft"))
        lines = [read_entry(line) for line in (await w.store.audit.list_lines(limit=2, newest=True)).lines]
    assert [(each.act, each.actor.origin) for each in lines] == [
        ("draft.put", "MeshPolicy shop/draft, generation 1"),
        ("draft.delete", "MeshPolicy shop/draft, deleted"),
    ]


async def test_what_a_draft_object_would_put_in_force_is_what_the_same_object_does(tmp_path: Path) -> None:
    """Sidecars evaluate that state (``tests/sidecar/connection/test_drafts.py`` says how)."""
    specs = [
        case.document["spec"] or {} for case in CASES if case.path is None and case.document["kind"] == MESH_POLICY
    ]
    async with writing(tmp_path) as w:
        for number, given in enumerate(specs):
            spec = {key: value for key, value in given.items() if key not in ("draft", "trial")}
            await w.put(policy({"mode": "explicit", "workloadModes": {"cache": "explicit"}}), generation=2 * number)
            await w.put(policy({**spec, "draft": True}, name="draft"), uid=f"u{number}")
            beside = await w.store.namespaces.get_state("shop")
            assert beside.draft is not None, given
            await w.put(policy(spec), generation=2 * number + 1)
            await w.remove(policy({}, name="draft"))
            enforced = await w.store.namespaces.get_state("shop")
            drafted = put_draft_in_force(beside, beside.draft)
            assert msgspec.structs.replace(drafted, version=enforced.version) == enforced, given
    assert len(specs) > 20


async def test_a_draft_object_takes_the_place_of_a_commands_draft_and_ends_alone(tmp_path: Path) -> None:
    async with writing(tmp_path) as w:
        await w.store.drafts.put("shop", PolicyDraft(number=0, mode=Mode.EXPLICIT))
        await w.remove(policy({}, name="draft"))
        await w.writer.compare_all()
        assert (await w.store.namespaces.get_state("shop")).draft is not None, "no object ever said that one"
        await w.put(policy({"draft": True, "mode": "explicit"}, name="draft"))
        kept = await w.store.drafts.get("shop")
        assert kept is not None and kept.is_object
    async with writing(tmp_path) as w:
        w.index.sink(MESH_POLICY).replace([])
        await w.writer.compare_all()
        assert await w.store.drafts.get("shop") is None, "it was deleted while nobody looked"
