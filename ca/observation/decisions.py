"""The decisions of all sidecars: taken in, kept for a while, queried and followed. I/O through the store only.

A sidecar speaks for itself alone: whatever a record says, the CA writes the instance, the namespace and the workload of
the reporter's own end. What a record says of the other end is its reporter's word.

A sidecar may fill its own share of the log: beyond it its records are counted in the edges, which have bounds of their
own, and not kept one by one. Otherwise one that floods, or a program in its pod that is refused by the thousand, would
have every other sidecar's decisions pruned within minutes.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import msgspec
import structlog
from msgspec import UNSET

from ca.allowance import Allowance, LineAllowance
from ca.metrics import Metrics
from ca.store.decision_log import StoredPart, encode_record
from ca.store.edges.edge import Report
from ca.store.records import DecisionFilter, StoredDecision
from ca.store.store import Store
from shared.model.errors import IdentityError, InputError, ProtocolError
from shared.model.identity.identity import Workload, parse_spiffe_id, parse_workload
from shared.model.identity.program import parse_program
from shared.model.policy.decision import MAX_HOSTS_RECORDED, DecisionRecord, PartyRecord
from shared.model.policy.host_name import check_host
from shared.model.policy.rules import Direction
from shared.model.wire.messages import MAX_DECISION_BYTES

FOLLOW_PAGE: Final = 500
FOLLOW_IDLE_S: Final = 15.0
PRUNE_INTERVAL_S: Final = 60.0
_KEPT_FREE_SHARE: Final = 0.1
# Of one sidecar, from each replica. By its own rules one sends at most 50 allows and 50 refusals of strangers a second,
# and the refusals of its own programs (``sidecar/connection/recording.py``).
BURST: Final = 60_000
PER_S: Final = 100.0
_FLOOD_TOLD_S: Final = 60.0
# Of one record. A sidecar starts another aggregate long before; a greater count of an older one is cut.
_MAX_COUNT: Final = 1_000_000
_MAX_TEXT_CHARACTERS: Final = 2048  # SPIFFE-ID, section 2.3: the longest of these texts.
_MAX_TIME_S: Final = 10.0**11

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of the decisions: the least of these. On SQLite a tenth of the disk stays free besides."""

    max_age_s: float
    max_rows: int
    max_bytes: int


