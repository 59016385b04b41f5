"""What an installation consists of, told by its label, and deleting it. Does I/O.

Belongs here: which of our objects go, which stay, and in which order. Doesn't: who would lose the CA
(``cli/admin/leaving.py``).

The state of the CA (its volume, the key that encrypts its keys) and the definitions of MeshPolicy and Program, with
which all policies and approvals go, are deleted only when that is asked for. The namespace is deleted only when it is
ours by its label and nothing else is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cli.cluster.connection import NAMESPACES, Cluster, Kind, Object
from cli.cluster.faults import UnreachableError
from cli.cluster.installation.bundle import (
    CLUSTER_SCOPED,
    CONSTRAINTS,
    KINDS,
    LEASES,
    OURS,
    PART_OF,
    SECRETS,
)
from cli.cluster.preflight.questions import find_namespace
from shared.model.errors import ConflictError, NotFoundError, TouchmarkError
from shared.model.kubernetes.contract import LEASE

KEK_SECRET: Final = "touchmark-kek"
POLL_S: Final = 1.0
_HELM: Final = "meta.helm.sh/release-name"
# First what asks the CA, then the CA, then what it needs.
_ORDER: Final = (
    "MutatingWebhookConfiguration",
    "Deployment",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "PodDisruptionBudget",
    "Service",
    "NetworkPolicy",
    "ConfigMap",
    "RoleBinding",
    "Role",
    "ClusterRoleBinding",
    "ClusterRole",
    "ServiceAccount",
    "CustomResourceDefinition",
    "PersistentVolumeClaim",
)
_DATA: Final = frozenset({"PersistentVolumeClaim", "Secret"})
_DEFINITIONS: Final = frozenset({"CustomResourceDefinition"})
_CONSTRAINTS: Final = "SecurityContextConstraints"  # Of OpenShift.
_KINDS: Final = {**KINDS, "Lease": LEASES, "Secret": SECRETS, _CONSTRAINTS: CONSTRAINTS}
# In each namespace, made by Kubernetes or OpenShift itself.
_EVERYWHERE: Final = frozenset(
    {
        ("configmaps", "kube-root-ca.crt"),
        ("configmaps", "openshift-service-ca.crt"),
        ("serviceaccounts", "default"),
        ("serviceaccounts", "builder"),
        ("serviceaccounts", "deployer"),
    }
)
# What tells about others, or goes with them.
_PASSING: Final = frozenset({"events", "endpoints", "endpointslices", "podmetrics", "controllerrevisions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One object of an installation."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        place = f" in {self.namespace}" if self.namespace else ""
        return f"{self.kind} {self.name}{place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What an uninstallation does.

    Attributes:
        deleted: in this order.
        kept: ours, and not asked for.
        foreign: what else is in our namespace, for which it stays; empty: nothing, or it isn't deleted anyway.
    """

    deleted: tuple[Part, ...]
    kept: tuple[Part, ...]
    foreign: tuple[str, ...] = ()


async def plan_removal(
    cluster: Cluster, namespace: str, *, deletes_data: bool, deletes_definitions: bool, deletes_helms: bool = False
) -> Removal:
    """Find what is ours, and divide it into what goes and what stays.

    Raises:
        ConflictError: the installation is in another namespace; or Helm has made it, and keeps a record of it.
        TouchmarkError: the cluster can't be asked.
    """
    found = await _find_ours(cluster, namespace)
    _check_place(found, namespace)
    if not deletes_helms:
        _check_maker(found)
    parts = [part for part, _ in found]
    stays = {"Namespace", *(() if deletes_data else _DATA), *(() if deletes_definitions else _DEFINITIONS)}
    deleted = [part for part in parts if part.kind not in stays]
    kept = [part for part in parts if part.kind in stays]
    foreign: list[str] = []
    own = next((part for part in kept if part.kind == "Namespace"), None)
    if own is not None and deletes_data:
        foreign = await _find_foreign(cluster, namespace, {(part.kind, part.name) for part in parts})
        if not foreign:
            kept.remove(own)
            deleted.append(own)
    return Removal(deleted=tuple(deleted), kept=tuple(kept), foreign=tuple(foreign))


async def remove(cluster: Cluster, parts: tuple[Part, ...], *, is_trial: bool = False) -> None:
    """Delete the objects, one after the other, or have the API server only try it; what is gone is passed over.

    Raises:
        TouchmarkError: the API server refuses one. What was deleted before is gone; run it again.
    """
    for part in parts:
        try:
            await cluster.delete(_KINDS[part.kind], part.namespace, part.name, dry_run=is_trial)
        except NotFoundError:
            pass


