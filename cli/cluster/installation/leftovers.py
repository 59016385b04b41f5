"""What an earlier installation has left, and what a new one makes of it. Does I/O.

Belongs here: findings for ``touchmark install``, beside those of the preflight. Doesn't: an installation that runs.
"""

from __future__ import annotations

from cli.cluster.ca_pod import list_ca_pods
from cli.cluster.connection import DEFINITIONS, MESH_POLICIES, NAMESPACES, PODS, PROGRAMS, Cluster
from cli.cluster.installation.bundle import CLAIMS, PART_OF, SECRETS
from cli.cluster.installation.removal import KEK_SECRET
from cli.cluster.snapshot import trim_pod
from cli.text.findings import Finding
from cli.text.output import name_some
from shared.model.kubernetes.contract import CA_SERVICE, GROUP


async def find_leftovers(cluster: Cluster, namespace: str, *, has_database: bool) -> list[Finding]:
    """Return a finding for each thing that is there already, pods of others too; none in a cluster without.

    Arguments:
        has_database: the new CA gets PostgreSQL, and leaves a former volume alone.

    Raises:
        TouchmarkError: the cluster can't be asked.
    """
    found = []
    counts = []
    for kind in (MESH_POLICIES, PROGRAMS):
        if await cluster.find(DEFINITIONS, "", f"{kind.plural}.{GROUP}") is not None:
            counts.append(f"{len(await cluster.list(kind))} {kind.plural}")
    if counts:
        found.append(
            Finding(
                subject="policies from before",
                is_well=True,
                observation=f"{' and '.join(counts)} come into force again",
            )
        )
    claim = None if has_database else await cluster.find(CLAIMS, namespace, CA_SERVICE)
    key = await cluster.find(SECRETS, namespace, KEK_SECRET)
    if claim is not None:
        found.append(
            Finding(
                subject="store from before",
                is_well=key is not None,
                is_optional=True,  # A claim that no CA has ever used is empty.
                observation=f"the claim {CA_SERVICE}'s volume is used again, with the key in the Secret {KEK_SECRET}"
                if key is not None
                else f"the claim {CA_SERVICE} is there, and the Secret {KEK_SECRET} with its key isn't",
                hint=""
                if key is not None
                else f"put the Secret back, or delete the claim; a CA doesn't open a store without its key:"
                f" kubectl -n {namespace} delete persistentvolumeclaim {CA_SERVICE}",
            )
        )
    elif key is not None:
        found.append(
            Finding(
                subject="key from before",
                is_well=True,
                observation=f"the Secret {KEK_SECRET} encrypts the new CA's keys",
            )
        )
    ours = {pod["metadata"]["name"] for pod in await list_ca_pods(cluster, namespace)}
    others = [pod["metadata"]["name"] for pod in await cluster.list(PODS, namespace, keep=trim_pod)]
    if cut := sorted(set(others) - ours):
        found.append(
            Finding(
                subject=f"pods in {namespace}",
                is_well=False,
                observation=f"the NetworkPolicy default-deny would cut off {name_some(cut)}",
                hint="install into a namespace of its own (--system-namespace)",
            )
        )
    return found


async def is_foreign_namespace(cluster: Cluster, namespace: str) -> bool:
    """Return whether the namespace is there and isn't ours: then its labels stay as they are."""
    there = await cluster.find(NAMESPACES, "", namespace)
    return there is not None and (there["metadata"].get("labels") or {}).get(PART_OF) != "touchmark"
