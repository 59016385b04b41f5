"""``MeshPolicy`` and ``Program`` objects: read from the API server, written into the store. I/O through the store.

The objects are the source of truth in a cluster; what each of their changes does:

=====================  ===========================================================================================
An object              In the store
=====================  ===========================================================================================
is made or changed     takes its place, with one new version of the namespace; nothing when it says the same
can't be read          what was in force under its name stays; ``Accepted`` is False, with the fault and its path
MeshPolicy is deleted  rules and group go. The mode stays: a deletion never loosens anything by itself, nor does that of
                       the namespace; an annotation shows it (``webhook_objects/mode_notes.py``)
``spec.mode`` is left  the mode stays, too: back to permissive only by saying so; likewise ``spec.workloadModes``
``spec.trial`` is due  its ``backTo`` is in force, whatever ``spec.mode`` says, as ``status.mode`` shows; the object
                       itself isn't written, so that no other tool's field is taken over, and needs no right
Program is deleted     its approvals go
MeshPolicy ``draft``   is the namespace's draft, in the place of one that a command wrote, and nothing of it is ever in
                       force; it ends with the object
=====================  ===========================================================================================

What was deleted while no CA looked is noticed at the start of each leader, which compares everything.

Belongs here: reading objects, remembering them, and bringing the store in line. Doesn't: telling it back
(``status.py``), or who may write (``ca/kubernetes/api/lease.py``). Long, because both kinds share the memory of what
was read, and each row of the table is a method.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
import structlog

from ca.kubernetes.objects.room import MAX_NAMESPACE_BYTES, OBJECT_BYTES, Room, measure
from ca.store.audit.acting import acting_as
from ca.store.namespace_history import Trial
from ca.store.records import ProgramRecord
from ca.store.store import Store
from shared.model.errors import DocumentError, NotFoundError, TouchmarkError, UnavailableError
from shared.model.kubernetes.contract import FORCE_EXPLICIT
from shared.model.policy.documents import (
    API_VERSION,
    DRAFT_NAME,
    POLICY_NAME,
    Document,
    DraftDocument,
    MeshPolicyDocument,
    ProgramDocument,
    read_document,
)
from shared.model.policy.modes import find_newly_explicit
from shared.model.policy.rules import NamespaceState, PolicyDraft
from shared.model.wire.admin_audit import AuditActor

MESH_POLICY: Final = "MeshPolicy"
PROGRAM: Final = "Program"
PLURALS: Final = {MESH_POLICY: "meshpolicies", PROGRAM: "programs"}
APPROVED_BY: Final = "touchmark.dev/approved-by"  # An annotation, for people: who reviewed it.
DEFAULT_APPROVED_BY: Final = "Kubernetes"
# What nothing has told (a restored database) is put right then.
COMPARE_S: Final = 300.0
RETRY_S: Final = 2.0
_LONG_S: Final = 0.02
_MAX_REST_S: Final = 1.0
_TRIAL_MARGIN_S: Final = 0.1
_MAX_MANAGERS: Final = 4
_MAX_TEXT: Final = 2_000  # Of an annotation, which may have 256 KiB, or of a fault, that is remembered.
_log = structlog.get_logger("touchmark.ca")

Key = tuple[str, str, str]  # kind, namespace, name


class _Managed(msgspec.Struct):
    manager: str = ""
    time: str = ""
    subresource: str = ""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] | None = None
    managed_fields: tuple[_Managed, ...] | None = None


class RawObject(msgspec.Struct):
    """What of an object is read at once; nothing of it can make the object unreadable as a whole."""

    metadata: _Metadata
    spec: Any = msgspec.UNSET
    status: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedObject:
    """One object.

    Attributes:
        document: what it says; None when it can't be read.
        fault: why, with the path.
        status: as the API server has it now.
        force_mark: its annotation that makes a namespace explicit whatever that refuses.
        managers: the field managers that wrote it, but for its status, newest first.
        is_left_out: what it says isn't remembered: the namespace's room is taken.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    document: Document | None
    fault: str = ""
    hint: str = ""
    approved_by: str = ""
    force_mark: str = ""
    managers: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)
    is_left_out: bool = False

    @property
    def key(self) -> Key:
        """Its name among all."""
        return self.kind, self.namespace, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one generation of an object.

    Attributes:
        reason: of the condition ``Accepted``, one word.
    """

    uid: str
    generation: int
    is_accepted: bool
    reason: str
    message: str


def collection_path(kind: str) -> str:
    """Return where all objects of the kind are listed."""
    return f"/apis/{API_VERSION}/{PLURALS[kind]}"


def read_object(kind: str) -> Callable[[RawObject], WatchedObject]:
    """Return the function that makes the value to remember of a decoded object."""

    def read(raw: RawObject) -> WatchedObject:
        metadata = raw.metadata
        plain: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": metadata.name, "namespace": metadata.namespace},
        }
        if raw.spec is not msgspec.UNSET:
            plain["spec"] = raw.spec
        document: Document | None = None
        fault = hint = ""
        try:
            document = read_document(plain)
        except DocumentError as error:
            fault, hint = error.message[:_MAX_TEXT], error.hint[:_MAX_TEXT]
        return WatchedObject(
            kind=kind,
            namespace=metadata.namespace,
            name=metadata.name,
            uid=metadata.uid,
            generation=metadata.generation,
            document=document,
            fault=fault,
            hint=hint,
            approved_by=(metadata.annotations or {}).get(APPROVED_BY, "")[:_MAX_TEXT],
            force_mark=(metadata.annotations or {}).get(FORCE_EXPLICIT, "")[:_MAX_TEXT],
            managers=_list_managers(metadata),
            status=raw.status if isinstance(raw.status, dict) else {},
        )

    return read


def _list_managers(metadata: _Metadata) -> str:
    written = [one for one in metadata.managed_fields or () if not one.subresource]
    newest = sorted(written, key=lambda one: one.time, reverse=True)
    return ", ".join(dict.fromkeys(one.manager[:128] for one in newest[:_MAX_MANAGERS]))


def fit_into(room: Room) -> Callable[[WatchedObject], WatchedObject]:
    """Return the function through which objects pass to be remembered: it takes from one what there is no room for."""

    def fit(value: WatchedObject) -> WatchedObject:
        if value.kind != PROGRAM:
            return value
        size = measure(value.document) if isinstance(value.document, ProgramDocument) else OBJECT_BYTES
        if value.is_left_out:
            size = MAX_NAMESPACE_BYTES + 1
        if room.put(value.namespace, value.name, size) or value.is_left_out:
            return value
        return replace(
            value,
            document=None,
            is_left_out=True,
            fault=f"the Programs of namespace {value.namespace} take more than {MAX_NAMESPACE_BYTES:,} bytes of the"
            " CA's memory; what this one says isn't looked at",
            hint="name fewer digests and files in this one, or in others and wait twelve minutes",
        )

    return fit


class ObjectIndex:
    """All objects of both kinds, and which have changed since the writer looked.

    Attributes:
        on_room: called when there may be room again for what a Program says that was left out.
    """

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self._room = Room()
        self._objects: dict[Key, WatchedObject] = {}
        self._changed: set[Key] = set()
        self._has_changes = asyncio.Event()

    def __iter__(self) -> Iterator[WatchedObject]:
        return iter(list(self._objects.values()))

    def get(self, key: Key) -> WatchedObject | None:
        """Return one object."""
        return self._objects.get(key)

    def find_policy(self, namespace: str) -> MeshPolicyDocument | None:
        """Return what a namespace's MeshPolicy says; None: there is none that can be read."""
        found = self._objects.get((MESH_POLICY, namespace, POLICY_NAME))
        return found.document if found is not None and isinstance(found.document, MeshPolicyDocument) else None

    def sink(self, kind: str) -> ObjectSink:
        """Return what the watch of one kind fills."""
        return ObjectSink(self, kind)

    def count(self, kind: str) -> int:
        """Return how many there are of a kind."""
        return sum(key[0] == kind for key in self._objects)

    def mark(self, *keys: Key) -> None:
        """Have these looked at (again)."""
        self._changed.update(keys)
        self._has_changes.set()

    def take_changes(self) -> list[Key]:
        """Return what has changed, and forget that it did."""
        changed = sorted(self._changed)
        self._changed.clear()
        self._has_changes.clear()
        return changed

    async def wait_for_changes(self) -> None:
        """Return once something has changed."""
        await self._has_changes.wait()

    def put(self, value: WatchedObject) -> None:
        """Remember an object; one whose status alone is new hasn't changed."""
        taken = self._room.total(value.namespace)
        value = fit_into(self._room)(value)
        before = self._objects.get(value.key)
        self._objects[value.key] = value
        if not value.is_left_out:
            self._tell_of_room(value.namespace, taken)
        if before is None or _substance(before) != _substance(value):
            self.mark(value.key)

    def drop(self, key: Key) -> None:
        """Forget an object."""
        if self._objects.pop(key, None) is not None:
            if key[0] == PROGRAM:
                taken = self._room.total(key[1])
                self._room.drop(key[1], key[2])
                self._tell_of_room(key[1], taken)
            self.mark(key)

    def _tell_of_room(self, namespace: str, taken: int) -> None:
        if self._room.total(namespace) < taken and self._room.has_left_out(namespace):
            self.on_room()

    def measure_anew(self, kind: str) -> None:
        """Give no room to what was known of a kind: all of them follow."""
        if kind == PROGRAM:
            self._room = Room()

    def keys(self, kind: str) -> list[Key]:
        """Return the names of all of a kind."""
        return [key for key in self._objects if key[0] == kind]


