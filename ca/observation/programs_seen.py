"""What sidecars say of programs they have seen: checked, gathered, written every few seconds. I/O through the store.

Belongs here: what a sidecar may say, and the queue of what waits for an answer. Doesn't: rows
(``ca/store/programs_seen``).

Gathered, because a rollout makes a thousand sidecars say the same within seconds. What a CA that crashes loses is said
again with the program's next certificate, or half an hour later.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from ca.observation.judging import judge
from ca.store.programs_seen.sightings import MAX_PER_WORKLOAD
from ca.store.store import Store
from shared.model.adoption.program_queue import ImageSeen, ProgramQueue, Sighting, find_waiting, merge_sightings
from shared.model.errors import ProtocolError
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.wire.messages import MAX_PARENTS, ProgramEvidence, ProgramSeen

FLUSH_INTERVAL_S: Final = 2.0
MAX_GATHERED: Final = 4_096
MAX_CODE_BYTES: Final = 65_536
_MAX_PATH_CHARACTERS: Final = 1_024
_MAX_PACKAGE_CHARACTERS: Final = 200
_CONTAINER: Final = re.compile(r"[0-9a-f]{64}")


class ProgramsSeen:
    """Gathers what sidecars have seen, and answers what waits.

    Arguments:
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._gathered: OrderedDict[tuple[str, str, Program], Sighting] = OrderedDict()

    def take(self, message: ProgramSeen, *, instance: str, workload: Workload, image: str) -> None:
        """Take in what a sidecar says of a program of its own workload.

        Arguments:
            image: of the container that it names, by the cluster; empty: not known.

        Raises:
            ProtocolError: no program is like that.
        """
        _check(message)
        now = self._clock()
        self._gather(
            Sighting(
                namespace=workload.namespace,
                service_account=workload.service_account,
                program=message.program,
                path=message.path,
                package=message.package,
                images=(ImageSeen(image=image, first=now, last=now),) if image else (),
                pods=(instance,),
                parents=message.parents,
                code=message.code,
                first=now,
                last=now,
            )
        )

    def note_request(self, program: Program, evidence: ProgramEvidence, *, instance: str, workload: Workload) -> None:
        """Note that a certificate was asked for: all that a sidecar of 0.1 says of a program.

        Arguments:
            evidence: as it was checked.
        """
        now = self._clock()
        self._gather(
            Sighting(
                namespace=workload.namespace,
                service_account=workload.service_account,
                program=program,
                path=evidence.path,
                pods=(instance,),
                first=now,
                last=now,
            )
        )

    async def flush(self) -> None:
        """Write what was gathered; what can't be written is kept for the next time, as far as there is room."""
        if not self._gathered:
            return
        gathered, self._gathered = self._gathered, OrderedDict()
        try:
            await self._store.sightings.add(gathered.values())
        except BaseException:
            for sighting in gathered.values():
                self._gather(sighting)
            raise

    async def list_queue(self, namespace: str = "") -> ProgramQueue:
        """Return what waits for an answer and what was refused, in a namespace or (empty) everywhere."""
        await self.flush()
        sightings = await self._store.sightings.list_all(namespace)
        records = await self._store.namespaces.list_programs(namespace)
        approved = {(each.namespace, each.service_account, program) for each in records for program in each.programs}
        refused = [each for each in await self._store.refusals.list_all(namespace) if each.key not in approved]
        counts: dict[str, int] = {}
        for each in sightings:
            counts[each.workload] = counts.get(each.workload, 0) + 1
        waiting = await judge(lambda _: find_waiting(sightings, approved, {each.key for each in refused}))
        return ProgramQueue(
            waiting=waiting,
            refused=tuple(refused),
            is_truncated=any(count >= MAX_PER_WORKLOAD for count in counts.values()),
        )

    def _gather(self, sighting: Sighting) -> None:
        self._gathered[sighting.key] = merge_sightings(self._gathered.get(sighting.key), sighting)
        while len(self._gathered) > MAX_GATHERED:
            self._gathered.popitem(last=False)


def _check(message: ProgramSeen) -> None:
    texts = [(message.path, _MAX_PATH_CHARACTERS), (message.package, _MAX_PACKAGE_CHARACTERS)]
    texts += [(each, _MAX_PATH_CHARACTERS) for each in message.parents]
    if any(len(text) > limit or not text.isprintable() for text, limit in texts) or len(message.parents) > MAX_PARENTS:
        raise ProtocolError("a program with a path or a package that can't be")
    if message.code is not None and len(msgspec.json.encode(message.code)) > MAX_CODE_BYTES:
        raise ProtocolError(f"more than {MAX_CODE_BYTES} bytes of loaded code")
    if message.container and not _CONTAINER.fullmatch(message.container):
        raise ProtocolError("a container with an ID that can't be")
