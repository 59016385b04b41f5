from __future__ import annotations

import json
from typing import Any

import pytest

from ca.admission.review import allow, decode_review, fail, refuse
from shared.model.errors import InputError
from shared.model.injection.json_patch import Operation
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from tests.ca.admission.reviews import apply_response, make_review, read_response


def test_a_question_is_read() -> None:
    request = decode_review(json.dumps(make_review({"spec": {}}, subResource="ephemeralcontainers")).encode())
    assert (request.namespace, request.operation, request.sub_resource) == ("shop", "CREATE", "ephemeralcontainers")
    assert request.object == {"spec": {}}
    assert not request.dry_run


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "admission.k8s.io/v1beta1"},
        {"kind": "Pod"},
        {"request": None},
        {"request": {"uid": 1}},
        {"request": {**make_review(None)["request"], "object": "text"}},
        {"request": {**make_review(None)["request"], "dryRun": "no"}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="AdmissionReview"):
        decode_review(json.dumps({**make_review(None), **change}).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        decode_review(body)


def test_a_patch_travels_in_base64_and_the_uid_is_echoed() -> None:
    response = read_response(allow("u1", patch=[Operation(op="add", path="/a", value=1)], warnings=["x" * 999]))
    assert apply_response({}, response) == {"a": 1}
    assert (response["uid"], response["allowed"], len(response["warnings"][0])) == ("u1", True, 240)


def test_without_a_patch_there_is_no_patch_type() -> None:
    assert read_response(allow("u1")) == {"uid": "u1", "allowed": True}


def test_a_refusal_tells_the_user_and_a_failure_may_be_tried_again() -> None:
    response = read_response(refuse("u1", InjectionRefusedError(InjectionRefusal.HOST_PID, "no", hint="remove it")))
    assert response["allowed"] is False
    assert response["status"] == {"code": 403, "reason": "Forbidden", "message": "host_pid: no (hint: remove it)"}
    assert read_response(fail("u1", "later"))["status"]["code"] == 503
