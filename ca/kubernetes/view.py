"""The cluster as the CA's other parts see it, and what stands in its place outside one. No I/O of its own.

Belongs here: what those parts ask. Doesn't: the answers (``ca/runtime/cluster.py`` composes them). It loads no client
library, so that a CA outside a cluster can import it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ca.store.records import JoinGrant
from shared.model.errors import NotFoundError, RefusedError, TouchmarkError
from shared.model.policy.decision import DecisionRecord
from shared.model.wire.admin import ClusterStatus
from shared.model.wire.messages import DirectoryEntry, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterUser:
    """A user as the API server knows it (authentication.k8s.io/v1, UserInfo)."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class ClusterUsers(Protocol):
    """What is asked of the cluster about its users. Every method raises ``UnavailableError`` when it can't be asked."""

    async def review_token(self, token: str) -> ClusterUser:
        """Return whose bearer token it is.

        Raises:
            NotAuthenticatedError: nobody's.
        """
        ...

    async def check_allowed(self, user: ClusterUser, *, verb: str, group: str, resource: str, namespace: str) -> None:
        """Check that the cluster's authorisation lets a user do this; ``namespace`` empty: in all of them.

        Raises:
            NotAllowedError: it doesn't.
        """
        ...

    async def read_client_roots(self) -> bytes:
        """Return the roots of the API server's client certificates, PEM; empty: it takes none."""
        ...


class ClusterView(Protocol):
    """What the CA's endpoints and upkeep ask of the cluster."""

    @property
    def users(self) -> ClusterUsers | None:
        """Who may do what by the cluster's authorisation; None: there is no cluster."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this replica does what one of several does: rotation, retention, policy objects."""
        ...

    @property
    def is_synced(self) -> bool:
        """Whether the directory is whole: an unknown address belongs to no workload."""
        ...

    def check_ready(self) -> Mapping[str, str]:
        """Return the cluster's part of ``/readyz``: check → ``ok`` or what is wrong."""
        ...

    def find_entry(self, address: str) -> DirectoryEntry | None:
        """Return what the API server says of a (normalised) address; None: nothing."""
        ...

    def find_image(self, pod_uid: str, container: str) -> str:
        """Return the image of a pod's container, by the container's ID; empty: not known."""
        ...

    async def authenticate(self, token: str, csr: bytes, registration: Registration) -> JoinGrant:
        """Return what a pod's sidecar is granted.

        Raises:
            RefusedError: the token, the pod or the registration doesn't hold, or there is no cluster.
            VerificationError: the certificate request doesn't hold.
            InputError: the registration can't be.
            UnavailableError: it can't be checked now.
        """
        ...

    def check_alive(self, grant: JoinGrant) -> JoinGrant:
        """Return a grant as it is now; a pod's only while the pod is alive.

        Raises:
            RefusedError: its pod is gone, its sidecar may no longer join, or there is no cluster.
            UnavailableError: whether it is alive isn't known.
        """
        ...

    def note_refusal(self, error: TouchmarkError, *, claimed: str, now: float) -> None:
        """Remember that a pod's sidecar was refused.

        Arguments:
            claimed: the instance that the sidecar called itself, unverified.
        """
        ...

    def tell_refusals(self, records: Sequence[DecisionRecord]) -> None:
        """Tell people of refused connections, on the pods that they concern."""
        ...

    def tell_pod(self, instance: str, reason: str, note: str) -> None:
        """Tell people something about a sidecar, on its pod.

        Arguments:
            reason: one word in CamelCase.
        """
        ...

    async def describe(self, connected: Collection[str]) -> ClusterStatus:
        """Return what is watched, how pods stand, and who was refused.

        Arguments:
            connected: UIDs of pods whose sidecar has a stream, with any replica.

        Raises:
            NotFoundError: there is no cluster.
        """
        ...


class NoCluster:
    """A CA outside a cluster: pods can't join, and every replica leads.

    No replica is elected there: each step of a rotation is compare-and-swap.
    """

    is_leader = True
    is_synced = True
    users = None

    def check_ready(self) -> Mapping[str, str]:
        """Return no check."""
        return {}

    def find_entry(self, _address: str) -> DirectoryEntry | None:
        """Return None."""
        return None

    def tell_refusals(self, _records: Sequence[DecisionRecord]) -> None:
        """Tell nobody."""

    def tell_pod(self, _instance: str, _reason: str, _note: str) -> None:
        """Tell nobody."""

    def find_image(self, _pod_uid: str, _container: str) -> str:
        """Return nothing."""
        return ""

    async def authenticate(self, _token: str, _csr: bytes, _registration: Registration) -> JoinGrant:
        """Refuse."""
        raise RefusedError("this CA works outside a cluster", hint="start it with --kubernetes, or join by token")

    def check_alive(self, grant: JoinGrant) -> JoinGrant:
        """Return the grant of a machine; refuse a pod's."""
        if grant.pod_uid:
            raise RefusedError(
                f"{grant.instance} joined as a pod, and this CA works outside a cluster",
                hint="start it with --kubernetes",
            )
        return grant

    def note_refusal(self, error: TouchmarkError, *, claimed: str, now: float) -> None:
        """Do nothing: no list of refused pods is shown."""

    async def describe(self, _connected: Collection[str]) -> ClusterStatus:
        """Refuse."""
        raise NotFoundError("this CA works outside a cluster", hint="it was started without --kubernetes")
