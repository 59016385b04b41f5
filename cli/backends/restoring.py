"""What restores an earlier generation of a namespace in a cluster: objects to write and to delete. Pure.

In a cluster an object belongs to who writes it: Helm, Argo CD or ``kubectl apply`` would put back what an undo took
away. So what another tool owns is told before anything is written, and only taken over where the user says so.

Belongs here: which objects, and who owns them. Doesn't: requests (``cluster.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.backends import objects
from cli.cluster.connection import Object
from cli.cluster.faults import OwnedElsewhereError
from shared.model.kubernetes.contract import APPROVED_BY
from shared.model.policy.documents import Document, MeshPolicyDocument, ProgramDocument, make_plain
from shared.model.wire.admin import GenerationContent


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """In this order: approvals come before the mode that needs them, and go after it.

    Attributes:
        programs: objects to write; ``deleted``: names of ``Program`` objects that go.
        policy: the MeshPolicy to write.
    """

    programs: tuple[Object, ...]
    policy: Object
    deleted: tuple[str, ...]


def plan(content: GenerationContent, present: Sequence[Object], *, is_forced: bool) -> Plan:
    """Say what has to change.

    Arguments:
        present: the namespace's ``Program`` objects.
        is_forced: delete also what another tool has written.

    Raises:
        OwnedElsewhereError: another tool has written a ``Program`` that would have to go.
    """
    known = {str(each["metadata"]["name"]): each for each in present}
    wanted = {each.name: each for each in content.programs}
    deleted = tuple(name for name in known if name not in wanted)
    strangers = {name: owners for name in deleted if (owners := find_strangers(known[name]))}
    if strangers and not is_forced:
        raise OwnedElsewhereError(
            "these Programs were written by another tool: "
            + ", ".join(f"{name} ({', '.join(owners)})" for name, owners in strangers.items()),
            owners={owner: [name] for name, owners in strangers.items() for owner in owners},
            hint="undo it there, or it may come back; --force-conflicts deletes them anyway",
        )
    documents: list[Document] = []
    for each in content.programs:
        document = ProgramDocument(
            namespace=content.namespace,
            name=each.name,
            service_account=each.service_account,
            programs=each.programs,
            weak=each.weak,
            code=each.code,
        )
        (plain,) = make_plain([document])
        if each.name not in known or known[each.name].get("spec") != plain["spec"]:
            documents.append(document)
    policy = MeshPolicyDocument(
        namespace=content.namespace,
        mode=content.mode,
        group_label=content.group_label,
        rules=content.rules,
        requires=content.requires,
        workload_modes=content.workload_modes,
    )
    approved_by = {each.name: each.approved_by for each in content.programs}
    programs = tuple(_annotate(value, approved_by) for _, value in objects.make_objects(documents))
    return Plan(programs=programs, policy=objects.make_objects([policy])[0][1], deleted=deleted)


def find_strangers(value: Object) -> list[str]:
    """Return the field managers, but for ours, that wrote an object's fields (not its status)."""
    managers = [
        str(entry.get("manager") or "unknown")
        for entry in (value.get("metadata") or {}).get("managedFields") or ()
        if not entry.get("subresource")
    ]
    return sorted(set(managers) - objects.OWN_MANAGERS)


def _annotate(value: Object, approved_by: dict[str, str]) -> Object:
    """Keep who approved it then."""
    metadata = value["metadata"]
    name = approved_by.get(metadata["name"], "")
    return {**value, "metadata": {**metadata, "annotations": {APPROVED_BY: name}}} if name else value
