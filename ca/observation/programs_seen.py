"""What sidecars say of programs they have seen: checked, gathered, written every few seconds. I/O through the store.

Belongs here: what a sidecar may say, and the queue of what waits for an answer. Doesn't: rows
(``ca/store/programs_seen``).

Gathered, because a rollout makes a thousand sidecars say the same within seconds. What a CA that crashes loses is said
again with the program's next certificate, or half an hour later. The image of a container that the cluster doesn't name
yet is looked for at each writing, for some minutes: a pod's status may name it late, and nobody says it again before
that half an hour. For the same reason what finds no room is written at once, while its sidecar waits. A sidecar may
lie: what it says is bounded by sidecar and by workload, so that it takes the room of its own workload alone.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from ca.allowance import Allowance, AllowanceUsedError
from ca.observation.judging import judge
from ca.store.programs_seen.sightings import MAX_PER_WORKLOAD, MAX_PER_WRITE
from ca.store.store import Store
from shared.model.adoption.program_queue import (
    ImageSeen,
    ProgramQueue,
    Sighting,
    find_waiting,
    forget_code,
    merge_sightings,
)
from shared.model.errors import ProtocolError
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program
from shared.model.wire.messages import MAX_PARENTS, ProgramEvidence, ProgramSeen

FLUSH_INTERVAL_S: Final = 2.0
MAX_GATHERED: Final = 4_096
MAX_GATHERED_PER_WORKLOAD: Final = MAX_PER_WORKLOAD
MAX_CODE_BYTES: Final = 65_536
MAX_CODE_GATHERED: Final = 16 * 1024 * 1024
MAX_CODE_PER_WORKLOAD: Final = 1024 * 1024
# What a sidecar says: twice as many programs as are kept of its workload (a certificate request and a report for each),
# then one a second.
BURST: Final = 2 * MAX_PER_WORKLOAD
# A container without an image is looked for so long; so many in all, and of one sidecar.
IMAGE_WAIT_S: Final = 600.0
MAX_IMAGELESS: Final = 1_024
MAX_IMAGELESS_PER_SIDECAR: Final = 16
# What has room after that is taken, with or without its loaded code.
_MAX_WRITES: Final = 3
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
        self._gathered = _Gathered()
        self._allowance = Allowance(float(BURST), burst=BURST)
        # Whose image isn't known yet, by sidecar and program; the oldest first.
        self._imageless: OrderedDict[tuple[str, Program], tuple[Sighting, Callable[[], str]]] = OrderedDict()

    async def make_room(self, message: ProgramSeen, *, workload: Workload) -> None:
        """Write what was gathered where what a sidecar says would find no room.

        Raises:
            UnavailableError: the store fails. What is said is taken all the same, perhaps without its loaded code.
        """
        size = _measure(message.code)
        for _ in range(_MAX_WRITES):
            if size > MAX_CODE_BYTES or self._gathered.has_room(str(workload), message.program, size):
                return
            await self.flush()

    def take(
        self,
        message: ProgramSeen,
        *,
        instance: str,
        workload: Workload,
        image: str = "",
        find_image: Callable[[], str] | None = None,
    ) -> None:
        """Take in what a sidecar says of a program of its own workload; beyond its allowance nothing.

        Arguments:
            image: of the container that it names, by the cluster; empty: not known.
            find_image: asked again for it, while it isn't.

        Raises:
            ProtocolError: no program is like that.
        """
        _check(message)
        now = self._clock()
        sighting = Sighting(
            namespace=workload.namespace,
            service_account=workload.service_account,
            program=message.program,
            path=message.path,
            package=message.package,
            images=_name_image(image, now),
            pods=(instance,),
            parents=message.parents,
            code=message.code,
            accepted=now if message.has_accepted and message.code is not None else 0.0,
            first=now,
            last=now,
        )
        if self._gather(sighting) and not image and find_image is not None:
            self._wait_for_image(instance, msgspec.structs.replace(sighting, code=None, accepted=0.0), find_image)

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
        self._look_for_images()
        gathered, self._gathered = self._gathered.list_all(), _Gathered()
        written = 0
        try:
            for begin in range(0, len(gathered), MAX_PER_WRITE):
                await self._store.sightings.add(gathered[begin : begin + MAX_PER_WRITE])
                written = begin + MAX_PER_WRITE
        except BaseException:
            for sighting in gathered[written:]:
                self._gathered.add(sighting)
            raise

    async def list_queue(self, namespace: str = "") -> ProgramQueue:
        """Return what waits for an answer and what was refused, in a namespace or (empty) everywhere."""
        await self.flush()
        records = await self._store.namespaces.list_programs(namespace)
        approved = {(each.namespace, each.service_account, program) for each in records for program in each.programs}
        refused = [each for each in await self._store.refusals.list_all(namespace) if each.key not in approved]
        refused_keys = {each.key for each in refused}
        listed = await self._store.sightings.list_newest(namespace, answered=approved | refused_keys)
        counts: dict[str, int] = {}
        for each in listed.sightings:
            counts[each.workload] = counts.get(each.workload, 0) + 1
        waiting = await judge(lambda _: find_waiting(listed.sightings, approved, refused_keys))
        return ProgramQueue(
            waiting=waiting,
            refused=tuple(refused),
            is_truncated=listed.is_truncated or any(count >= MAX_PER_WORKLOAD for count in counts.values()),
        )

    def _gather(self, sighting: Sighting) -> bool:
        try:
            self._allowance.take(sighting.pods[0], now=sighting.last)
        except AllowanceUsedError:
            return False  # No fault of the stream's: what is true is said again.
        self._gathered.add(sighting)
        return True

    def _wait_for_image(self, instance: str, sighting: Sighting, find_image: Callable[[], str]) -> None:
        key = instance, sighting.program
        of_sidecar = sum(1 for other, _ in self._imageless if other == instance)
        if key not in self._imageless and of_sidecar >= MAX_IMAGELESS_PER_SIDECAR:
            return
        self._imageless[key] = sighting, find_image
        self._imageless.move_to_end(key)
        if len(self._imageless) > MAX_IMAGELESS:
            self._imageless.popitem(last=False)

    def _look_for_images(self) -> None:
        now = self._clock()
        for key, (sighting, find_image) in list(self._imageless.items()):
            image = find_image()
            if image:
                self._gathered.add(msgspec.structs.replace(sighting, images=_name_image(image, now)))
            if image or now - sighting.last > IMAGE_WAIT_S:
                del self._imageless[key]


class _Gathered:
    """Sightings that aren't written yet, by workload: none takes the room of another, unless it has more."""

    def __init__(self) -> None:
        self._workloads: dict[str, OrderedDict[Program, Sighting]] = {}
        self._count = 0
        # Bytes of loaded code: of each workload, and of all.
        self._used: dict[str, int] = {}
        self._used_by_all = 0

    def list_all(self) -> list[Sighting]:
        """Return them by key: replicas that write in one order don't deadlock."""
        return sorted((each for of in self._workloads.values() for each in of.values()), key=lambda each: each.key)

    def has_room(self, workload: str, program: Program, size: int) -> bool:
        """Tell whether nothing has to go for a sighting, whose loaded code takes so many bytes."""
        programs: dict[Program, Sighting] = self._workloads.get(workload, OrderedDict())
        is_full = len(programs) >= MAX_GATHERED_PER_WORKLOAD or self._count >= MAX_GATHERED
        used = self._used.get(workload, 0)
        has_bytes = used + size <= MAX_CODE_PER_WORKLOAD and self._used_by_all + size <= MAX_CODE_GATHERED
        return has_bytes and (program in programs or not is_full)

    def add(self, sighting: Sighting) -> None:
        """Add one; beyond the bounds those go that were seen longest ago, of the workload that has most."""
        programs = self._workloads.setdefault(sighting.workload, OrderedDict())
        known = programs.get(sighting.program)
        if known is not None:
            self._remove(known)
        self._insert(merge_sightings(known, sighting))
        if len(programs) > MAX_GATHERED_PER_WORKLOAD:
            self._remove(next(iter(programs.values())))
        if self._count > MAX_GATHERED:
            fullest = max(self._workloads.values(), key=len)
            self._remove(next(iter(fullest.values())))

    def _insert(self, sighting: Sighting) -> None:
        used = self._used.get(sighting.workload, 0)
        size = _measure(sighting.code)
        if used + size > MAX_CODE_PER_WORKLOAD or self._used_by_all + size > MAX_CODE_GATHERED:
            # As if it had never been told: nothing is called ready by it.
            sighting, size = forget_code(sighting), 0
        self._used[sighting.workload] = used + size
        self._used_by_all += size
        self._workloads[sighting.workload][sighting.program] = sighting
        self._count += 1

    def _remove(self, sighting: Sighting) -> None:
        del self._workloads[sighting.workload][sighting.program]
        size = _measure(sighting.code)
        self._used[sighting.workload] -= size
        self._used_by_all -= size
        self._count -= 1


def _name_image(image: str, now: float) -> tuple[ImageSeen, ...]:
    return (ImageSeen(image=image, first=now, last=now),) if image else ()


def _measure(code: LoadedCode | None) -> int:
    return 0 if code is None else len(msgspec.json.encode(code))


def _check(message: ProgramSeen) -> None:
    texts = [(message.path, _MAX_PATH_CHARACTERS), (message.package, _MAX_PACKAGE_CHARACTERS)]
    texts += [(each, _MAX_PATH_CHARACTERS) for each in message.parents]
    if any(len(text) > limit or not text.isprintable() for text, limit in texts) or len(message.parents) > MAX_PARENTS:
        raise ProtocolError("a program with a path or a package that can't be")
    if _measure(message.code) > MAX_CODE_BYTES:
        raise ProtocolError(f"more than {MAX_CODE_BYTES} bytes of loaded code")
    if message.container and not _CONTAINER.fullmatch(message.container):
        raise ProtocolError("a container with an ID that can't be")
