"""What became of ``MeshPolicy`` and ``Program`` objects, told in their status. I/O.

Belongs here: the status' content, and writing it rarely. Doesn't: counting acknowledgements
(``ca/distribution/installs.py``, as the admin API), or what an object does (``objects.py``).

Written by the leader alone, as a merge patch of the status subresource, when its content changes, and one object at
most every ``OBJECT_S``.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from ca.distribution.installs import count_acknowledgements, group_by_namespace
from ca.kubernetes.api.client import ClusterClient, quote_name
from ca.kubernetes.objects.objects import MESH_POLICY, PLURALS, Key, ObjectIndex, Outcome, WatchedObject
from ca.store.store import Store
from shared.model.errors import ConflictError, InputError, NotFoundError, RefusedError, TouchmarkError
from shared.model.policy.documents import API_VERSION, DRAFT_NAME, plain_workload_modes
from shared.model.policy.rules import Mode, WorkloadMode
from shared.model.wire.admin import Acknowledgements

MAX_WAITING: Final = 20
MAX_MESSAGE_CHARACTERS: Final = 2000
# While somebody waits for acknowledgements, and else.
BUSY_S: Final = 2.0
CALM_S: Final = 10.0
OBJECT_S: Final = 2.0
MAX_PATCHES: Final = 50  # In one turn; the rest has its turn in the next.
AT_ONCE: Final = 4
# What the API server refuses is tried again, less and less often: a definition of an older release refuses a draft's
# status for as long as it is there, and must keep no other status waiting.
REFUSED_S: Final = 60.0
_ECHO_S: Final = 10.0  # A patch is expected to come back by the watch within this time.
_OF_POLICIES: Final = ("mode", "version", "sidecars", "installed", "waiting", "workloadModes")
_log = structlog.get_logger("touchmark.ca")


def make_status(
    value: WatchedObject,
    outcome: Outcome,
    *,
    mode: Mode | None = None,
    workload_modes: Sequence[WorkloadMode] = (),
    acknowledgements: Acknowledgements | None = None,
    now: str,
) -> dict[str, Any]:
    """Return the status that an object ought to have.

    Arguments:
        outcome: of the generation that was looked at last.
        mode, workload_modes, acknowledgements: of the namespace of a MeshPolicy that is no draft.
        now: RFC 3339; the time of the condition's last change where it changes.
    """
    condition = {
        "type": "Accepted",
        "status": "True" if outcome.is_accepted else "False",
        "reason": outcome.reason,
        "message": outcome.message[:MAX_MESSAGE_CHARACTERS],
        "observedGeneration": outcome.generation,
    }
    known = _find_condition(value.status)
    is_same = known.get("status") == condition["status"]
    condition["lastTransitionTime"] = known.get("lastTransitionTime", now) if is_same else now
    status: dict[str, Any] = {"observedGeneration": outcome.generation, "conditions": [condition]}
    if mode is not None and acknowledgements is not None:
        status |= {
            "mode": mode.value,
            "version": acknowledgements.version,
            "sidecars": acknowledgements.total,
            "installed": acknowledgements.installed,
            "waiting": list(acknowledgements.waiting[:MAX_WAITING]),
        }
        # In a merge patch (RFC 7396) what is left out stays, and null removes.
        if workload_modes or "workloadModes" in value.status:
            known_modes = value.status.get("workloadModes")
            gone = dict.fromkeys(known_modes) if isinstance(known_modes, dict) else {}
            status["workloadModes"] = {**gone, **plain_workload_modes(workload_modes)}
    else:
        # A CA of before took a draft for an invalid policy, and said what is in force beside it.
        status |= {name: None for name in _OF_POLICIES if name in value.status}
    return status


def _find_condition(status: Mapping[str, Any]) -> dict[str, Any]:
    conditions = status.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and condition.get("type") == "Accepted":
            return condition
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """A status that the API server has refused.

    Attributes:
        state: UID and generation of its object: another one is tried at once.
        wait_s: until it is tried again, at ``until`` by the loop's clock.
    """

    state: tuple[str, int]
    wait_s: float
    until: float


class StatusWriter:
    """Keeps the status of all objects. Only the leader runs it.

    Arguments:
        outcomes: what the object writer found, by object.
        may_write: asked before each patch.
    """

    def __init__(
        self,
        client: ClusterClient,
        store: Store,
        index: ObjectIndex,
        outcomes: Mapping[Key, Outcome],
        *,
        may_write: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._store = store
        self._index = index
        self._outcomes = outcomes
        self._may_write = may_write
        self._clock = clock
        self._written: dict[Key, tuple[float, dict[str, Any]]] = {}
        self._refused: dict[Key, _Refusal] = {}
        self._poked = asyncio.Event()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    def poke(self) -> None:
        """Look soon: something has changed."""
        self._poked.set()

    async def run(self) -> None:
        """Write what has changed, until cancelled. Failures are logged and tried again."""
        while True:
            is_busy = True
            try:
                is_busy = await self.write_changes()
            except TouchmarkError as error:
                _log.warning("status_not_written", code=error.code, message=error.message)
            await asyncio.sleep(BUSY_S)
            if not is_busy:
                try:
                    async with asyncio.timeout(CALM_S - BUSY_S):
                        await self._poked.wait()
                except TimeoutError:
                    pass
            self._poked.clear()

    async def write_changes(self) -> bool:
        """Write the statuses that have changed; return whether more changes are to be expected soon."""
        wanted, is_busy = await self._find_statuses()
        for known in (self._written, self._refused):
            for key in [key for key in known if key not in wanted]:
                del known[key]
        due: list[tuple[WatchedObject, dict[str, Any]]] = []
        moment = asyncio.get_running_loop().time()
        for key, (value, status) in wanted.items():
            if value.status == status or self._is_put_off(value, moment):
                continue
            is_busy = True
            at, content = self._written.get(key, (float("-inf"), {}))
            if moment - at >= (_ECHO_S if content == status else OBJECT_S):
                due.append((value, status))
        due = _take_turns(due)[:MAX_PATCHES]
        found = await asyncio.gather(*(self._patch(value, status) for value, status in due))
        if refusals := [each for each in found if each is not None]:
            first = refusals[0]
            _log.warning("status_refused", count=len(refusals), code=first.code, message=first.message)
        return is_busy

    def _is_put_off(self, value: WatchedObject, moment: float) -> bool:
        refusal = self._refused.get(value.key)
        return refusal is not None and refusal.state == (value.uid, value.generation) and moment < refusal.until

    def _put_off(self, value: WatchedObject) -> None:
        known, state = self._refused.get(value.key), (value.uid, value.generation)
        wait_s = OBJECT_S if known is None or known.state != state else min(2.0 * known.wait_s, REFUSED_S)
        until = asyncio.get_running_loop().time() + wait_s
        self._refused[value.key] = _Refusal(state=state, wait_s=wait_s, until=until)

    async def _find_statuses(self) -> tuple[dict[Key, tuple[WatchedObject, dict[str, Any]]], bool]:
        """Return each looked-at object with its status, and whether a sidecar lacks a state."""
        wanted: dict[Key, tuple[WatchedObject, dict[str, Any]]] = {}
        is_waiting = False
        now = _format_time(self._clock())
        # Before the store is read: what is looked at later may be newer than what was read of it, and the status of
        # a generation would say what was in force before that one.
        objects, outcomes = list(self._index), dict(self._outcomes)
        namespaces = await self._store.namespaces.list_versions()
        users = group_by_namespace(await self._store.sidecars.list_live(now=self._clock()))
        for value in objects:
            outcome = outcomes.get(value.key)
            if outcome is None or outcome.uid != value.uid:
                continue  # It hasn't been looked at yet.
            if value.kind == MESH_POLICY and value.name != DRAFT_NAME:
                version, mode, modes = namespaces.get(value.namespace, (0, Mode.PERMISSIVE, ()))
                found = count_acknowledgements(value.namespace, version, users.get(value.namespace, ()))
                is_waiting |= bool(found.waiting)
                status = make_status(value, outcome, mode=mode, workload_modes=modes, acknowledgements=found, now=now)
            else:
                status = make_status(value, outcome, now=now)
            wanted[value.key] = (value, status)
        return wanted, is_waiting

    async def _patch(self, value: WatchedObject, status: dict[str, Any]) -> TouchmarkError | None:
        """Write a status; return why the API server refuses it.

        Raises:
            UnavailableError: the API server doesn't answer; nothing else can be written either.
        """
        path = (
            f"/apis/{API_VERSION}/namespaces/{quote_name(value.namespace)}/{PLURALS[value.kind]}"
            f"/{quote_name(value.name)}/status"
        )
        async with self._at_once:
            if not self._may_write():
                return None
            try:
                # With the UID, so that an object that was made anew doesn't get the status of the one before.
                await self._client.patch(path, {"metadata": {"uid": value.uid}, "status": status}, dict)
            except (NotFoundError, ConflictError):
                return None
            except (InputError, RefusedError) as error:
                self._put_off(value)
                return error
        self._refused.pop(value.key, None)
        self._written[value.key] = (asyncio.get_running_loop().time(), status)
        return None


def _take_turns(due: list[tuple[WatchedObject, dict[str, Any]]]) -> list[tuple[WatchedObject, dict[str, Any]]]:
    """Order them so that each namespace's first comes before any one's second.

    Whoever may edit one namespace can change thousands of objects again and again.
    """
    places: Counter[str] = Counter()
    turns: list[int] = []
    for value, _ in due:
        turns.append(places[value.namespace])
        places[value.namespace] += 1
    return [due[index] for index in sorted(range(len(due)), key=turns.__getitem__)]


def _format_time(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
