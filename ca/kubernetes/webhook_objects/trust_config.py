"""The ConfigMap ``touchmark-trust``: the trust bundle's roots, in every namespace with injected pods. I/O.

Belongs here: when it is made, kept and removed. Doesn't: the bundle, who reads it (the sidecar, at every dial), or what
its annotations tell people (``mode_notes.py``, whose failures concern nothing here).

A pod that mounts it doesn't start without it, and its sidecar trusts whom it names. So it is there before the webhook
answers, has the current roots (whatever was written into it), comes back when it is deleted, and goes some time after
the last pod that needs it. With several replicas the one that leads keeps it; the others only make it where there
is none, so that one which hasn't heard of a new bundle yet doesn't put the old one back.

It is owned by the ClusterRole that lets the CA write it. Uninstalling Touchmark deletes that; the cluster's
garbage collector then removes every ConfigMap, and a CA that hasn't ended yet can't put one back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from ca.kubernetes.api.client import ClusterClient, quote_name
from ca.metrics import Metrics
from shared.model.errors import InputError, NotFoundError, TouchmarkError, UnavailableError
from shared.model.kubernetes.contract import CLUSTER_ROLE, MODE_IN_FORCE, MODE_KEPT, TRUST_CONFIG_MAP, TRUST_KEY

PATH: Final = "/api/v1/configmaps"
QUERY: Final = {"fieldSelector": f"metadata.name={TRUST_CONFIG_MAP}"}
OWNER_PATH: Final = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{CLUSTER_ROLE}"
# After the last pod's end, or the last question of the webhook: whatever makes pods may make the next one soon.
GRACE_S: Final = 600.0
CHECK_INTERVAL_S: Final = 5.0
CALL_DEADLINE_S: Final = 4.0
MAX_PARALLEL: Final = 8
RETRY_S: Final = 30.0
MAX_NAMESPACES: Final = 20_000

_log = structlog.get_logger("touchmark.ca")


class _Reference(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    namespace: str = ""
    owner_references: tuple[_Reference, ...] = ()
    annotations: dict[str, str] | None = None


class _OwnerMetadata(msgspec.Struct, frozen=True):
    uid: str


class _Owner(msgspec.Struct, frozen=True):
    metadata: _OwnerMetadata


class ConfigMap(msgspec.Struct, frozen=True):
    """The fields that count of a ConfigMap."""

    metadata: _Metadata
    data: dict[str, str] | None = None


class TrustRecord(msgspec.Struct, frozen=True):
    """What a namespace's ConfigMap says.

    Attributes:
        notes: for people, by annotation (``mode_notes.py``).
    """

    namespace: str
    roots: str
    notes: dict[str, str] = {}


def trim_trust(found: ConfigMap) -> TrustRecord:
    """Make what is remembered of a ConfigMap; one with further keys, or that isn't owned, is another than ours."""
    data = found.data or {}
    is_ours = len(data) == 1 and _Reference("ClusterRole", CLUSTER_ROLE) in found.metadata.owner_references
    annotations = found.metadata.annotations or {}
    notes = {name: text for name, text in annotations.items() if name in (MODE_IN_FORCE, MODE_KEPT)}
    return TrustRecord(found.metadata.namespace, data.get(TRUST_KEY, "") if is_ours else "", notes)


