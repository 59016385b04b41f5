"""The rest is tests/kubernetes/test_mode_notes.py, on a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ca.kubernetes.webhook_objects import mode_notes
from ca.kubernetes.webhook_objects.mode_notes import RETRY_S, ModeNotes, Modes, describe_mode
from ca.metrics import Metrics
from shared.model.kubernetes.contract import MODE_IN_FORCE, MODE_KEPT
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.policy.rules import Mode, WorkloadMode
from tests.ca.kubernetes.faking import faked

OWN = (WorkloadMode(service_account="db", mode=Mode.EXPLICIT),)


def make_policy(**said: Any) -> MeshPolicyDocument:
    return MeshPolicyDocument(namespace="shop", rules=(), **said)


@pytest.mark.parametrize(
    ("mode", "workload_modes", "policy", "said", "kept"),
    [
        (Mode.PERMISSIVE, (), None, "permissive", ""),  # Nobody has said anything yet.
        (Mode.EXPLICIT, (), make_policy(mode=Mode.EXPLICIT), "explicit", ""),
        (Mode.EXPLICIT, (), make_policy(), "explicit", "its mode"),
        (Mode.EXPLICIT, (), None, "explicit", "its mode"),
        (Mode.PERMISSIVE, OWN, make_policy(mode=Mode.PERMISSIVE), "permissive; db explicit", "workloads' modes"),
        (Mode.PERMISSIVE, OWN, make_policy(workload_modes=OWN), "permissive; db explicit", ""),
        (Mode.EXPLICIT, OWN, None, "explicit; db explicit", "its mode and workloads' modes"),
    ],
)
def test_what_no_policy_says_any_more_is_told(
    mode: Mode, workload_modes: tuple[WorkloadMode, ...], policy: MeshPolicyDocument | None, said: str, kept: str
) -> None:
    notes = describe_mode("shop", mode, workload_modes, policy)
    assert notes.pop(MODE_IN_FORCE) == said
    assert (f"no MeshPolicy of shop says {kept}:" in notes.pop(MODE_KEPT)) if kept else (MODE_KEPT not in notes)
    assert notes == {}


def test_a_namespace_of_many_workloads_is_cut_short() -> None:
    many = tuple(WorkloadMode(service_account=f"a{index}", mode=Mode.EXPLICIT) for index in range(300))
    assert describe_mode("shop", Mode.EXPLICIT, many, None)[MODE_IN_FORCE].endswith("a49 explicit and 250 more")


class Keeper:
    """A keeper with everything in the test's hand."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}
        self.modes: Modes = {}
        self.faults: dict[str, int] = {}
        self.asked: list[tuple[str, Any]] = []
        self.leads = True
        self.now = 1000.0
        self.notes: ModeNotes

    async def serve(self, request: web.Request) -> web.StreamResponse:
        namespace, body = request.path.split("/")[4], await request.json()
        self.asked.append((namespace, body["metadata"]["annotations"]))
        assert list(body) == ["metadata"], "neither the roots nor the owner are touched"
        status = self.faults.get(namespace, 200)
        return web.json_response({"metadata": {"namespace": namespace}}, status=status)

    async def list_modes(self) -> Modes:
        return self.modes


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    keeper = Keeper()
    async with faked(tmp_path, keeper.serve) as client:
        keeper.notes = ModeNotes(
            client,
            list_notes=lambda: keeper.found,
            list_modes=keeper.list_modes,
            find_policy=lambda _namespace: None,
            is_leader=lambda: keeper.leads,
            metrics=Metrics(),
            clock=lambda: keeper.now,
        )
        yield keeper


async def test_only_what_differs_is_written_and_what_no_longer_holds_is_taken_out(keeper: Keeper) -> None:
    keeper.found = {"shop": {MODE_IN_FORCE: "explicit", MODE_KEPT: "…"}, "bank": {MODE_IN_FORCE: "permissive"}}
    keeper.modes = {"shop": (3, Mode.PERMISSIVE, ()), "elsewhere": (1, Mode.EXPLICIT, ())}
    await keeper.notes.write_changes()
    assert keeper.asked == [("shop", {MODE_IN_FORCE: "permissive", MODE_KEPT: None})]


async def test_who_does_not_lead_writes_nothing(keeper: Keeper) -> None:
    keeper.found, keeper.leads = {"shop": {}}, False
    await keeper.notes.write_changes()
    assert keeper.asked == []


async def test_a_namespace_where_it_fails_holds_up_no_other_and_is_tried_again_later(keeper: Keeper) -> None:
    keeper.found = {"shop": {}, "gone": {}, "bank": {}}
    keeper.faults = {"shop": 403, "gone": 404}
    await keeper.notes.write_changes()
    assert [namespace for namespace, _ in keeper.asked] == ["shop", "gone", "bank"]
    keeper.asked.clear()
    await keeper.notes.write_changes()
    assert [namespace for namespace, _ in keeper.asked] == ["gone", "bank"], "not again at once"
    keeper.asked.clear()
    keeper.now += RETRY_S + 1
    await keeper.notes.write_changes()
    assert [namespace for namespace, _ in keeper.asked] == ["shop", "gone", "bank"]


async def test_a_turn_is_bounded(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode_notes, "MAX_PATCHES", 2)
    keeper.found = {"a": {}, "b": {}, "c": {}}
    await keeper.notes.write_changes()
    assert [namespace for namespace, _ in keeper.asked] == ["a", "b"]
