"""An API server's answer becomes an error with a stable code and the next step."""

from __future__ import annotations

from typing import Any

import pytest

from cli.cluster.faults import Action, OwnedElsewhereError, explain
from cli.text.exit_codes import ExitCode

LIST_POLICIES = Action(verb="list", group="touchmark.dev", resource="meshpolicies", namespace="shop")
LIST_PODS = Action(verb="list", group="", resource="pods")


def make_conflict(*managers: str) -> dict[str, Any]:
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{name}" using v1', "field": ".spec.mode"}
        for name in managers
    ]
    return {"reason": "Conflict", "message": "Apply failed with 1 conflict", "details": {"causes": causes}}


@pytest.mark.parametrize(
    ("code", "status", "action", "expected", "exit_code"),
    [
        (401, {}, LIST_PODS, "unauthorized", ExitCode.REFUSED),
        (403, {"message": 'User "x" cannot list resource'}, LIST_PODS, "forbidden", ExitCode.REFUSED),
        (404, {"details": {}}, LIST_POLICIES, "not_installed", ExitCode.UNAVAILABLE),
        (404, {"details": {"name": "default"}, "message": "m"}, LIST_POLICIES, "not_found", ExitCode.NOT_FOUND),
        (404, {}, LIST_PODS, "not_found", ExitCode.NOT_FOUND),
        (409, make_conflict("helm"), LIST_POLICIES, "owned_elsewhere", ExitCode.CONFLICT),
        (409, {"message": "modified"}, LIST_POLICIES, "changed", ExitCode.CONFLICT),
        (422, {"message": "invalid"}, LIST_POLICIES, "bad_object", ExitCode.BAD_INPUT),
        (503, {}, LIST_PODS, "api_unreachable", ExitCode.UNAVAILABLE),
        (302, {}, LIST_PODS, "unavailable", ExitCode.UNAVAILABLE),
    ],
)
def test_each_answer_has_its_code(
    code: int, status: dict[str, Any], action: Action, expected: str, exit_code: ExitCode
) -> None:
    error = explain(code, status, action)
    assert (error.code, error.exit_code) == (expected, exit_code)


def test_forbidden_says_which_right_to_ask_for() -> None:
    error = explain(403, {"message": 'User "x" cannot list resource "meshpolicies"'}, LIST_POLICIES)
    assert error.message == "you may not list meshpolicies.touchmark.dev in namespace shop"
    assert 'Role in namespace shop with apiGroups: ["touchmark.dev"], resources: ["meshpolicies"]' in error.hint
    forward = Action(verb="create", also="get", group="", resource="pods/portforward", namespace="t", name="p")
    assert 'verbs: ["create", "get"]' in explain(403, {}, forward).hint


def test_a_refusal_by_admission_isn_t_taken_for_a_missing_right() -> None:
    error = explain(403, {"message": "namespace is being terminated"}, LIST_POLICIES)
    assert "being terminated" in error.message
    assert not error.hint


def test_validation_names_each_field() -> None:
    causes = [{"field": "spec.mode", "message": "Unsupported value"}, {"field": "spec.x", "message": "unknown"}]
    error = explain(422, {"details": {"causes": causes}}, LIST_POLICIES)
    assert "spec.mode: Unsupported value; spec.x: unknown" in error.message


def test_a_conflict_names_the_managers_and_their_fields() -> None:
    error = explain(409, make_conflict("helm", "kubectl-client-side-apply"), LIST_POLICIES)
    assert isinstance(error, OwnedElsewhereError)
    assert error.owners == {"helm": [".spec.mode"], "kubectl-client-side-apply": [".spec.mode"]}
    assert "'helm' owns .spec.mode" in error.message
    assert "--force-conflicts" in error.hint
