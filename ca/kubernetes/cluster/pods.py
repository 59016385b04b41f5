"""The cluster's pods, as far as the CA needs them: who is at an address, and which pods are alive. No I/O.

Belongs here: what is remembered of a pod and of a namespace, the indexes over it, and what a change means. Doesn't:
following them (``ca/kubernetes/api/watch.py``), or what follows (``changes.py``).

An address belongs to the pod that got it last: a kubelet frees an address before the API server forgets its old pod.
Pods in the node's network have no address of their own: no workload's. A pod that has ended is forgotten at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from ca.evidence.former_images import FormerImages
from ca.evidence.pod import ContainerStatus, Pod, find_fault, find_node_trait
from shared.model.errors import InputError
from shared.model.kubernetes.contract import (
    CAPTURE_CONTAINER,
    INJECT,
    SIDECAR_CONTAINER,
    TUNNEL_PORT,
    name_instance,
)
from shared.model.wire.messages import DirectoryEntry
from shared.model.wire.registration import normalise_address

_MAX_IMAGES: Final = 32
_MAX_IMAGE_CHARACTERS: Final = 512
_NONE: Final = FormerImages()


class PodRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is remembered of a pod, some 700 bytes.

    Attributes:
        instance: its sidecar's name.
        addresses: its own IP addresses, in their one spelling.
        asks: its annotation: ``true``, ``false`` or empty.
        has_sidecar: it has a container of our sidecar's name: it is in the mesh, or can't be reached.
        fault: why its sidecar, if it has one, may not join; empty when it may.
        former_image: its sidecar's, where that is one which was taken out of the CA's list; else empty.
        trait: why its namespace's wish passes it over (``host_network``, …); empty when it doesn't.
        images: of each container that has started, but our own: its ID, and what it runs.
    """

    uid: str
    namespace: str
    name: str
    service_account: str
    node: str
    instance: str
    addresses: tuple[str, ...]
    created: str
    is_ended: bool
    is_terminating: bool
    asks: str
    has_sidecar: bool
    fault: str
    trait: str = ""
    former_image: str = ""
    images: tuple[tuple[str, str], ...] = ()

    def find_image(self, container: str) -> str:
        """Return the image of the container with this ID, or of the only one that it can be; empty: not known."""
        named = dict(self.images)
        if container:
            return named.get(container, "")
        return next(iter(named.values())) if len(set(named.values())) == 1 else ""


