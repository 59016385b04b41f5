"""The mode in force, told in annotations of the ConfigMap ``touchmark-trust`` of each namespace with pods. I/O.

A mode outlives the MeshPolicy that said it, and the namespace: nothing loosens by itself. Then no MeshPolicy shows it,
so that an object which the CA keeps anyway does. The annotations are for people; nothing reads them.

Belongs here: what they say, and writing them. Doesn't: the ConfigMap (``trust_config.py``), which pods need to start.
It is applied there without them, and an apply leaves what its manager never applied; here they are merged into one that
is there, and a failure leaves it as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.webhook_objects.trust_config import CALL_DEADLINE_S, ConfigMap, path_of
from ca.metrics import Metrics
from shared.model.errors import NotFoundError, TouchmarkError
from shared.model.kubernetes.contract import MODE_IN_FORCE, MODE_KEPT
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.policy.modes import name_modes
from shared.model.policy.rules import Mode, WorkloadMode

CHECK_INTERVAL_S: Final = 10.0
RETRY_S: Final = 60.0
MAX_PATCHES: Final = 50  # In one turn; the rest has its turn in the next.
MAX_NAMED: Final = 50

Modes = Mapping[str, tuple[int, Mode, tuple[WorkloadMode, ...]]]  # Namespace → version, mode, workloads' own.

_log = structlog.get_logger("touchmark.ca")


def describe_mode(
    namespace: str, mode: Mode, workload_modes: Sequence[WorkloadMode], policy: MeshPolicyDocument | None
) -> dict[str, str]:
    """Return the annotations that a namespace's ConfigMap ought to have.

    Arguments:
        policy: what its MeshPolicy says; None: there is none that can be read.
    """
    named = name_modes(workload_modes[:MAX_NAMED])
    if len(workload_modes) > MAX_NAMED:
        named += f" and {len(workload_modes) - MAX_NAMED} more"
    notes = {MODE_IN_FORCE: f"{mode}; {named}" if named else str(mode)}
    is_said = policy is not None and policy.mode is not None
    are_said = policy is not None and policy.workload_modes is not None
    kept = ["its mode"] if mode is Mode.EXPLICIT and not is_said else []
    kept += ["workloads' modes"] if workload_modes and not are_said else []
    if kept:
        notes[MODE_KEPT] = (
            f"no MeshPolicy of {namespace} says {' and '.join(kept)}: what was said last stays in force, also when"
            f" the namespace is made again; `touchmark mode {namespace} history -k` shows by whom"
        )
    return notes


class ModeNotes:
    """Keeps the annotations in step with the modes in force. Only the leader does it.

    Arguments:
        list_notes: what each ConfigMap that is there says now.
        list_modes: the modes in force.
        find_policy: what a namespace's MeshPolicy says.
        is_leader: whether this replica writes, and knows the policies.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: ClusterClient,
        *,
        list_notes: Callable[[], Mapping[str, Mapping[str, str]]],
        list_modes: Callable[[], Awaitable[Modes]],
        find_policy: Callable[[str], MeshPolicyDocument | None],
        is_leader: Callable[[], bool],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._list_notes = list_notes
        self._list_modes = list_modes
        self._find_policy = find_policy
        self._is_leader = is_leader
        self._metrics = metrics
        self._clock = clock
        self._retry: dict[str, float] = {}  # Namespace → not before.

    async def run(self) -> None:
        """Keep them, until cancelled."""
        while True:
            if self._is_leader():
                try:
                    await self.write_changes()
                except TouchmarkError as error:
                    _log.warning("mode_notes_not_written", code=error.code, message=error.message)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def write_changes(self) -> None:
        """Write the annotations that differ. One that fails is tried again later, and holds up no other.

        Raises:
            UnavailableError: the store fails.
        """
        modes, now, count = await self._list_modes(), self._clock(), 0
        known = self._list_notes()
        self._retry = {name: until for name, until in self._retry.items() if name in known and until > now}
        for namespace, notes in known.items():
            _, mode, workload_modes = modes.get(namespace, (0, Mode.PERMISSIVE, ()))
            wanted = describe_mode(namespace, mode, workload_modes, self._find_policy(namespace))
            if notes == wanted or namespace in self._retry:
                continue
            if count >= MAX_PATCHES or not self._is_leader():
                return
            count += 1
            await self._write(namespace, wanted)

    async def _write(self, namespace: str, notes: Mapping[str, str]) -> None:
        # In a merge patch (RFC 7396) null removes.
        annotations = {name: notes.get(name) for name in (MODE_IN_FORCE, MODE_KEPT)}
        body = {"metadata": {"annotations": annotations}}
        try:
            await self._client.patch(path_of(namespace), body, ConfigMap, deadline_s=CALL_DEADLINE_S)
        except NotFoundError:
            pass  # It has gone, or is made again: the watch shows which.
        except TouchmarkError as error:
            self._metrics.failures.labels(where="mode_notes").inc()
            self._retry[namespace] = self._clock() + RETRY_S
            _log.warning("mode_note_not_written", namespace=namespace, code=error.code, message=error.message)