class Decisions:
    """The log of decisions.

    Arguments:
        limits: what retention keeps.
        on_stored: told of each record that is stored, once; of many at a time.
        monotonic: seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        metrics: Metrics,
        limits: Retention,
        on_stored: Callable[[Sequence[DecisionRecord]], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._allowance = Allowance(BURST / PER_S, burst=BURST)
        self._flood_told = -math.inf
        self._lines = LineAllowance(monotonic)
        self._store = store
        self._metrics = metrics
        self._limits = limits
        self._on_stored = on_stored
        self._last_id = 0
        self._arrived = asyncio.Event()
        self.lost = 0

    async def take_in(
        self,
        records: Sequence[DecisionRecord],
        *,
        instance: str,
        workload: Workload,
        lost: int,
        batch: int | None = None,
    ) -> None:
        """Store a batch durably, then wake the followers. One that is stored already is taken for a repetition.

        A record that says what can't be is left out and counted as lost. Refusing its batch would have the sidecar send
        it again for ever, and no other decision of its pod would arrive: a program has a part in what a record says.

        Arguments:
            batch: the sidecar's number of it; None: it can't be a repetition.

        Raises:
            UnavailableError: the store failed; the sidecar keeps the batch and sends it again.
        """
        possible, impossible, fault = _separate(records)
        if impossible and self._lines.take(instance):
            _log.warning("decisions_impossible", instance=instance, count=len(impossible), message=fault)
        lost += sum(max(1, min(each.count, _MAX_COUNT)) for each in impossible)
        corrected, texts, changed = [], [], 0
        for record, text in possible:
            mine = _correct(record, instance=instance, workload=workload)
            corrected.append(mine)
            texts.append(text if mine is record else encode_record(mine))
            changed += mine is not record
        self._metrics.decisions_corrected.inc(changed)
        kept = len(corrected) if batch is None else self._take_allowance(instance, len(corrected))

        def note(part: StoredPart | None) -> None:
            if part is not None:  # Otherwise the acknowledgement was lost.
                stored = corrected[:kept][part.begin : part.end]
                self._note_stored(part.last_id, stored, lost if part.begin == 0 else 0)

        if batch is not None:
            # As ``msgspec.json.encode((batch, lost, corrected))``, of which each record was written already.
            content = f"[{batch},{lost},[{','.join(texts)}]]".encode()
            digest = hashlib.sha256(content).hexdigest()
            report = Report(
                instance=instance,
                namespace=workload.namespace,
                service_account=workload.service_account,
                lost=lost,
                is_first=batch == 1,
            )
            await self._store.decisions.insert_batch(
                corrected, report, texts=texts[:kept], digest=digest, on_commit=note
            )
        elif corrected:
            await self._store.decisions.insert(
                corrected, on_commit=lambda last_id: self._note_stored(last_id or 0, corrected, lost)
            )
        else:
            self._note_stored(0, corrected, lost)

    def _take_allowance(self, instance: str, count: int) -> int:
        """Return how many of a sidecar's records are kept one by one."""
        now = self._monotonic()
        kept = self._allowance.take_some(instance, count, now=now)
        if kept < count:
            self._metrics.decisions_over_quota.inc(count - kept)
            if now - self._flood_told >= _FLOOD_TOLD_S:
                self._flood_told = now
                _log.warning("decisions_over_quota", instance=instance, count=count - kept)
        return kept

    def _note_stored(self, last_id: int, corrected: Sequence[DecisionRecord], lost: int) -> None:
        """Tell of what was committed, whether or not who sent it still waits."""
        if lost > 0:
            self.lost += lost
            self._metrics.decisions_lost.inc(lost)
        if not corrected:
            return
        self._last_id = max(self._last_id, last_id)
        self._metrics.decisions_stored.inc(len(corrected))
        self.note_arrival()
        self._on_stored(corrected)

    def note_arrival(self) -> None:
        """Wake the followers: there is more in the store, here or from another replica."""
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    async def query(self, wanted: DecisionFilter) -> list[StoredDecision]:
        """Return what matches, newest first."""
        return await self._store.decisions.query(wanted)

    async def follow(self, wanted: DecisionFilter) -> AsyncIterator[list[StoredDecision]]:
        """Find where the log ends, and return what matches, oldest first, as it arrives: from now on or, with
        ``since``, from then on.

        A follower holds no buffer: it reads pages from the store as fast as its client takes them. An empty page says
        that nothing came for a while, so that the caller can see whether its client is still there.

        Raises:
            UnavailableError: the store failed; also while the pages are read.
        """
        after = 0
        if wanted.since is None and (newest := await self._store.decisions.query(DecisionFilter(limit=1))):
            after = newest[0].decision_id
        return self._read_on(wanted, after)

    async def _read_on(self, wanted: DecisionFilter, after: int) -> AsyncIterator[list[StoredDecision]]:
        while True:
            arrived = self._arrived
            last = await self._store.decisions.get_last_id()
            look = await self._store.decisions.look(replace(wanted, after_id=after, limit=FOLLOW_PAGE))
            if look.found:
                yield look.found
            if look.rest is not None:
                after = look.rest.after_id or after
                continue
            # IDs become visible in their order: what was looked through once isn't again.
            after = max(after, last, *(each.decision_id for each in look.found[-1:]))
            if look.found:
                continue
            try:
                async with asyncio.timeout(FOLLOW_IDLE_S):
                    await arrived.wait()
            except TimeoutError:
                yield []

    async def prune(self, *, now: float) -> int:
        """Delete what is too old or too much, in transactions between which others have their turn."""
        total = 0
        max_rows = await self._find_max_rows()
        while pruned := await self._store.decisions.prune(max_age_s=self._limits.max_age_s, max_rows=max_rows, now=now):
            self._metrics.decisions_pruned.inc(pruned)
            total += pruned
        if total and self._store.database.is_disk_full:
            await self._store.database.look_at_disk()
        return total

    async def _find_max_rows(self) -> int:
        rows, row_bytes = await self._store.decisions.estimate_size()
        space = await self._store.database.look_at_disk()
        max_bytes = float(self._limits.max_bytes)
        if space is not None:
            self._metrics.store_free_bytes.set(space.free)
            max_bytes = min(max_bytes, rows * row_bytes + space.free - space.total * _KEPT_FREE_SHARE)
        return max(1, min(self._limits.max_rows, int(max_bytes / row_bytes)))