class PodIndex:
    """Every pod that hasn't ended, by UID, by address and by its sidecar's instance.

    Arguments:
        on_addresses: called with the addresses whose directory entry has changed.
        on_gone: called with pods that have ended or were deleted.
    """

    def __init__(
        self,
        *,
        on_addresses: Callable[[Iterable[str]], None],
        on_gone: Callable[[PodRecord], None],
    ) -> None:
        self._pods: dict[str, PodRecord] = {}
        self._holders: dict[str, tuple[str, ...]] = {}  # Address → UIDs, the last one to get it last.
        self._instances: dict[str, str] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._on_addresses = on_addresses
        self._on_gone = on_gone

    def __len__(self) -> int:
        return len(self._pods)

    def __iter__(self) -> Iterator[PodRecord]:
        return iter(self._pods.values())

    def get(self, uid: str) -> PodRecord | None:
        """Return the pod of this UID while it is there."""
        return self._pods.get(uid)

    def find_instance(self, instance: str) -> PodRecord | None:
        """Return the pod whose sidecar has this name."""
        return self._pods.get(self._instances.get(instance, ""))

    def find_address(self, address: str) -> PodRecord | None:
        """Return who is at the (normalised) address: the last to get it that isn't about to go."""
        holders = [self._pods[uid] for uid in self._holders.get(address, ())]
        return next((pod for pod in reversed(holders) if not pod.is_terminating), holders[-1] if holders else None)

    async def wait_for_addresses(self, uid: str) -> PodRecord:
        """Return the pod once it is known here with an address. The caller sets the deadline."""
        while (pod := self._pods.get(uid)) is None or not pod.addresses:
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting = self._waiters.setdefault(uid, set())
            waiting.add(change)
            try:
                await change
            finally:
                waiting.discard(change)
                if not waiting and self._waiters.get(uid) is waiting:
                    del self._waiters[uid]
        return pod

    def get_entry(self, address: str) -> DirectoryEntry | None:
        """Return the address's directory entry; without a namespace for a pod outside the mesh; None: no pod's."""
        pod = self.find_address(address)
        if pod is None:
            return None
        if not pod.has_sidecar:
            return DirectoryEntry(address=address)
        return DirectoryEntry(
            address=address, namespace=pod.namespace, service_account=pod.service_account, tunnel_port=TUNNEL_PORT
        )

    def replace(self, values: Sequence[PodRecord]) -> None:
        """These are all there are."""
        # A list has no order of time: the older pod is the one that had the address before.
        pods = sorted((pod for pod in values if not pod.is_ended), key=lambda pod: (pod.created, pod.uid))
        listed = {pod.uid for pod in pods}
        for uid in [uid for uid in self._pods if uid not in listed]:
            self._forget(self._pods[uid])
        for pod in pods:
            self.apply(pod)

    def apply(self, value: PodRecord) -> None:
        """This pod is new or has changed."""
        known = self._pods.get(value.uid)
        if value.is_ended:
            if known is not None:
                self._forget(known)
            return
        if value == known:
            return
        before = self._read_entries((*value.addresses, *(known.addresses if known is not None else ())))
        if known is not None:
            self._drop_addresses(known, kept=value.addresses)
        self._pods[value.uid] = value
        if value.instance:
            self._instances[value.instance] = value.uid
        for address in value.addresses:
            holders = self._holders.get(address, ())
            if value.uid not in holders:
                self._holders[address] = (*holders, value.uid)
        for change in self._waiters.get(value.uid, ()):
            if not change.done():
                change.set_result(None)
        self._tell(before)

    def remove(self, value: PodRecord) -> None:
        """This pod has been deleted."""
        known = self._pods.get(value.uid)
        if known is not None:
            self._forget(known)

    def _forget(self, pod: PodRecord) -> None:
        before = self._read_entries(pod.addresses)
        self._drop_addresses(pod, kept=())
        del self._pods[pod.uid]
        if self._instances.get(pod.instance) == pod.uid:
            del self._instances[pod.instance]
        self._tell(before)
        self._on_gone(pod)

    def _drop_addresses(self, pod: PodRecord, *, kept: Sequence[str]) -> None:
        for address in pod.addresses:
            if address in kept:
                continue
            holders = tuple(uid for uid in self._holders[address] if uid != pod.uid)
            if holders:
                self._holders[address] = holders
            else:
                del self._holders[address]

    def _read_entries(self, addresses: Iterable[str]) -> dict[str, DirectoryEntry | None]:
        return {address: self.get_entry(address) for address in addresses}

    def _tell(self, before: dict[str, DirectoryEntry | None]) -> None:
        # A pod outside the mesh and no pod at all are the same to those who watch the address.
        changed = [a for a, entry in before.items() if (entry or _nobody(a)) != (self.get_entry(a) or _nobody(a))]
        if changed:
            self._on_addresses(changed)


def _nobody(address: str) -> DirectoryEntry:
    return DirectoryEntry(address=address)


def trim_pod(pod: Pod, *, images: Sequence[str], ca_names: Iterable[str], former: FormerImages = _NONE) -> PodRecord:
    """Make what is remembered of a pod. When the grace of a former image is over isn't looked at here."""
    metadata, spec = pod.metadata, pod.spec
    leaving = former.list_for(metadata.creation_timestamp or "") if pod.has_sidecar else ()
    intern = sys.intern  # The same few names and faults stand in thousands of records.
    addresses = () if spec.host_network else _read_addresses(pod)
    return PodRecord(
        uid=metadata.uid,
        namespace=intern(metadata.namespace),
        name=metadata.name,
        service_account=intern(spec.service_account_name),
        node=intern(spec.node_name),
        instance=_name_instance(pod),
        addresses=addresses,
        created=metadata.creation_timestamp or "",
        is_ended=pod.is_ended,
        is_terminating=pod.is_terminating,
        asks=intern(metadata.annotations.inject if metadata.annotations is not None else ""),
        has_sidecar=pod.has_sidecar,
        fault=intern(find_fault(pod, images=(*images, *leaving), ca_names=ca_names)),
        former_image=intern(_find_former(pod, leaving)),
        trait=intern(find_node_trait(pod)),
        images=_read_images(pod) if pod.has_sidecar else (),
    )


