"""A draft is put in force over what was looked at, and its object goes with it (``cli.cluster.draft_object``)."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from cli.backends import object_writer
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.rules import Action, Mode, PolicyDraft, Rule, WorkloadMode
from shared.model.wire.admin import DraftView
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.fake_ca import FakeCA

POLICIES = "/apis/touchmark.dev/v1alpha1/namespaces/shop/meshpolicies"
ASKED = "GET /v1/namespaces/shop/draft"
PROMOTE = ["policy", "draft", "shop", "--promote", "--ignore-lint", "-k"]
DRAFT = PolicyDraft(
    number=3,
    rules=(Rule(name="none", action=Action.DENY),),
    workload_modes=(WorkloadMode(service_account="db", mode=Mode.PERMISSIVE),),
)
VIEW = DraftView(namespace="shop", draft=DRAFT, written=1.0, is_object=True)
SPEC: dict[str, Any] = {
    "draft": True,
    "rules": [{"name": "none", "action": "deny"}],
    "workloadModes": {"db": "permissive"},
}


def make(name: str, spec: dict[str, Any], *, generation: int = 1, observed: int = 1, version: str = "5") -> Any:
    return {
        "apiVersion": "touchmark.dev/v1alpha1",
        "kind": "MeshPolicy",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"u-{name}",
            "generation": generation,
            "resourceVersion": version,
        },
        "spec": spec,
        "status": {
            "observedGeneration": observed,
            "mode": "permissive",
            "version": 4,
            "conditions": [{"type": "Accepted", "status": "True", "message": ""}],
        },
    }


@pytest.fixture
def world(cluster_ca: FakeCA, api: FakeAPI) -> FakeAPI:
    cluster_ca.answers[ASKED] = VIEW
    api.answers[f"GET {POLICIES}/default"] = make("default", {"mode": "permissive"}, version="9")
    api.answers[f"GET {POLICIES}/draft"] = make("draft", SPEC)
    api.answers[f"PATCH {POLICIES}/default"] = make("default", {"mode": "permissive"}, generation=2, observed=2)
    api.answers[f"DELETE {POLICIES}/draft"] = {"kind": "Status", "status": "Success"}
    return api


def list_written(api: FakeAPI) -> list[Any]:
    return [body for asked, query, body in api.requests if asked.startswith("PATCH ") and "dryRun" not in query]


def test_an_objects_draft_is_written_over_what_was_looked_at_and_its_object_goes(world: FakeAPI) -> None:
    assert run(PROMOTE) == ExitCode.SUCCESS
    (written,) = list_written(world)
    assert (written["metadata"]["name"], written["metadata"]["resourceVersion"]) == ("default", "9")
    assert written["spec"]["workloadModes"] == {"db": "permissive"}
    assert "draft" not in written["spec"]
    (options,) = world.asked(f"DELETE {POLICIES}/draft")
    assert options["preconditions"] == {"resourceVersion": "5"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("draft", make("draft", {**SPEC, "mode": "explicit"}, generation=2, observed=2)),
        ("draft", make("draft", SPEC, generation=2, observed=1)),
        ("draft", None),
        ("default", make("default", {"mode": "permissive"}, generation=2, observed=1)),
    ],
)
def test_what_the_ca_hasnt_taken_is_not_put_in_force(
    world: FakeAPI, capsys: pytest.CaptureFixture[str], name: str, changed: Any
) -> None:
    world.answers[f"GET {POLICIES}/{name}"] = changed
    assert run(PROMOTE) == ExitCode.CONFLICT
    assert f"the CA hasn't taken what MeshPolicy shop/{name} says now" in capsys.readouterr().err
    assert not list_written(world)


def test_a_policy_that_was_changed_since_the_look_is_not_written_over(
    world: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its status may change: that is the CA's. What people write may not, nor may another object take its name."""
    seen = make("default", {"mode": "permissive"}, version="9")
    changed = make("default", {"mode": "explicit"}, generation=2, observed=2, version="11")

    def patch(request: web.Request) -> Any:
        if "dryRun" in request.query:
            world.answers[f"GET {POLICIES}/default"] = changed  # Somebody is as fast as this.
        return seen

    world.answers[f"PATCH {POLICIES}/default"] = patch
    assert run(PROMOTE) == ExitCode.CONFLICT
    assert "MeshPolicy shop/default was changed meanwhile" in capsys.readouterr().err
    assert not list_written(world)
    assert not world.asked(f"DELETE {POLICIES}/draft")