async def wait_gone(
    cluster: Cluster,
    parts: tuple[Part, ...],
    *,
    timeout_s: float,
    tell: Callable[[str], None],
    poll_s: float = POLL_S,
) -> list[Part]:
    """Wait until all of them are gone, and return those that aren't in time.

    Raises:
        TouchmarkError: they can't be looked up.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    left, said = list(parts), 0
    while True:
        try:
            left = [
                part for part in left if await cluster.find(_KINDS[part.kind], part.namespace, part.name) is not None
            ]
        except UnreachableError as error:
            tell(error.message)
        if not left or loop.time() >= deadline:
            return left
        if len(left) != said:
            said = len(left)
            tell(f"{said} objects are still there, such as {left[0]}")
        await asyncio.sleep(min(poll_s, max(0.0, deadline - loop.time())))


async def _find_ours(cluster: Cluster, namespace: str) -> list[tuple[Part, Object]]:
    """Return our objects, in the order in which they are deleted; the namespace last."""
    found: list[tuple[Part, Object]] = []
    for kind in (*_ORDER, _CONSTRAINTS):
        place = "" if kind in CLUSTER_SCOPED or kind == _CONSTRAINTS else namespace
        try:
            listed = await cluster.list(_KINDS[kind], place, labelSelector=OURS)
        except NotFoundError:  # A kind that this cluster doesn't have.
            continue
        found += [(Part(kind=kind, namespace=place, name=each["metadata"]["name"]), each) for each in listed]
    # Made by the CA, without a label.
    for kind, name in (("Lease", LEASE), ("Secret", KEK_SECRET)):
        value = await cluster.find(_KINDS[kind], namespace, name)
        if value is not None:
            found.append((Part(kind=kind, namespace=namespace, name=name), value))
    own = await cluster.find(NAMESPACES, "", namespace)
    if own is not None and (own["metadata"].get("labels") or {}).get(PART_OF) == "touchmark":
        found.append((Part(kind="Namespace", namespace="", name=namespace), own))
    return found


def _check_place(found: list[tuple[Part, Object]], namespace: str) -> None:
    """Refuse where the whole cluster's objects serve a CA elsewhere: without them it would be cut off, and stay."""
    for part, value in found:
        if part.kind == "MutatingWebhookConfiguration":
            place = find_namespace(value)
        elif part.kind == "ClusterRoleBinding":
            place = next((str(each.get("namespace", "")) for each in value.get("subjects") or ()), "")
        else:
            continue
        if place and place != namespace:
            raise ConflictError(
                f"nothing is deleted: Touchmark is installed in the namespace {place}, not in {namespace}",
                hint=f"--system-namespace {place}",
            )


def _check_maker(found: list[tuple[Part, Object]]) -> None:
    for part, value in found:
        release = (value["metadata"].get("annotations") or {}).get(_HELM)
        if release and part.kind == "Deployment":
            raise ConflictError(
                f"Helm has installed it, as the release {release}, and keeps a record of it",
                hint=f"helm uninstall {release} --namespace {part.namespace}; --force deletes it without Helm",
            )


async def _find_foreign(cluster: Cluster, namespace: str, ours: set[tuple[str, str]]) -> list[str]:
    """Name what else is in a namespace: objects of every kind that the API server knows.

    A kind that can't be listed counts as something that is there: nobody knows.
    """
    resources, found = await _list_resources(cluster)
    for group, version, resource in resources:
        kind = Kind(group=group, version=version, plural=resource["name"])
        if kind.plural in _PASSING:
            continue
        try:
            listed = await cluster.list(kind, namespace)
        except NotFoundError:
            continue
        except TouchmarkError as error:
            found.append(f"{resource['name']} (unknown: {error.message})")
            continue
        for each in listed:
            name = each["metadata"]["name"]
            is_ours = (resource["kind"], name) in ours or (kind.plural, name) in _EVERYWHERE
            if not is_ours and not each["metadata"].get("ownerReferences"):
                found.append(f"{resource['kind']} {name}")
    return sorted(set(found))


async def _list_resources(cluster: Cluster) -> tuple[list[tuple[str, str, dict[str, Any]]], list[str]]:
    """Return group, version and description of each kind, and the groups that nobody answers for.

    A kind needn't be in its group's preferred version: each is taken from the first version that has it.
    """
    groups = (await cluster.get_path("/apis")).get("groups") or ()
    places = [("", "v1")]
    for each in groups:
        preferred = each["preferredVersion"]["version"]
        versions = (version["version"] for version in each.get("versions") or ())
        places += [(each["name"], version) for version in dict.fromkeys((preferred, *versions))]
    found: dict[tuple[str, str], tuple[str, str, dict[str, Any]]] = {}
    unknown = []
    for group, version in places:
        try:
            answer = await cluster.get_path(f"/apis/{group}/{version}" if group else f"/api/{version}")
        except TouchmarkError as error:  # An API server of its own, behind this one, that is down.
            unknown.append(f"{group}/{version} (unknown: {error.message})")
            continue
        for each in _list_deletable(answer):
            found.setdefault((group, each["name"]), (group, version, each))
    return list(found.values()), unknown


def _list_deletable(answer: Object) -> Iterator[dict[str, Any]]:
    for each in answer.get("resources") or ():
        verbs = each.get("verbs") or ()
        if each.get("namespaced") and "/" not in each["name"] and "list" in verbs and "delete" in verbs:
            yield each
