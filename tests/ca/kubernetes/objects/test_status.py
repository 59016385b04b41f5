"""The status says what is in force, and is written when that changes, not more often."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ca.kubernetes.objects import status as status_module
from ca.kubernetes.objects.objects import MESH_POLICY, PROGRAM, Outcome
from ca.kubernetes.objects.status import StatusWriter, make_status
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Mode
from shared.model.wire.admin import Acknowledgements
from tests.ca.founded import NOW, Founded, join, opened
from tests.ca.kubernetes.faking import faked
from tests.ca.kubernetes.objects.test_objects import Writing, make_object
from tests.ca.running import eventually
from tests.shared.model.policy.object_cases import policy, program

THEN, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_the_status_of_a_policy_says_what_is_in_force_and_where() -> None:
    value = make_object(policy({"mode": "explicit"}), generation=4)
    outcome = Outcome(uid="u1", generation=4, is_accepted=True, reason="InForce", message="")
    waiting = tuple(f"web-{number:03}" for number in range(30))
    found = Acknowledgements(namespace="shop", version=7, installed=2, total=32, waiting=waiting)
    status = make_status(value, outcome, mode=Mode.EXPLICIT, acknowledgements=found, now=THEN)
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "InForce",
        "message": "",
        "observedGeneration": 4,
        "lastTransitionTime": THEN,
    }
    assert status == {
        "observedGeneration": 4,
        "conditions": [condition],
        "mode": "explicit",
        "version": 7,
        "sidecars": 32,
        "installed": 2,
        "waiting": list(waiting[:20]),
    }


@pytest.mark.parametrize(("accepted", "time"), [(True, THEN), (False, LATER)])
def test_the_conditions_time_is_that_of_its_last_change(accepted: bool, time: str) -> None:
    before = make_status(
        make_object(program()),
        Outcome(uid="u1", generation=1, is_accepted=True, reason="InForce", message=""),
        now=THEN,
    )
    value = make_object({**program(), "status": before}, generation=2)
    outcome = Outcome(uid="u1", generation=2, is_accepted=accepted, reason="Any", message="x" * 9999)
    (condition,) = make_status(value, outcome, now=LATER)["conditions"]
    assert condition["lastTransitionTime"] == time
    assert len(condition["message"]) == status_module.MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize("status", [[], {"conditions": {}}, {"conditions": [1, {"type": "Other"}]}])
def test_a_status_that_another_has_scribbled_in_is_written_anew(status: Any) -> None:
    value = make_object({**program(), "status": status})
    outcome = Outcome(uid="u1", generation=1, is_accepted=True, reason="InForce", message="")
    assert make_status(value, outcome, now=THEN)["conditions"][0]["lastTransitionTime"] == THEN


class Server:
    """Takes patches of statuses."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, dict[str, Any]]] = []
        self.status = 200

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.patches.append((request.path, await request.json()))
        return web.json_response({}, status=self.status)


class Telling(Writing):
    """The writer of objects, with the writer of their status."""

    def __init__(self, core: Founded, client: Any, server: Server) -> None:
        super().__init__(core.store)
        self.core = core
        self.server = server
        self.status = StatusWriter(
            client, core.store, self.index, self.writer.outcomes, may_write=lambda: self.leads, clock=lambda: NOW
        )

    def echo(self) -> None:
        """Have the watch show what was patched, as the API server would."""
        for value in self.index:
            for path, body in self.server.patches:
                if path.endswith(f"/{value.name}/status"):
                    plain = policy({"mode": "explicit"}) if value.kind == MESH_POLICY else program()
                    told = make_object({**plain, "status": body["status"]}, generation=value.generation)
                    self.index.sink(value.kind).apply(told)


@contextlib.asynccontextmanager
async def telling(directory: Path) -> AsyncIterator[Telling]:
    server = Server()
    async with opened(directory) as core, faked(directory, server.serve) as client:
        yield Telling(core, client, server)