def _separate(
    records: Sequence[DecisionRecord],
) -> tuple[list[tuple[DecisionRecord, str]], list[DecisionRecord], str]:
    """Return the records that can be, each with its JSON, and those that can't with what the first one says wrong."""
    possible: list[tuple[DecisionRecord, str]] = []
    impossible: list[DecisionRecord] = []
    fault = ""
    for record in records:
        try:
            text = _check(record)
        except ProtocolError as error:
            impossible.append(record)
            fault = fault or error.message
        else:
            possible.append((record, text))
    return possible, impossible, fault


def _check(record: DecisionRecord) -> str:
    """Return the record's JSON; raise ``ProtocolError`` where it says what can't be."""
    if not 0 <= record.port <= 65535 or record.count < 1 or not 0 <= record.time <= _MAX_TIME_S:
        raise ProtocolError("a decision with a port, count or time that can't be")
    written = encode_record(record)
    if len(written.encode()) > MAX_DECISION_BYTES:
        raise ProtocolError(f"a decision of more than {MAX_DECISION_BYTES} bytes")
    source, destination = record.source, record.destination
    try:
        for party in (source, destination):
            _check_names(party.program, party.workload, party.listed)
        _check_hosts(record)
        _check_names(record.process.digest, "", "")
    except (IdentityError, InputError) as error:
        raise ProtocolError(f"a decision with {error}") from error
    _check_texts(
        source.address, source.identity, source.why, destination.address, destination.identity, destination.why,
        record.rule, record.tunnel, record.connection, record.service or "",
    )  # fmt: skip
    if record.draft is not UNSET:
        if len(record.draft.drafts) > 2:
            raise ProtocolError("a decision with more than two drafts")
        _check_texts(record.draft.rule, *record.draft.drafts)
    return written


def _check_hosts(record: DecisionRecord) -> None:
    hosts = record.destination.hosts or ()
    if record.source.hosts or len(hosts) > MAX_HOSTS_RECORDED:
        raise ProtocolError("a decision with hosts that can't be")
    for host in hosts:
        check_host(host)


@lru_cache(maxsize=8192)  # The same few in most records; what is refused isn't remembered.
def _check_names(program: str, *workloads: str) -> None:
    if program:
        parse_program(program)
    for workload in filter(None, workloads):
        parse_workload(workload)


def _check_texts(*texts: str) -> None:
    together = "".join(texts)
    if len(together) <= _MAX_TEXT_CHARACTERS and together.isprintable():
        return  # As in most records; each is at most as long.
    for text in texts:
        if len(text) > _MAX_TEXT_CHARACTERS or not text.isprintable():
            raise ProtocolError(f"a decision with a name that can't be: {text[:80]!r}")


def _correct(record: DecisionRecord, *, instance: str, workload: Workload) -> DecisionRecord:
    """Return the record with what the CA knows better than its reporter; the same object when nothing differs."""
    side = "source" if record.direction is Direction.EGRESS else "destination"
    own: PartyRecord = getattr(record, side)
    corrected = _correct_own(own, workload)
    if (
        corrected is own
        and record.sidecar == instance
        and record.namespace == workload.namespace
        and record.count <= _MAX_COUNT
    ):
        return record
    return msgspec.structs.replace(
        record,
        sidecar=instance,
        namespace=workload.namespace,
        count=min(record.count, _MAX_COUNT),
        **{side: corrected},
    )


def _correct_own(party: PartyRecord, workload: Workload) -> PartyRecord:
    own = str(workload)
    is_identity = not party.identity or _is_identity_of(party.identity, workload)
    if is_identity and party.workload in ("", own) and party.listed in ("", own):
        return party
    return msgspec.structs.replace(
        party,
        workload=own if party.workload else "",
        listed=own if party.listed else "",
        identity=party.identity if is_identity else "",
    )


@lru_cache(maxsize=8192)
def _is_identity_of(text: str, workload: Workload) -> bool:
    try:
        return parse_spiffe_id(text).workload == workload
    except IdentityError:
        return False
