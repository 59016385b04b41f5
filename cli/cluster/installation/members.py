"""Which pods of a cluster have a sidecar, with which image, and in which mode their namespace is. Does I/O.

Belongs here: what the API server knows, so that it can be asked without a CA. Doesn't: what it means
(``cli/admin/leaving.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cli.cluster.connection import MESH_POLICIES, PODS, Cluster, is_missing
from cli.cluster.membership import list_images
from cli.cluster.snapshot import has_sidecar, trim_pod
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import SIDECAR_CONTAINER
from shared.model.policy.documents import POLICY_NAME
from shared.model.policy.rules import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A pod with a sidecar."""

    namespace: str
    pod: str
    image: str


async def list_members(cluster: Cluster) -> list[Member]:
    """Return every pod with a sidecar that runs or may run."""
    pods = await cluster.list(PODS, keep=trim_pod)
    return [
        Member(
            namespace=pod["metadata"]["namespace"],
            pod=pod["metadata"]["name"],
            image=next(iter(list_images(pod, (SIDECAR_CONTAINER,))), ""),
        )
        for pod in pods
        if has_sidecar(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]


async def read_modes(cluster: Cluster) -> tuple[dict[str, Mode], dict[str, list[str]]]:
    """Return what MeshPolicies say: each explicit namespace's mode, and workloads that are explicit by their own mode.

    None where the definition is gone.
    """
    try:
        policies = await cluster.list(MESH_POLICIES)
    except TouchmarkError as error:
        if is_missing(error):
            return {}, {}
        raise
    modes: dict[str, Mode] = {}
    own: dict[str, list[str]] = {}
    for each in policies:
        namespace, spec = each["metadata"]["namespace"], each.get("spec") or {}
        if each["metadata"]["name"] != POLICY_NAME:
            continue  # A draft: nothing of it is in force.
        if spec.get("mode") == Mode.EXPLICIT.value:
            modes[namespace] = Mode.EXPLICIT
        named = sorted(name for name, mode in (spec.get("workloadModes") or {}).items() if mode == Mode.EXPLICIT.value)
        if named:
            own[namespace] = named
    return modes, own


def group(members: Iterable[Member]) -> dict[str, list[str]]:
    """Return the pods of each namespace."""
    grouped: dict[str, list[str]] = {}
    for member in members:
        grouped.setdefault(member.namespace, []).append(member.pod)
    return grouped


def list_laggards(members: Iterable[Member], admitted: Sequence[str]) -> dict[str, list[str]]:
    """Return the pods of each namespace whose sidecar isn't the one that new pods get, the first of ``admitted``."""
    return group(member for member in members if admitted and member.image != admitted[0])
