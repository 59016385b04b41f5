"""The watches that fill the indexes of pods, namespaces and Services. No I/O of their own.

Belongs here: what is listed, and how it is trimmed. Doesn't: watching (``ca/kubernetes/api/watch.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ca.evidence.pod import Pod
from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.cluster.cluster_services import EndpointSlice, Service, ServiceIndex, trim_service, trim_slice
from ca.kubernetes.cluster.pods import Namespace, NamespaceIndex, PodIndex, PodRecord, trim_namespace
from ca.metrics import Metrics

DIRECTORY_WATCHES: Final = ("namespaces", "pods", "services", "endpointslices")


def make_directory_watches(
    client: ClusterClient,
    pods: PodIndex,
    namespaces: NamespaceIndex,
    services: ServiceIndex,
    *,
    trim_pod: Callable[[Pod], PodRecord],
    metrics: Metrics,
) -> dict[str, Watch[Any, Any]]:
    """Return the watches that fill the indexes, by name."""
    of_pods: Watch[Any, Any] = Watch(
        client,
        pods,
        name="pods",
        path="/api/v1/pods",
        kind=Pod,
        trim=trim_pod,
        metrics=metrics,
        # One that has ended leaves the selection, which the watch shows as a deletion.
        query={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"},
    )
    of_namespaces: Watch[Any, Any] = Watch(
        client,
        namespaces,
        name="namespaces",
        path="/api/v1/namespaces",
        kind=Namespace,
        trim=trim_namespace,
        metrics=metrics,
    )
    of_services: Watch[Any, Any] = Watch(
        client,
        services.services,
        name="services",
        path="/api/v1/services",
        kind=Service,
        trim=trim_service,
        metrics=metrics,
    )
    slices: Watch[Any, Any] = Watch(
        client,
        services.slices,
        name="endpointslices",
        path="/apis/discovery.k8s.io/v1/endpointslices",
        kind=EndpointSlice,
        trim=trim_slice,
        metrics=metrics,
    )
    return {watch.name: watch for watch in (of_namespaces, of_pods, of_services, slices)}
