"""The cluster described for people: what is watched, how pods stand, who was refused. Pure.

Belongs here: the numbers of ``/v1/cluster``. Doesn't: the endpoint (``ca/api/admin/cluster.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ca.evidence.former_images import FormerImages
from ca.kubernetes.cluster.pods import NamespaceIndex, PodIndex, PodRecord
from shared.model.wire.admin import MAX_PODS_SHOWN, ClusterNamespace, FormerImage, PodView


@dataclass(frozen=True, slots=True, kw_only=True)
class PodCensus:
    """How the cluster's pods stand.

    Attributes:
        not_injected: pods that ask for injection and have no sidecar.
        unfit: pods whose sidecar may not join.
        passed_over: pods of the node's own in namespaces that ask.
    """

    namespaces: tuple[ClusterNamespace, ...]
    not_injected: tuple[PodView, ...]
    unfit: tuple[PodView, ...]
    passed_over: tuple[PodView, ...]


def count_pods(pods: PodIndex, namespaces: NamespaceIndex, *, connected: Collection[str]) -> PodCensus:
    """Count the pods of each namespace, and name those that something is wrong with.

    Arguments:
        connected: UIDs of pods whose sidecar has a stream.
    """
    totals: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    injected: Counter[str] = Counter()
    streams: Counter[str] = Counter()
    missing: list[PodRecord] = []
    unfit: list[PodRecord] = []
    passed_over: list[PodRecord] = []
    for pod in pods:
        is_wanted = namespaces.is_wanted(pod)
        totals[pod.namespace] += 1
        wanted[pod.namespace] += is_wanted
        injected[pod.namespace] += pod.has_sidecar
        streams[pod.namespace] += pod.has_sidecar and pod.uid in connected
        if is_wanted and not pod.has_sidecar:
            missing.append(pod)
        if pod.has_sidecar and pod.fault:
            unfit.append(pod)
        if namespaces.is_passed_over(pod):
            passed_over.append(pod)
    return PodCensus(
        namespaces=tuple(
            ClusterNamespace(
                namespace=name,
                is_labelled=namespaces.is_labelled(name),
                pods=totals[name],
                wanted=wanted[name],
                injected=injected[name],
                connected=streams[name],
            )
            for name in sorted({*totals, *namespaces.list_labelled()})
        ),
        not_injected=_view(missing),
        unfit=_view(unfit),
        passed_over=_view(passed_over),
    )


def count_former(pods: PodIndex, former: FormerImages) -> tuple[FormerImage, ...]:
    """Count the pods of each image that was taken out of the CA's list; images that none has are left out."""
    counts = Counter(pod.former_image for pod in pods if pod.former_image)
    return tuple(
        FormerImage(image=image, pods=count, ends=former.end_of(image)) for image, count in sorted(counts.items())
    )


def warn_of_former(pods: PodIndex, former: FormerImages) -> tuple[str, ...]:
    """Return a sentence for each image that was taken out while pods run it, for whoever makes a pod."""
    return tuple(
        f"touchmark: {each.pods} pods run {each.image[:90]}, which --sidecar-image no longer names:"
        f" they lose the mesh at {datetime.fromtimestamp(each.ends, UTC).isoformat(timespec='minutes')}"
        for each in count_former(pods, former)
    )


def _view(pods: Iterable[PodRecord]) -> tuple[PodView, ...]:
    chosen = sorted(pods, key=lambda pod: (pod.namespace, pod.name))[:MAX_PODS_SHOWN]
    return tuple(
        PodView(
            namespace=pod.namespace,
            name=pod.name,
            service_account=pod.service_account,
            node=pod.node,
            message=pod.trait or pod.fault,
        )
        for pod in chosen
    )