class ObjectSink:
    """The part of the index that one watch keeps in step with the API server (a ``watch.Sink``)."""

    def __init__(self, index: ObjectIndex, kind: str) -> None:
        self._index = index
        self._kind = kind

    def __len__(self) -> int:
        return self._index.count(self._kind)

    def replace(self, values: Sequence[WatchedObject]) -> None:
        """These are all there are."""
        self._index.measure_anew(self._kind)
        kept = {value.key for value in values}
        for key in self._index.keys(self._kind):
            if key not in kept:
                self._index.drop(key)
        for value in values:
            self._index.put(value)

    def apply(self, value: WatchedObject) -> None:
        """This one is new or has changed."""
        self._index.put(value)

    def remove(self, value: WatchedObject) -> None:
        """This one has been deleted."""
        self._index.drop(value.key)


def _substance(value: WatchedObject) -> tuple[object, ...]:
    return value.uid, value.generation, value.document, value.fault, value.approved_by


class ObjectWriter:
    """Brings the store in line with the objects. Only the leader runs it.

    Arguments:
        may_write: asked before each write.
        on_outcome: called after each object that was looked at.
    """

    def __init__(
        self,
        store: Store,
        index: ObjectIndex,
        *,
        may_write: Callable[[], bool],
        clock: Callable[[], float],
        on_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self.outcomes: dict[Key, Outcome] = {}
        self._store = store
        self._index = index
        self._may_write = may_write
        self._clock = clock
        self._on_outcome = on_outcome

    async def run(self) -> None:
        """Compare everything, then follow the changes, until cancelled. A store that fails is tried again."""
        self.outcomes.clear()  # Another leader may have looked at later generations since.
        while True:
            try:
                await self.compare_all()
                async with asyncio.timeout(self.seconds_until_look()):
                    while True:
                        await self._index.wait_for_changes()
                        await self.write_changes()
                        if self.seconds_until_look() < COMPARE_S:
                            break  # Perhaps sooner than when this began to wait.
            except TimeoutError:
                continue
            except UnavailableError as error:
                _log.warning("objects_not_written", message=error.message)
                await asyncio.sleep(RETRY_S)

    def seconds_until_look(self) -> float:
        """Return when all is compared again: at the latest when the time of a mode on trial is up."""
        now = self._clock()
        due = [
            each.document.trial.until - now
            for each in self._index
            if isinstance(each.document, MeshPolicyDocument) and each.document.trial is not None
        ]
        return min([COMPARE_S, *(seconds + _TRIAL_MARGIN_S for seconds in due if seconds > 0)])

    async def compare_all(self) -> None:
        """Look at every object, and at everything in the store that no object says any more."""
        keys = {value.key for value in self._index}
        keys |= {(PROGRAM, record.namespace, record.name) for record in await self._store.namespaces.list_programs()}
        for state in await self._store.namespaces.list_states():
            if _has_policy(state):
                keys.add((MESH_POLICY, state.namespace, POLICY_NAME))
        keys |= {(MESH_POLICY, namespace, DRAFT_NAME) for namespace in await self._store.drafts.list_of_objects()}
        self._index.mark(*keys)
        await self.write_changes()

    async def write_changes(self) -> None:
        """Bring the store in line with what has changed, also meanwhile; namespaces take turns.

        Whoever may edit one namespace can change thousands of objects at once, and each takes a transaction. After one
        that took long the sidecars' streams have as much time.

        Raises:
            UnavailableError: the store fails; what wasn't written will be looked at again.
        """
        waiting: dict[str, dict[Key, None]] = {}  # By namespace, in the order of their turns.
        try:
            while self._take_in(waiting) and self._may_write():
                namespace = next(iter(waiting))
                keys = waiting[namespace]
                key = next(iter(keys))
                began = time.thread_time()
                await self._write(key)
                self._on_outcome()
                if (taken_s := time.thread_time() - began) > _LONG_S:
                    # In a namespace with thousands of Programs each change takes a fifth of a second of this thread.
                    await asyncio.sleep(min(taken_s, _MAX_REST_S))
                del keys[key], waiting[namespace]
                if keys:
                    waiting[namespace] = keys
        finally:
            if left := [key for keys in waiting.values() for key in keys]:
                self._index.mark(*left)

    def _take_in(self, waiting: dict[str, dict[Key, None]]) -> bool:
        for key in self._index.take_changes():
            waiting.setdefault(key[1], {})[key] = None
        return bool(waiting)

    async def _write(self, key: Key) -> None:
        value = self._index.get(key)
        if value is None:
            self.outcomes.pop(key, None)
            with acting_as(AuditActor(kind="object", origin=f"{key[0]} {key[1]}/{key[2]}, deleted")):
                await self._delete(key)
            return
        accepted, reason, message = True, "InForce", ""
        if isinstance(value.document, DraftDocument):
            reason = "Draft"
        if value.document is None:
            accepted, reason = False, "Invalid"
            message = f"{value.fault} ({value.hint})" if value.hint else value.fault
        else:
            try:
                with acting_as(_actor(value)):
                    message = await self._put(value, value.document)
            except UnavailableError:
                raise
            except TouchmarkError as error:
                accepted, reason, message = False, "Refused", error.message
        outcome = Outcome(
            uid=value.uid, generation=value.generation, is_accepted=accepted, reason=reason, message=message
        )
        if self.outcomes.get(key) != outcome and not accepted:
            _log.warning(
                "object_not_accepted", kind=value.kind, namespace=value.namespace, name=value.name, message=message
            )
        self.outcomes[key] = outcome

    async def _put(self, value: WatchedObject, document: Document) -> str:
        """Bring the store in line with one object; return what people should know of it."""
        if isinstance(document, MeshPolicyDocument):
            return await self._put_policy(value, document)
        if isinstance(document, DraftDocument):
            return await self._put_draft(value, document.policy)
        record = _make_record(document, value.approved_by, self._clock())
        known = await self._store.namespaces.get_program(document.namespace, document.name)
        if known is None or _content(known) != _content(record):
            await self._store.namespaces.put_program(record)
            _log.info("program_written", namespace=document.namespace, name=document.name, generation=value.generation)
        return ""

    async def _put_policy(self, value: WatchedObject, document: MeshPolicyDocument) -> str:
        now, message, tried = self._clock(), "", document.trial
        if tried is not None and tried.until <= now:
            message = f"the trial of {document.mode} is over: {tried.back_to} is in force while spec.trial is there"
            document = msgspec.structs.replace(document, mode=tried.back_to, trial=None)
        state = await self._store.namespaces.get_state(document.namespace)
        known = await self._store.history.get_trial(document.namespace)
        if not _says_the_same(document, state) or not _is_same_trial(document, known):
            trial = None
            if document.trial is not None and document.mode is not None:
                trial = Trial(
                    namespace=document.namespace,
                    mode=document.mode,
                    back_to=document.trial.back_to,
                    started=now,
                    until=document.trial.until,
                )
            await self._store.namespaces.put_policy(
                document.namespace,
                rules=document.rules,
                group_label=document.group_label,
                mode=document.mode,
                requires=document.requires,
                is_forced=bool(value.force_mark) and _makes_explicit(document, state),
                trial=trial,
                workload_modes=document.workload_modes,
            )
            _log.info("policy_written", namespace=document.namespace, generation=value.generation)
        return message

    async def _put_draft(self, value: WatchedObject, policy: MeshPolicyDocument) -> str:
        """Have a policy evaluated beside the one in force."""
        namespace = policy.namespace
        known = await self._store.drafts.get(namespace)
        wanted = PolicyDraft(
            number=0 if known is None else known.draft.number,
            mode=policy.mode,
            group_label=policy.group_label,
            rules=policy.rules,
            requires=policy.requires,
            workload_modes=policy.workload_modes,
        )
        if known is None or not known.is_object or known.draft != wanted:
            await self._store.drafts.put(namespace, wanted, is_object=True)
            _log.info("draft_written", namespace=namespace, generation=value.generation)
        return (
            f"nothing of it is in force; `touchmark policy draft {namespace} -k` shows what it would decide otherwise"
        )

    async def _delete(self, key: Key) -> None:
        kind, namespace, name = key
        try:
            if kind == PROGRAM:
                await self._store.namespaces.delete_program(namespace, name)
                _log.info("program_deleted", namespace=namespace, name=name)
            elif name == POLICY_NAME and _has_policy(await self._store.namespaces.get_state(namespace)):
                await self._store.namespaces.delete_policy(namespace)
                _log.info("policy_deleted", namespace=namespace)
            elif name == DRAFT_NAME:
                await self._store.drafts.drop(namespace, is_object=True)
                _log.info("draft_deleted", namespace=namespace)
        except NotFoundError:
            pass  # It never was in force, or another leader deleted it.


def _actor(value: WatchedObject) -> AuditActor:
    """Who wrote an object, as far as the object says: field managers are programs and can be chosen freely."""
    origin = f"{value.kind} {value.namespace}/{value.name}, generation {value.generation}"
    return AuditActor(kind="object", name=value.managers, origin=origin)


def _has_policy(state: NamespaceState) -> bool:
    return bool(state.rules or state.group_label or state.requires)


def _says_the_same(document: MeshPolicyDocument, state: NamespaceState) -> bool:
    mode = document.mode if document.mode is not None else state.mode
    modes = document.workload_modes if document.workload_modes is not None else state.workload_modes
    wanted = (document.rules, document.group_label, document.requires, mode, modes)
    return wanted == (state.rules, state.group_label, state.requires, state.mode, state.workload_modes)


def _makes_explicit(document: MeshPolicyDocument, state: NamespaceState) -> bool:
    mode = document.mode if document.mode is not None else state.mode
    modes = document.workload_modes if document.workload_modes is not None else state.workload_modes
    return bool(find_newly_explicit(state, mode, modes))


def _is_same_trial(document: MeshPolicyDocument, known: Trial | None) -> bool:
    if document.mode is None or document.trial is None or known is None:
        return document.mode is None or (document.trial is None) == (known is None)
    return (document.trial.back_to, document.trial.until) == (known.back_to, known.until)


def _make_record(document: ProgramDocument, approved_by: str, now: float) -> ProgramRecord:
    return ProgramRecord(
        namespace=document.namespace,
        name=document.name,
        service_account=document.service_account,
        programs=tuple(dict.fromkeys(document.programs)),
        weak=document.weak,
        approved_by=approved_by[:128] or DEFAULT_APPROVED_BY,
        approved=now,
        code=document.code,
    )


def _content(record: ProgramRecord) -> tuple[object, ...]:
    return record.service_account, record.programs, record.weak, record.approved_by, record.code


__all__ = [
    "MESH_POLICY",
    "PROGRAM",
    "ObjectIndex",
    "ObjectWriter",
    "Outcome",
    "RawObject",
    "WatchedObject",
    "collection_path",
    "read_object",
]
