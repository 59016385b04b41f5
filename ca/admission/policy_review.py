"""Whether a MeshPolicy may make its namespace explicit, asked at admission. No I/O of its own.

Belongs here: which of the API server's questions are judged, and the answers. Doesn't: HTTP (``webhook.py``), or the
judgement itself (``ca/observation/explicit_guard.py``).

Refused at admission, and not in the object's status later: who writes it reads the reason at once, and the object never
says explicit while the CA says permissive. So the webhook may be passed over while no CA answers (``failurePolicy:
Ignore``): what the object says is in force then, which is the stricter of both.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from ca.admission.review import Request, allow, forbid
from shared.model.errors import BlockedError, DocumentError
from shared.model.kubernetes.contract import FORCE_EXPLICIT
from shared.model.policy.documents import DraftDocument, MeshPolicyDocument, read_document
from shared.model.policy.rules import Mode


class JudgePolicy(Protocol):
    """Refuses what would refuse connections that were seen: ``judge_policy``."""

    def __call__(self, document: MeshPolicyDocument) -> Awaitable[object]:
        """Judge a policy that says explicit. Raises ``BlockedError``."""
        ...


async def review_policy(review: Request, judge: JudgePolicy) -> bytes:
    """Answer the API server's question about a MeshPolicy: whether it makes workloads explicit that weren't, in time.

    An object that can't be read is let pass: its status says why it isn't in force. A dry run is warned of, since the
    Programs that come with the policy aren't there yet.
    """
    document = _read(review.object)
    if isinstance(document, DraftDocument):
        return await _review_draft(review.uid, document.policy, judge)
    if document is None or (document.mode is not Mode.EXPLICIT and document.workload_modes is None):
        return allow(review.uid)
    mark = _read_mark(review.object)
    if mark and mark != _read_mark(review.old_object):
        return allow(review.uid, warnings=[f"{document.namespace} becomes explicit unjudged: {FORCE_EXPLICIT} is new"])
    try:
        await judge(document)
    except BlockedError as error:
        message = f"{error.code}: {error.message} (hint: {error.hint}; in YAML a new value of {FORCE_EXPLICIT})"
        if review.dry_run:
            return allow(review.uid, warnings=[message])
        return forbid(review.uid, message)
    return allow(review.uid)


async def _review_draft(uid: str, policy: MeshPolicyDocument, judge: JudgePolicy) -> bytes:
    """Let a draft pass, of which nothing is in force, and say what would be said of it in force."""
    if policy.mode is not Mode.EXPLICIT and policy.workload_modes is None:
        return allow(uid)
    try:
        await judge(policy)
    except BlockedError as error:
        return allow(uid, warnings=[f"nothing of a draft is in force; if this one were: {error.message}"])
    return allow(uid)


def _read(plain: dict[str, Any] | None) -> MeshPolicyDocument | DraftDocument | None:
    try:
        document = read_document(plain or {})
    except DocumentError:
        return None
    return document if isinstance(document, MeshPolicyDocument | DraftDocument) else None


def _read_mark(plain: dict[str, Any] | None) -> str:
    metadata = (plain or {}).get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return str(annotations.get(FORCE_EXPLICIT, "")) if isinstance(annotations, dict) else ""
