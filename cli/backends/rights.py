"""What this user may change in a namespace, so that nothing is offered that would be refused. Does I/O.

It decides nothing: the CA and the API server check each change themselves. Belongs here: asking. Doesn't: the roles
(``ca/api/access/roles.py``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cli.backends.session import open_cluster
from cli.backends.target import Target
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import GROUP
from shared.runtime.paths import default_admin_socket

if TYPE_CHECKING:
    from cli.cluster.connection import Cluster

_OPERATE_GROUP: Final = "operate.touchmark.dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Whether a user may approve programs, refuse them, and switch the mode."""

    approves: bool = False
    refuses: bool = False
    switches: bool = False


async def find_rights(target: Target, namespace: str) -> Rights:
    """Return what this user may change; nothing where that can't be found out."""
    if not target.in_cluster:
        return Rights(approves=True, refuses=True, switches=True) if _is_operator(target) else Rights()
    try:
        async with open_cluster(target) as cluster:
            return Rights(
                approves=await _may(cluster, "patch", GROUP, "programs", namespace),
                refuses=await _may(cluster, "update", _OPERATE_GROUP, "namespaces", namespace),
                switches=await _may(cluster, "patch", GROUP, "meshpolicies", namespace),
            )
    except TouchmarkError:
        return Rights()


def _is_operator(target: Target) -> bool:
    """Tell whether the CA takes this process for an operator: root's, or of the user who owns its socket."""
    try:
        owner = os.stat(target.admin_socket or default_admin_socket()).st_uid
    except OSError:
        return False
    return os.geteuid() in (0, owner)


async def _may(cluster: Cluster, verb: str, group: str, resource: str, namespace: str) -> bool:
    from cli.cluster.connection import SELF_ACCESS_REVIEWS

    attributes: dict[str, Any] = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await cluster.create(SELF_ACCESS_REVIEWS, review)
    return (answer.get("status") or {}).get("allowed") is True
