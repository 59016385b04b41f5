"""The admin API's answers about the CA's cluster; ``admin.py`` has the others, and re-exports these. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

MAX_PODS_SHOWN: Final = 100
MAX_REFUSED_ENROLMENTS: Final = 100


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class WatchView(_Answer, frozen=True):
    """What the CA follows of one kind of object.

    Attributes:
        is_synced: it has been listed in full since the CA started.
        age_s: since the API server last said anything of it (an object, a bookmark, or that it still watches: once a
            minute at least); -1: never.
        objects: that the CA remembers of it.
        restarts: times the watch was opened again after a loss; ``lists``: times everything was listed.
        fault: why it isn't running now; empty while it is.
    """

    name: str
    is_synced: bool
    age_s: float
    objects: int
    restarts: int
    lists: int
    fault: str = ""


class RefusedEnrolment(_Answer, frozen=True):
    """A pod's sidecar that was refused.

    Attributes:
        reason: a stable code, such as ``pod_not_injected``.
        namespace, service_account, pod: as far as the API server had vouched for them when it was refused; else empty.
        claimed: the instance that the sidecar called itself.
    """

    time: float
    reason: str
    message: str
    hint: str = ""
    namespace: str = ""
    service_account: str = ""
    pod: str = ""
    claimed: str = ""


class PodView(_Answer, frozen=True):
    """A pod, with a message about it that may be empty."""

    namespace: str
    name: str
    service_account: str
    node: str = ""
    message: str = ""


class ClusterNamespace(_Answer, frozen=True):
    """Pods of one namespace that haven't ended.

    Attributes:
        is_labelled: the namespace asks for injection by its label.
        pods: all of them.
        wanted: those that ask for injection, by their annotation or their namespace's label.
        injected: those that have our sidecar.
        connected: injected ones whose stream to the CA is open, with any replica.
    """

    namespace: str
    is_labelled: bool
    pods: int
    wanted: int
    injected: int
    connected: int


class FormerImage(_Answer, frozen=True):
    """A sidecar image that was taken out of the CA's list.

    Attributes:
        pods: that run it.
        ends: when they are disconnected, in seconds since the epoch.
    """

    image: str
    pods: int
    ends: float


class ClusterStatus(_Answer, frozen=True):
    """What the CA sees of its cluster.

    Attributes:
        server_version: of the API server, such as ``v1.36.2``.
        clock_skew_s: the API server's clock minus the CA's, to about a second; None: not measured.
        sidecar_images: images whose sidecars may join.
        leader: the replica that writes objects into the store and tells their status, as far as this one knows; may be
            empty while none is elected. ``is_leader``: it is this one.
        watches: by name. ``namespaces``: by name, those with pods or our label.
        services: that have an address.
        not_injected: pods that ask for injection and don't have it, at most ``MAX_PODS_SHOWN``.
        unfit: injected pods that would be refused, with the reason, at most ``MAX_PODS_SHOWN``.
        refused: the last refused enrolments of this CA process, newest first; ``refused_total`` counts all.
        passed_over: pods in namespaces that ask for injection which can't have it, being the node's own, and didn't ask
            themselves; with the reason's code, at most ``MAX_PODS_SHOWN``.
        former_images: sidecar images that were taken out of the list and that pods run.
    """

    server_version: str
    clock_skew_s: float | None
    sidecar_images: tuple[str, ...]
    watches: tuple[WatchView, ...]
    namespaces: tuple[ClusterNamespace, ...]
    services: int
    not_injected: tuple[PodView, ...]
    unfit: tuple[PodView, ...]
    refused: tuple[RefusedEnrolment, ...]
    refused_total: int
    leader: str = ""
    is_leader: bool = False
    passed_over: tuple[PodView, ...] = ()
    former_images: tuple[FormerImage, ...] = ()