class TrustConfigMaps:
    """Keeps the ConfigMaps in step with the bundle; the sink of their watch.

    Arguments:
        read_roots: the bundle's current roots, as PEM.
        list_needing: namespaces with injected pods; None while that isn't known.
        is_leader: whether this replica keeps them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: ClusterClient,
        *,
        read_roots: Callable[[], str],
        list_needing: Callable[[], Iterable[str] | None],
        is_leader: Callable[[], bool],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._read_roots = read_roots
        self._list_needing = list_needing
        self._is_leader = is_leader
        self._metrics = metrics
        self._clock = clock
        self._found: dict[str, str] = {}
        self._notes: dict[str, dict[str, str]] = {}  # Namespace → what the watch has shown of its annotations.
        self._needed: dict[str, float] = {}  # Namespace → when it was last known to need one.
        self._retry: dict[str, float] = {}  # Namespace → not before.
        self._writing: set[str] = set()  # Namespaces whose write the watch has told nothing since.
        self._changed = asyncio.Event()
        self._bundles = 0  # How often it has changed.

    # ---- the watch's sink ---------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._found)

    def replace(self, values: Sequence[TrustRecord]) -> None:
        """These are all there are."""
        self._found = {value.namespace: value.roots for value in values}
        self._notes = {value.namespace: value.notes for value in values}
        self._writing.clear()
        self._changed.set()

    def apply(self, value: TrustRecord) -> None:
        """This one is new or has changed."""
        self._found[value.namespace] = value.roots
        self._notes[value.namespace] = value.notes
        self._writing.discard(value.namespace)
        self._changed.set()

    def remove(self, value: TrustRecord) -> None:
        """This one has been deleted."""
        self._found.pop(value.namespace, None)
        self._notes.pop(value.namespace, None)
        self._writing.discard(value.namespace)
        self._changed.set()

    def list_notes(self) -> Mapping[str, Mapping[str, str]]:
        """Return what the ConfigMaps that are there tell people, by namespace."""
        return dict(self._notes)

    def list_without(self, root: bytes) -> list[str]:
        """Return the namespaces that need a ConfigMap, or have one, and whose one lacks a root (DER)."""
        pem = ssl.DER_cert_to_PEM_cert(root)
        needing = {*(self._list_needing() or ()), *self._found}
        return sorted(namespace for namespace in needing if pem not in self._found.get(namespace, ""))

    # ---- the webhook --------------------------------------------------------------------------------------------
    async def publish(self, namespace: str) -> None:
        """Return once the namespace has its ConfigMap.

        Raises:
            TouchmarkError: the API server refuses, or doesn't answer in time.
        """
        found = self._found.get(namespace)
        if found != self._read_roots() and (not found or self._is_leader()):
            # A replica that doesn't lead may have an older bundle than a leader that makes one at this very moment: the
            # leader's watch shows it, and heals.
            await self._write(namespace)
        # Not before: a caller of the webhook may name namespaces that don't exist.
        if len(self._needed) >= MAX_NAMESPACES and namespace not in self._needed:
            self._needed.pop(next(iter(self._needed)))
        self._needed[namespace] = self._clock()

    # ---- upkeep -------------------------------------------------------------------------------------------------
    def note_bundle(self) -> None:
        """The trust bundle has changed."""
        self._bundles += 1
        self._retry.clear()
        self._changed.set()

    async def run(self) -> None:
        """Keep them, until cancelled. A namespace where it fails is tried again later, and holds up no other."""
        slots = asyncio.Semaphore(MAX_PARALLEL)
        while True:
            try:
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._is_leader():
                await self._reconcile(slots)

    async def _reconcile(self, slots: asyncio.Semaphore) -> None:
        now, roots = self._clock(), self._read_roots()
        needing = self._list_needing()
        # One that is there already counts as needed when it is first seen: a restart takes nothing away at once.
        for namespace in needing if needing is not None else list(self._found):
            self._needed[namespace] = now
        for namespace in self._found:
            self._needed.setdefault(namespace, now)
        work = []
        for namespace, last in list(self._needed.items()):
            if self._retry.get(namespace, now) > now:
                continue
            if now - last > GRACE_S:
                if namespace in self._found:
                    work.append((namespace, self._delete))
                else:
                    del self._needed[namespace]
            elif self._found.get(namespace) != roots:
                work.append((namespace, self._write))

        async def do(namespace: str, what: Callable[[str], Any]) -> None:
            async with slots:
                await self._try(namespace, what)

        await asyncio.gather(*(do(namespace, what) for namespace, what in work))

    async def _try(self, namespace: str, what: Callable[[str], Any]) -> None:
        bundles = self._bundles
        try:
            await what(namespace)
            self._retry.pop(namespace, None)
        except NotFoundError:  # The namespace is gone, and the ConfigMap with it.
            self._forget(namespace)
        except TouchmarkError as error:
            self._metrics.failures.labels(where="trust_config").inc()
            _log.warning("trust_not_published", namespace=namespace, code=error.code, message=error.message)
            if self._bundles == bundles:  # Else the one that failed is an older bundle: the new one doesn't wait.
                self._retry[namespace] = self._clock() + RETRY_S

    def _forget(self, namespace: str) -> None:
        for known in (self._found, self._needed, self._retry):
            known.pop(namespace, None)

    # ---- one namespace ------------------------------------------------------------------------------------------
    async def _write(self, namespace: str) -> None:
        roots = self._read_roots()
        self._writing.add(namespace)
        try:
            await self._put(namespace, roots)
            if (
                namespace in self._writing
            ):  # Else what the watch has told is newer than the answer: it may be deleted again.
                self._found[namespace] = roots
        finally:
            self._writing.discard(namespace)
        _log.info("trust_published", namespace=namespace)

    async def _put(self, namespace: str, roots: str) -> None:
        # Asked each time: a role that was deleted and made again is another owner, and they went with the old one.
        body = _make(namespace, roots, owner_uid=await self._find_owner())
        try:
            written = await self._client.apply(path_of(namespace), body, ConfigMap, deadline_s=CALL_DEADLINE_S)
        except InputError:
            # Somebody made it immutable, or what stands there is no text: another one has to take its place.
            await self._client.delete(path_of(namespace), deadline_s=CALL_DEADLINE_S)
            written = await self._client.apply(path_of(namespace), body, ConfigMap, deadline_s=CALL_DEADLINE_S)
        if len(written.data or {}) != 1:
            # What others applied beside our key stays: they would go on deciding what the pods see there.
            surplus = {name: None for name in written.data or {} if name != TRUST_KEY}
            await self._client.patch(path_of(namespace), {"data": surplus}, ConfigMap, deadline_s=CALL_DEADLINE_S)

    async def _find_owner(self) -> str:
        try:
            return (await self._client.get(OWNER_PATH, _Owner, deadline_s=CALL_DEADLINE_S)).metadata.uid
        except NotFoundError as error:
            raise UnavailableError(
                f"the ClusterRole {CLUSTER_ROLE}, which owns each ConfigMap {TRUST_CONFIG_MAP}, isn't there",
                hint="the installation isn't complete: `kubectl apply` it again",
            ) from error

    async def _delete(self, namespace: str) -> None:
        if self._clock() - self._needed[namespace] <= GRACE_S:
            return  # The webhook has asked while this waited for its turn.
        try:
            await self._client.delete(path_of(namespace), deadline_s=CALL_DEADLINE_S)
        except NotFoundError:
            pass
        self._forget(namespace)
        _log.info("trust_withdrawn", namespace=namespace)


def path_of(namespace: str) -> str:
    """Return where a namespace's ConfigMap is."""
    return f"/api/v1/namespaces/{quote_name(namespace)}/configmaps/{TRUST_CONFIG_MAP}"


def _make(namespace: str, roots: str, *, owner_uid: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "touchmark", "app.kubernetes.io/part-of": "touchmark"}
    owner = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "name": CLUSTER_ROLE,
        "uid": owner_uid,
    }
    metadata = {"name": TRUST_CONFIG_MAP, "namespace": namespace, "labels": labels, "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {TRUST_KEY: roots}}