async def test_each_change_is_written_once(tmp_path: Path) -> None:
    async with telling(tmp_path) as t:
        await t.put(policy({"mode": "explicit"}))
        await t.put(program())
        assert await t.status.write_changes()
        prefix = "/apis/touchmark.dev/v1alpha1/namespaces/shop"
        written = dict(t.server.patches)
        assert set(written) == {f"{prefix}/meshpolicies/default/status", f"{prefix}/programs/postgres/status"}
        told = written[f"{prefix}/meshpolicies/default/status"]
        assert told["metadata"] == {"uid": "u1"}
        assert told["status"]["mode"] == "explicit" and told["status"]["sidecars"] == 0
        await t.status.write_changes()  # The watch hasn't shown it yet.
        t.echo()
        assert not await t.status.write_changes()
        assert len(t.server.patches) == 2


async def test_acknowledgements_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "OBJECT_S", 0.0)
    async with telling(tmp_path) as t:
        await t.put(policy({"mode": "explicit"}))
        await join(t.core, "web-1")
        assert await t.status.write_changes()
        assert t.server.patches[-1][1]["status"]["waiting"] == ["web-1"]
        t.echo()
        assert await t.status.write_changes()  # It waits for somebody: more is to come.
        await t.store.sidecars.mark_namespace_installed("web-1", "shop", 1)
        await t.status.write_changes()
        status = t.server.patches[-1][1]["status"]
        assert (status["sidecars"], status["installed"], status["waiting"]) == (1, 1, [])
        assert len(t.server.patches) == 2


async def test_one_object_is_not_written_more_often_than_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "OBJECT_S", 600.0)
    async with telling(tmp_path) as t:
        await t.put(policy({"mode": "explicit"}))
        await t.status.write_changes()
        await join(t.core, "web-1")
        assert await t.status.write_changes()
        assert len(t.server.patches) == 1


async def test_who_does_not_lead_writes_no_status(tmp_path: Path) -> None:
    async with telling(tmp_path) as t:
        await t.put(policy({"mode": "explicit"}))
        t.leads = False
        await t.status.write_changes()
        assert t.server.patches == []


async def test_a_generation_is_never_told_what_was_in_force_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switch to explicit is put in force while its status is gathered: whoever waits for it must not be misled."""
    async with telling(tmp_path) as t:
        await t.put(policy({"mode": "permissive"}))
        list_versions = t.store.namespaces.list_versions

        async def list_and_switch() -> Any:
            before = await list_versions()
            await t.put(policy({"mode": "explicit"}), generation=2)
            return before

        monkeypatch.setattr(t.store.namespaces, "list_versions", list_and_switch)
        await t.status.write_changes()
        (told,) = [body["status"] for _, body in t.server.patches]
        assert (told["observedGeneration"], told["mode"]) == (1, "permissive")
        monkeypatch.undo()
        monkeypatch.setattr(status_module, "OBJECT_S", 0.0)
        await t.status.write_changes()
        told = t.server.patches[-1][1]["status"]
        assert (told["observedGeneration"], told["mode"]) == (2, "explicit")


async def test_an_object_made_anew_doesnt_get_the_status_of_the_one_before(tmp_path: Path) -> None:
    async with telling(tmp_path) as t:
        await t.put(program())
        t.index.sink(PROGRAM).apply(make_object(program(), uid="u2"))
        await t.status.write_changes()
        assert t.server.patches == []


async def test_what_the_api_server_refuses_is_tried_less_often_and_keeps_nothing_else_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A definition of an older release refuses the status of each draft, of which there may be many."""
    for name, value in (("MAX_PATCHES", 1), ("OBJECT_S", 600.0), ("REFUSED_S", 2400.0)):
        monkeypatch.setattr(status_module, name, value)
    async with telling(tmp_path) as t:
        await t.put(policy({"mode": "explicit"}))
        await t.put(program())
        t.server.status = 422
        assert await t.status.write_changes()
        await t.status.write_changes()
        first, second = (path for path, _ in t.server.patches)
        assert first != second, "the other one had its turn"
        assert not await t.status.write_changes(), "nothing is expected before their time"
        assert len(t.server.patches) == 2
        waits = []
        for _ in range(8):
            waits += [each.wait_s for each in t.status._refused.values()]
            later = {key: dataclasses.replace(each, until=0.0) for key, each in t.status._refused.items()}
            t.status._refused.update(later)
            await t.status.write_changes()
            await t.status.write_changes()
        assert min(waits) == status_module.OBJECT_S and max(waits) == status_module.REFUSED_S
        t.server.status, count = 200, len(t.server.patches)
        await t.put(program(weak=True), generation=2)
        assert await t.status.write_changes(), "another generation is told at once"
        assert len(t.server.patches) == count + 1


