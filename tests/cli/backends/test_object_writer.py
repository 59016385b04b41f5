"""Writing beside other tools: whose fields are taken over, and whose never."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.cli.backends.test_cluster import MESH_POLICY, make_conflict
from tests.cli.backends.test_objects import make_policy
from tests.cli.fake_api import FakeAPI, make_status


def test_a_field_of_another_tool_is_only_taken_by_force(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[f"PATCH {MESH_POLICY}"] = make_conflict("helm", "touchmark")
    assert run(["mode", "shop", "permissive", "-k", "--json"]) == ExitCode.CONFLICT
    error = msgspec.json.decode(capsys.readouterr().err)
    assert error["code"] == "owned_elsewhere"
    assert "'helm' owns .spec.mode" in error["message"]
    assert len(api.requests) == 1
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = make_policy(installed=3, waiting=[])
    assert run(["mode", "shop", "permissive", "-k", "--force-conflicts"]) == ExitCode.SUCCESS
    assert api.requests[1][1]["force"] == "true"


def test_our_own_managers_give_way_to_each_other_and_no_other_writer_is_overwritten(api: FakeAPI) -> None:
    current = make_policy(installed=3, waiting=[])
    current["metadata"]["resourceVersion"] = "41"
    api.answers[f"GET {MESH_POLICY}"] = current
    api.answers[f"PATCH {MESH_POLICY}"] = [
        make_conflict("touchmark"),  # The first try.
        make_conflict("touchmark"),  # Pinned to version 41.
        make_status(409, "Conflict", "modified"),  # By force, but it has changed.
        make_conflict("touchmark"),
        current,
    ]
    assert run(["mode", "shop", "permissive", "-k"]) == ExitCode.SUCCESS
    patches = [(query, body) for key, query, body in api.requests if key.startswith("PATCH")]
    assert [query.get("force") for query, _ in patches] == [None, None, "true", None, "true"]
    assert [body["metadata"].get("resourceVersion") for _, body in patches] == [None, "41", "41", "41", "41"]


def test_another_tool_s_claim_in_between_stops_us(api: FakeAPI) -> None:
    current = make_policy()
    current["metadata"]["resourceVersion"] = "41"
    api.answers[f"GET {MESH_POLICY}"] = current
    api.answers[f"PATCH {MESH_POLICY}"] = [make_conflict("touchmark"), make_conflict("helm")]
    assert run(["mode", "shop", "permissive", "-k"]) == ExitCode.CONFLICT
    assert not any(query.get("force") for _, query, _ in api.requests)


def test_what_keeps_changing_is_given_up(api: FakeAPI) -> None:
    current = make_policy()
    current["metadata"]["resourceVersion"] = "41"
    api.answers[f"GET {MESH_POLICY}"] = current
    api.answers[f"PATCH {MESH_POLICY}"] = [make_conflict("touchmark"), make_status(409, "Conflict", "modified")]
    assert run(["mode", "shop", "permissive", "-k"]) == ExitCode.CONFLICT
