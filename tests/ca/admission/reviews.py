"""AdmissionReviews as the API server sends them."""

from __future__ import annotations

import base64
import json
from typing import Any

from shared.model.injection.json_patch import Operation, apply_patch

Json = dict[str, Any]


def make_review(pod: Json | None, **changes: Any) -> Json:
    """A question about a pod that is being created in the namespace ``shop``."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "jane"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": None,
        **changes,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def read_response(body: bytes) -> Json:
    """The response of our answer."""
    answer = json.loads(body)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Json = answer["response"]
    return response


def apply_response(pod: Json, response: Json) -> Json:
    """The pod as the API server makes it by our patch."""
    assert response["patchType"] == "JSONPatch"
    operations = [Operation(**each) for each in json.loads(base64.b64decode(response["patch"]))]
    patched: Json = apply_patch(pod, operations)
    return patched