async def test_a_namespace_with_many_statuses_to_be_written_lets_the_others_have_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "MAX_PATCHES", 2)
    async with telling(tmp_path) as t:
        for namespace, name in (("busy", "a"), ("busy", "b"), ("busy", "c"), ("zoo", "p")):
            await t.put({**program(), "metadata": {"name": name, "namespace": namespace}})
        await t.status.write_changes()
        assert sorted(path.split("/")[5] for path, _ in t.server.patches) == ["busy", "zoo"]


async def test_objects_that_have_gone_and_servers_that_fail_are_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUSY_S", "CALM_S", "OBJECT_S", "_ECHO_S"):
        monkeypatch.setattr(status_module, name, 0.02)
    async with telling(tmp_path) as t:
        await t.put(program())
        task = asyncio.create_task(t.status.run())
        try:
            for t.server.status in (404, 409, 500, 403):
                count = len(t.server.patches)
                await eventually(lambda count=count: len(t.server.patches) > count + 1)
            t.server.status = 200
            t.echo()
            await t.put(program(weak=True), generation=2)
            t.status.poke()
            await eventually(lambda: t.server.patches[-1][1]["status"]["observedGeneration"] == 2)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_workloads_modes_are_said_and_one_that_is_gone_is_removed_by_null() -> None:
    outcome = Outcome(uid="u1", generation=1, is_accepted=True, reason="InForce", message="")
    found = Acknowledgements(namespace="shop", version=7, installed=0, total=0, waiting=())

    def make(document: dict[str, object], *names: str) -> object:
        modes = make_modes(dict.fromkeys(names, Mode.EXPLICIT))
        value = make_object(document)
        status = make_status(
            value, outcome, mode=Mode.PERMISSIVE, workload_modes=modes, acknowledgements=found, now=THEN
        )
        return status.get("workloadModes")

    assert make(policy({})) is None
    assert make(policy({}), "db") == {"db": "explicit"}
    was = {**policy({}), "status": {"workloadModes": {"db": "explicit", "web": "explicit"}}}
    assert make(was, "db") == {"db": "explicit", "web": None}
    assert make({**policy({}), "status": {"workloadModes": {}}}) == {}, "what is written is what is wanted: no more"


def test_what_an_older_ca_said_of_a_draft_as_of_a_policy_is_removed() -> None:
    """Else it would stand there for ever, and be written again at each turn."""
    draft = make_object(policy({"draft": True}, name="draft"))
    outcome = Outcome(uid="u1", generation=1, is_accepted=True, reason="Draft", message="")
    found = Acknowledgements(namespace="shop", version=3, total=2, installed=1, waiting=("web-1",))
    modes = make_modes({"db": Mode.EXPLICIT})
    before = make_status(
        draft, outcome, mode=Mode.EXPLICIT, workload_modes=modes, acknowledgements=found, now="2026-01-01T00:00:00Z"
    )
    scribbled = dataclasses.replace(draft, status=before)
    patch = make_status(scribbled, outcome, now="2026-01-02T00:00:00Z")
    left = {name: value for name, value in {**before, **patch}.items() if value is not None}
    assert sorted(left) == ["conditions", "observedGeneration"]
    assert make_status(dataclasses.replace(draft, status=left), outcome, now="2026-01-03T00:00:00Z") == left
