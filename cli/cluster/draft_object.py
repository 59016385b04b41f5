"""A draft that is put in force in a cluster: which objects were looked at, and the end of the draft's own. I/O.

Belongs here: that nothing is put in force over what somebody has written since, and no draft is deleted that nobody
looked at. Doesn't: writing the policy (``cli/backends/cluster.py``), what a draft would decide (the CA).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cli.cluster.connection import MESH_POLICIES, Cluster, Object
from cli.cluster.faults import ChangedError
from shared.model.errors import ConflictError, DocumentError, NotFoundError, TouchmarkError
from shared.model.kubernetes.contract import FIELD_MANAGER
from shared.model.policy.documents import (
    DRAFT_NAME,
    POLICY_NAME,
    Document,
    DraftDocument,
    MeshPolicyDocument,
    make_plain,
    read_document,
)

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from shared.model.wire.admin import DraftView

_MAX_ATTEMPTS: Final = 5
UNTAKEN: Final = "the draft stays until the CA has put it in force: repeat this command then, to end it"
_KEPT: Final = "another draft was written meanwhile, which stays a draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenObject:
    """One state of an object: what people write of it, since the CA writes its status all the time.

    Attributes:
        uid: empty where there was none.
    """

    uid: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDraft:
    """A draft as it was looked at before it is put in force.

    Attributes:
        policy: the object in force; None: not in a cluster.
        draft: the draft's object; None: the CA keeps the draft.
    """

    view: DraftView
    policy: SeenObject | None = None
    draft: SeenObject | None = None


def note_object(value: Object | None) -> SeenObject:
    """Return which state of an object this is."""
    metadata = (value or {}).get("metadata") or {}
    return SeenObject(uid=str(metadata.get("uid") or ""), generation=int(metadata.get("generation") or 0))


def check_unchanged(value: Object | None, seen: SeenObject, namespace: str) -> None:
    """Refuse an object that somebody has written since.

    Raises:
        ConflictError: somebody has.
    """
    if note_object(value) != seen:
        raise _changed(namespace)


async def look(cluster: Cluster, client: AdminClient, namespace: str) -> SeenDraft:
    """Return a namespace's draft with the objects that the CA judged it by.

    Raises:
        ConflictError: the CA hasn't seen what the objects say, or refuses it.
        NotFoundError: there is no draft.
    """
    # Before the CA is asked: what is written after this look has another generation, whatever the CA knew of it.
    policy = await cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
    drafted = await cluster.find(MESH_POLICIES, namespace, DRAFT_NAME)
    view = await client.get_draft(namespace)
    for name, value in ((POLICY_NAME, policy), (DRAFT_NAME, drafted)):
        if value is not None and not _is_taken(value):
            raise _unseen(namespace, name)
    if drafted is None:
        if view.is_object:
            raise _unseen(namespace, DRAFT_NAME)
        return SeenDraft(view=view, policy=note_object(policy))
    if not view.is_object or _read(drafted) != DraftDocument(policy=make_document(view)):
        raise _unseen(namespace, DRAFT_NAME)
    return SeenDraft(view=view, policy=note_object(policy), draft=note_object(drafted))


@asynccontextmanager
async def hold_name(cluster: Cluster, seen: SeenDraft) -> AsyncIterator[SeenObject | None]:
    """Give the object that a draft is to be written over; where there was none, an empty one, which says nothing.

    Server-side apply makes an object or changes it, and can't be told to do the first alone: what somebody makes at the
    same moment would be written over unseen. The empty one goes when what follows fails.

    Raises:
        ConflictError: somebody has made one since the look.
    """
    if seen.policy is None or seen.policy.uid:
        yield seen.policy
        return
    namespace = seen.view.namespace
    (empty,) = make_plain([MeshPolicyDocument(namespace=namespace)])
    try:
        made = await cluster.create(MESH_POLICIES, {**empty, "spec": {}}, namespace, manager=FIELD_MANAGER)
    except ChangedError as error:
        raise _changed(namespace) from error
    try:
        yield note_object(made)
    except TouchmarkError:
        with suppress(TouchmarkError):  # An empty policy changes nothing: what failed is what its writer should know.
            present = await cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
            if present is not None and note_object(present) == note_object(made):
                version = str(present["metadata"]["resourceVersion"])
                await cluster.delete(MESH_POLICIES, namespace, POLICY_NAME, resource_version=version)
        raise


async def end(cluster: Cluster, client: AdminClient, seen: SeenDraft) -> str:
    """Delete a draft that is in force now; return what its writer should know. One that is newer stays."""
    namespace = seen.view.namespace
    if seen.draft is None:
        try:
            await client.drop_draft(namespace, number=seen.view.draft.number)
        except ConflictError:
            return _KEPT
        except NotFoundError:
            pass  # Somebody dropped it meanwhile.
        return ""
    for _ in range(_MAX_ATTEMPTS):
        present = await cluster.find(MESH_POLICIES, namespace, DRAFT_NAME)
        if present is None:
            return ""
        if note_object(present) != seen.draft:
            return _KEPT
        version = str(present["metadata"]["resourceVersion"])
        try:
            await cluster.delete(MESH_POLICIES, namespace, DRAFT_NAME, resource_version=version)
        except ChangedError:
            continue  # Perhaps only its status.
        except NotFoundError:
            pass
        return ""
    return f"MeshPolicy {namespace}/{DRAFT_NAME} keeps changing, and stays"


def make_document(view: DraftView) -> MeshPolicyDocument:
    """Return a draft as the policy that it would be."""
    draft = view.draft
    return MeshPolicyDocument(
        namespace=view.namespace,
        mode=draft.mode,
        group_label=draft.group_label,
        rules=draft.rules,
        requires=draft.requires,
        workload_modes=draft.workload_modes,
    )


def _is_taken(value: Object) -> bool:
    """Tell whether the CA goes by what the object says: of one that it refuses, what was before is in force."""
    status = value.get("status") or {}
    if not any(
        each.get("type") == "Accepted" and each.get("status") == "True" for each in status.get("conditions") or ()
    ):
        return False
    return int(status.get("observedGeneration") or -1) >= note_object(value).generation


def _read(value: Object) -> Document | None:
    try:
        return read_document({**value, "kind": "MeshPolicy"})
    except DocumentError:
        return None


def _changed(namespace: str) -> ConflictError:
    return ConflictError(
        f"MeshPolicy {namespace}/{POLICY_NAME} was changed meanwhile: nothing is put in force",
        hint=f"`touchmark policy draft {namespace} -k` shows what the draft would change by now; then repeat",
    )


def _unseen(namespace: str, name: str) -> ConflictError:
    return ConflictError(
        f"the CA hasn't taken what MeshPolicy {namespace}/{name} says now: nothing is put in force",
        hint=f"`kubectl get meshpolicy {name} -n {namespace} -o wide` says whether it accepts it; then repeat",
    )
