"""The API server's question and our answer: AdmissionReview, ``admission.k8s.io/v1``. Pure.

Belongs here: the wire format, checked strictly where we rely on it. Doesn't: what is admitted (``webhook.py``).
Source: k8s.io/api/admission/v1; Kubernetes documentation, "Dynamic Admission Control".
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from shared.model.errors import InputError
from shared.model.injection.json_patch import Operation
from shared.model.injection.refusals import InjectionRefusedError

API_VERSION: Final = "admission.k8s.io/v1"
_MAX_WARNING_CHARACTERS: Final = 240  # The API server cuts longer ones off, and all of them together at 4096.


class Kind(msgspec.Struct, frozen=True):
    """Group and kind of an object; its version doesn't matter here."""

    kind: str
    group: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is to be created or changed.

    Attributes:
        uid: echoed in the answer.
        object, old_object: as JSON; None where there is none.
        dry_run: nothing may be left behind.
    """

    uid: str
    kind: Kind
    operation: str
    namespace: str = ""
    name: str = ""
    sub_resource: str = ""
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None
    dry_run: bool = False


class _Review(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    kind: str
    request: Request


_decoder: Final = msgspec.json.Decoder(_Review)


def decode_review(body: bytes) -> Request:
    """Read the API server's question.

    Raises:
        InputError: it is something else.
    """
    try:
        review = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not an AdmissionReview: {error}") from error
    if review.api_version != API_VERSION or review.kind != "AdmissionReview":
        raise InputError(f"not an AdmissionReview of {API_VERSION}: {review.api_version[:80]} {review.kind[:80]}")
    return review.request


def allow(uid: str, *, patch: Sequence[Operation] = (), warnings: Sequence[str] = ()) -> bytes:
    """Write the answer that lets the object pass, changed by the patch."""
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
    if warnings:
        response["warnings"] = [warning[:_MAX_WARNING_CHARACTERS] for warning in warnings]
    return _encode(response)


def refuse(uid: str, error: InjectionRefusedError) -> bytes:
    """Write the answer that refuses the object; its creator reads code, place, message and hint."""
    return forbid(uid, error.describe())


def forbid(uid: str, message: str) -> bytes:
    """Write the answer that refuses the object; its writer reads the message."""
    return _encode({"uid": uid, "allowed": False, "status": {"code": 403, "reason": "Forbidden", "message": message}})


def fail(uid: str, message: str) -> bytes:
    """Write the answer that refuses the object because of something that passes: it may be tried again."""
    status = {"code": 503, "reason": "ServiceUnavailable", "message": message}
    return _encode({"uid": uid, "allowed": False, "status": status})


def _encode(response: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
