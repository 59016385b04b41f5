"""An undo in a cluster writes the objects of that generation, and takes nothing from other tools unasked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cli.backends.restoring import find_strangers, plan
from cli.cluster.faults import OwnedElsewhereError
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.identity.program import Program
from shared.model.policy.rules import Action, Mode, Rule
from shared.model.wire.admin import GenerationContent, GenerationView, History, PastProgram
from shared.model.wire.admin_audit import AuditActor
from tests.cli.backends.test_cluster import MESH_POLICY, PROGRAMS, make_conflict
from tests.cli.backends.test_objects import make_policy
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.fake_ca import FakeCA

DIGEST = "ab" * 32
CONTENT = GenerationContent(
    namespace="shop",
    generation=2,
    mode=Mode.PERMISSIVE,
    has_policy=True,
    group_label="",
    rules=(Rule(name="a", action=Action.DENY),),
    requires=(),
    programs=(
        PastProgram(
            name="web", service_account="web", programs=(Program(digest=DIGEST),), weak=False, approved_by="ann",
            approved=1.0,
        ),
    ),
)  # fmt: skip
SPEC = {"serviceAccount": "web", "digests": [f"sha256:{DIGEST}"]}


def make_program(name: str, *managers: str) -> dict[str, Any]:
    entries = [{"manager": each} for each in managers] + [{"manager": "touchmark-ca", "subresource": "status"}]
    return {"metadata": {"name": name, "namespace": "shop", "managedFields": entries}, "spec": SPEC}


def test_what_is_as_it_was_is_not_written_and_what_is_new_goes() -> None:
    steps = plan(CONTENT, [make_program("web"), make_program("new", "touchmark")], is_forced=False)
    assert (steps.programs, steps.deleted) == ((), ("new",))
    assert steps.policy["spec"]["mode"] == "permissive"
    assert [rule["name"] for rule in steps.policy["spec"]["rules"]] == ["a"]
    (again,) = plan(CONTENT, [], is_forced=False).programs
    assert (again["spec"], again["metadata"]["annotations"]) == (SPEC, {"touchmark.dev/approved-by": "ann"})


def test_another_tools_program_is_deleted_only_by_force() -> None:
    theirs = make_program("new", "helm", "touchmark")
    assert find_strangers(theirs) == ["helm"]
    with pytest.raises(OwnedElsewhereError) as caught:
        plan(CONTENT, [theirs], is_forced=False)
    assert "new (helm)" in caught.value.message
    assert plan(CONTENT, [theirs], is_forced=True).deleted == ("new",)


@pytest.fixture
def past(cluster_ca: FakeCA, api: FakeAPI) -> FakeAPI:
    generations = tuple(
        GenerationView(
            generation=number, version=number, time=1.0, act="policy.put", subject="shop",
            actor=AuditActor(kind="object", name="touchmark"), mode=Mode.PERMISSIVE,
        )
        for number in (3, 2)
    )  # fmt: skip
    cluster_ca.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=generations)
    cluster_ca.answers["GET /v1/namespaces/shop/history/2"] = CONTENT
    api.answers[f"GET {PROGRAMS}"] = {"items": [make_program("web"), make_program("new", "touchmark")]}
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = make_policy(installed=3, waiting=[])
    api.answers[f"DELETE {PROGRAMS}/new"] = {}
    return api


def test_undo_tries_everything_writes_the_policy_and_deletes_last(
    past: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["mode", "shop", "undo", "-k"]) == ExitCode.SUCCESS
    writes = [(key.partition(" ")[0], query.get("dryRun")) for key, query, _ in past.requests if key[:3] != "GET"]
    assert writes == [("PATCH", "All"), ("DELETE", "All"), ("PATCH", None), ("DELETE", None)]
    assert past.asked(f"PATCH {MESH_POLICY}")[1]["spec"]["mode"] == "permissive"
    assert "generation 2 is in force again" in capsys.readouterr().out


def test_an_undo_takes_the_last_workloads_mode_away_by_a_patch_of_its_own(past: FakeAPI) -> None:
    """Server-side apply would make null of the emptied map, which the definition refuses."""
    present, emptied = (make_policy(installed=3, waiting=[]) for _ in range(2))
    present["spec"]["workloadModes"], emptied["spec"]["workloadModes"] = {"db": "permissive"}, {}
    fields: dict[str, object] = {"f:spec": {"f:workloadModes": {"f:db": {}}}}
    present["metadata"]["managedFields"] = [{"manager": "touchmark", "fieldsV1": fields}]
    past.answers[f"GET {MESH_POLICY}"] = present
    past.answers[f"PATCH {MESH_POLICY}"] = [present, present, emptied]
    assert run(["mode", "shop", "undo", "-k"]) == ExitCode.SUCCESS
    tried, kept, removal = (body["spec"]["workloadModes"] for body in past.asked(f"PATCH {MESH_POLICY}"))
    assert (tried, kept, removal) == ({"db": "permissive"}, {"db": "permissive"}, {"db": None})


def test_what_another_tool_owns_stops_the_undo_before_anything_is_written(past: FakeAPI) -> None:
    past.answers[f"PATCH {MESH_POLICY}"] = make_conflict("argocd")
    assert run(["mode", "shop", "undo", "-k"]) == ExitCode.CONFLICT
    assert not past.asked(f"DELETE {PROGRAMS}/new")
    (query,) = [query for key, query, _ in past.requests if key == f"PATCH {MESH_POLICY}"]
    assert query["dryRun"] == "All"


def test_a_deletion_that_the_api_server_refuses_stops_the_undo_before_anything_is_written(past: FakeAPI) -> None:
    past.answers[f"DELETE {PROGRAMS}/new"] = make_status(403, "Forbidden", "no")
    assert run(["mode", "shop", "undo", "-k"]) == ExitCode.REFUSED
    assert [query.get("dryRun") for key, query, _ in past.requests if key[:3] != "GET"] == ["All", "All"]


@pytest.mark.parametrize("stays", [True, False])
def test_an_undo_ends_a_trial_unless_it_leaves_that_mode(past: FakeAPI, cluster_ca: FakeCA, stays: bool) -> None:
    tried = make_policy(installed=3, waiting=[])
    tried["spec"]["trial"] = {"backTo": "permissive", "until": "2999-01-01T00:00:00Z"}
    past.answers[f"GET {MESH_POLICY}"] = tried
    past.answers[f"PATCH {MESH_POLICY}"] = [tried, tried, make_policy()]
    if stays:
        content = msgspec.structs.replace(CONTENT, tried=Mode.EXPLICIT)
        cluster_ca.answers["GET /v1/namespaces/shop/history/2"] = content
    assert run(["mode", "shop", "undo", "-k"]) == ExitCode.SUCCESS
    _, written, *settled = past.asked(f"PATCH {MESH_POLICY}")
    assert written["spec"]["mode"] == ("explicit" if stays else "permissive")
    assert [each["spec"] for each in settled] == ([] if stays else [{"mode": "permissive"}])


def test_an_undo_after_a_confirmed_trial_keeps_the_mode_that_was_confirmed(past: FakeAPI, cluster_ca: FakeCA) -> None:
    content = msgspec.structs.replace(CONTENT, tried=Mode.EXPLICIT)
    cluster_ca.answers["GET /v1/namespaces/shop/history/2"] = content
    assert run(["mode", "shop", "undo", "-k"]) == ExitCode.SUCCESS
    _, written = past.asked(f"PATCH {MESH_POLICY}")
    assert written["spec"]["mode"] == "explicit"
