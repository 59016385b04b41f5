"""What a CA answers when it is asked for everything that ``status`` and ``doctor`` look at. Does I/O.

Belongs here: the questions and the value that holds the answers. Doesn't: what they mean (``overview.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cli.admin.client import AdminClient
from shared.model.errors import NotFoundError, UnavailableError
from shared.model.policy.rules import NamespaceState
from shared.model.wire.admin import CAStatus, ClusterStatus, Health, IdentityView, SidecarView

_MAX_IDENTITIES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the CA has answered.

    Attributes:
        namespaces: their states, rules and approvals left aside.
        identities: certificates that are alive.
        cluster: None outside a cluster, or when the CA doesn't know the question.
    """

    ca: CAStatus
    health: Health
    sidecars: tuple[SidecarView, ...]
    namespaces: tuple[NamespaceState, ...]
    identities: tuple[IdentityView, ...] = ()
    cluster: ClusterStatus | None = None


async def observe(client: AdminClient, *, is_in_cluster: bool) -> Observation:
    """Ask the CA for everything that an overview needs. A CA outside a cluster has no cluster status."""
    cluster = None
    if is_in_cluster:
        try:
            cluster = await client.get_cluster()
        except (NotFoundError, UnavailableError):
            pass  # An older CA, or one that serves a cluster without watching it.
    query = {"alive": "true", "limit": str(_MAX_IDENTITIES)}
    return Observation(
        ca=await client.get_status(),
        health=await client.get_health(),
        sidecars=(await client.list_sidecars()).sidecars,
        namespaces=(await client.list_namespaces()).namespaces,
        identities=(await client.list_identities(query)).identities,
        cluster=cluster,
    )