def _read_images(pod: Pod) -> tuple[tuple[str, str], ...]:
    status = pod.status
    statuses = (*status.init_container_statuses, *status.container_statuses, *status.ephemeral_container_statuses)
    return tuple(
        # ``containerd://ID``. The image's digest stands in the image's ID, where the runtime knows it.
        (each.container_id.rpartition("//")[2], sys.intern(_name_image(each)))
        for each in statuses
        if each.container_id and each.name not in (SIDECAR_CONTAINER, CAPTURE_CONTAINER)
    )[:_MAX_IMAGES]


def _name_image(status: ContainerStatus) -> str:
    image, (_, at, digest) = status.image, status.image_id.rpartition("@")
    name = f"{image}@{digest}" if image and at and "@" not in image else image
    return name if len(name) <= _MAX_IMAGE_CHARACTERS and name.isprintable() else ""


def _find_former(pod: Pod, leaving: Sequence[str]) -> str:
    own = (each.image for each in pod.spec.init_containers if each.name == SIDECAR_CONTAINER)
    return next((image for image in own if image in leaving), "")


def _read_addresses(pod: Pod) -> tuple[str, ...]:
    addresses: dict[str, None] = {}
    for each in pod.status.pod_ips:
        try:
            addresses[normalise_address(each.ip)] = None
        except InputError:  # The API server checks them; a spelling that we don't know belongs to no pod.
            continue
    return tuple(addresses)


def _name_instance(pod: Pod) -> str:
    try:
        return name_instance(pod.metadata.name, pod.metadata.uid)
    except InputError:  # The UID of a mirror pod (made from a file by a kubelet) may be none; it isn't injected.
        return ""


# ---- namespaces ---------------------------------------------------------------------------------------------------


class _NamespaceMetadata(msgspec.Struct, frozen=True):
    name: str = ""
    labels: dict[str, str] | None = None


class Namespace(msgspec.Struct, frozen=True):
    """The fields of a namespace that the CA reads."""

    metadata: _NamespaceMetadata


class NamespaceRecord(msgspec.Struct, frozen=True, gc=False):
    """A namespace and its labels."""

    name: str
    labels: dict[str, str] = {}

    @property
    def is_labelled(self) -> bool:
        """Its label asks for injection."""
        return self.labels.get(INJECT) == "true"


class NamespaceIndex:
    """Every namespace by name.

    Arguments:
        on_labels: called when a namespace's labels may have changed.
    """

    def __init__(self, *, on_labels: Callable[[], None]) -> None:
        self._namespaces: dict[str, NamespaceRecord] = {}
        self._on_labels = on_labels

    def __len__(self) -> int:
        return len(self._namespaces)

    def __contains__(self, name: str) -> bool:
        return name in self._namespaces

    def is_labelled(self, name: str) -> bool:
        """Tell whether pods of this namespace are injected unless they say no."""
        known = self._namespaces.get(name)
        return known is not None and known.is_labelled

    def labels_of(self, name: str) -> dict[str, str]:
        """Return a namespace's labels; none of one that isn't there."""
        known = self._namespaces.get(name)
        return known.labels if known is not None else {}

    def list_labelled(self) -> list[str]:
        """Return the names of those that ask for injection."""
        return [record.name for record in self._namespaces.values() if record.is_labelled]

    def is_wanted(self, pod: PodRecord) -> bool:
        """Tell whether a pod asks for injection: by its own word or, without one, by its namespace's.

        A namespace asks for its applications, not for pods of the node's own.
        """
        return pod.asks == "true" or (pod.asks != "false" and not pod.trait and self.is_labelled(pod.namespace))

    def is_passed_over(self, pod: PodRecord) -> bool:
        """Tell whether a namespace's wish passes over this pod: it can't have a sidecar, and didn't ask itself."""
        return bool(pod.trait) and not pod.asks and self.is_labelled(pod.namespace)

    def replace(self, values: Sequence[NamespaceRecord]) -> None:
        """These are all there are."""
        self._namespaces = {value.name: value for value in values}
        self._on_labels()

    def apply(self, value: NamespaceRecord) -> None:
        """This one is new or has changed."""
        before = self._namespaces.get(value.name)
        self._namespaces[value.name] = value
        if before is None or before.labels != value.labels:
            self._on_labels()

    def remove(self, value: NamespaceRecord) -> None:
        """This one has been deleted."""
        self._namespaces.pop(value.name, None)


def trim_namespace(namespace: Namespace) -> NamespaceRecord:
    """Make what is remembered of a namespace."""
    return NamespaceRecord(namespace.metadata.name, namespace.metadata.labels or {})
