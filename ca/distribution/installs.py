"""Who has installed a namespace's present version: one count for the admin API and for the objects' status. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ca.store.records import SidecarRecord
from shared.model.wire.admin import Acknowledgements


def group_by_namespace(live: Iterable[SidecarRecord]) -> dict[str, list[SidecarRecord]]:
    """Return, for each namespace, the live sidecars that use its state: its own, and those that subscribed to it."""
    users: dict[str, list[SidecarRecord]] = {}
    for sidecar in live:
        for namespace in {sidecar.workload.namespace, *sidecar.namespace_versions}:
            users.setdefault(namespace, []).append(sidecar)
    return users


def count_acknowledgements(namespace: str, version: int, users: Iterable[SidecarRecord]) -> Acknowledgements:
    """Count, of the sidecars that use a namespace's state, those that have installed this version; name the others."""
    versions = {sidecar.instance: sidecar.namespace_versions.get(namespace, 0) for sidecar in users}
    waiting = sorted(instance for instance, installed in versions.items() if installed < version)
    return Acknowledgements(
        namespace=namespace,
        version=version,
        installed=len(versions) - len(waiting),
        total=len(versions),
        waiting=tuple(waiting),
    )