@pytest.mark.parametrize("name", ["default", "draft"])
def test_nothing_is_put_in_force_beside_an_object_that_the_ca_refuses(world: FakeAPI, name: str) -> None:
    """What was in force before it still is, and its own content would be lost unseen."""
    refused = make(name, SPEC if name == "draft" else {"mode": "permissive"})
    refused["status"]["conditions"] = [{"type": "Accepted", "status": "False", "message": "no"}]
    world.answers[f"GET {POLICIES}/{name}"] = refused
    assert run(PROMOTE) == ExitCode.CONFLICT
    assert not list_written(world)


def test_a_draft_isnt_put_in_force_where_another_tools_fields_would_stay_beside_it(
    world: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    """Server-side apply leaves them: an allow rule that the draft takes away would stay in force."""
    kept = {
        **SPEC,
        "draft": False,
        "rules": [*SPEC["rules"], {"name": "old", "action": "allow"}],
        "group": {"label": "team"},
        "requires": ["matchingAddress"],
        "workloadModes": {"db": "permissive", "web": "permissive"},
    }
    world.answers[f"PATCH {POLICIES}/default"] = make("default", kept, generation=2, observed=2)
    assert run(PROMOTE) == ExitCode.CONFLICT
    assert "doesn't say it: rule old, requirement matchingAddress, group, mode of web" in capsys.readouterr().err
    assert not list_written(world)
    assert not world.asked(f"DELETE {POLICIES}/draft")


def test_a_draft_that_is_newer_than_what_went_in_force_stays(
    world: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = make("draft", SPEC, generation=2, observed=1, version="6")
    world.answers[f"GET {POLICIES}/draft"] = [make("draft", SPEC), make("draft", SPEC, version="5"), newer]
    world.answers[f"DELETE {POLICIES}/draft"] = make_status(409, "Conflict", "the resourceVersion is another")
    assert run(PROMOTE) == ExitCode.SUCCESS
    assert "another draft was written meanwhile, which stays a draft" in capsys.readouterr().err
    assert len(world.asked(f"DELETE {POLICIES}/draft")) == 1


EMPTY = make("default", {}, version="12")


@pytest.fixture
def without_policy(world: FakeAPI) -> FakeAPI:
    """No MeshPolicy is in force when the draft is looked at; an empty one is made."""
    world.answers[f"GET {POLICIES}/default"] = [None, EMPTY]
    world.answers[f"POST {POLICIES}"] = EMPTY
    world.answers[f"DELETE {POLICIES}/default"] = {"kind": "Status", "status": "Success"}
    return world


def test_where_no_policy_was_a_draft_is_written_over_an_empty_one_of_its_own(without_policy: FakeAPI) -> None:
    assert run(PROMOTE) == ExitCode.SUCCESS
    (made,) = without_policy.asked(f"POST {POLICIES}")
    assert (made["metadata"]["name"], made["spec"]) == ("default", {})
    (written,) = list_written(without_policy)
    assert written["metadata"]["resourceVersion"] == "12"
    assert not without_policy.asked(f"DELETE {POLICIES}/default")


def test_a_policy_that_somebody_made_since_the_look_is_not_written_over(
    without_policy: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    without_policy.answers[f"POST {POLICIES}"] = make_status(409, "AlreadyExists", "it exists")
    assert run(PROMOTE) == ExitCode.CONFLICT
    assert "MeshPolicy shop/default was changed meanwhile" in capsys.readouterr().err
    assert not without_policy.asked(f"PATCH {POLICIES}/default")


@pytest.mark.parametrize("is_written_to", [False, True])
def test_an_empty_policy_that_wasnt_needed_goes_unless_somebody_has_written_to_it(
    without_policy: FakeAPI, capsys: pytest.CaptureFixture[str], is_written_to: bool
) -> None:
    def refuse(_: web.Request) -> web.Response:
        if is_written_to:
            without_policy.answers[f"GET {POLICIES}/default"] = make("default", {}, generation=2, version="13")
        return make_status(403, "Forbidden", "admission webhook says no")

    without_policy.answers[f"PATCH {POLICIES}/default"] = refuse
    assert run(PROMOTE) != ExitCode.SUCCESS
    assert "says no" in capsys.readouterr().err
    deleted = [each["preconditions"] for each in without_policy.asked(f"DELETE {POLICIES}/default")]
    assert deleted == ([] if is_written_to else [{"resourceVersion": "12"}])


def test_a_promotion_that_the_ca_hasnt_taken_yet_says_what_ends_the_draft(
    world: FakeAPI, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_writer, "ACCEPTANCE_DEADLINE_S", 0.0)
    world.answers[f"PATCH {POLICIES}/default"] = make("default", {"mode": "permissive"}, generation=2, observed=1)
    assert run(PROMOTE) == ExitCode.DEADLINE
    assert "the draft stays until the CA has put it in force" in capsys.readouterr().err
    assert not world.asked(f"DELETE {POLICIES}/draft")
