"""Records decisions: lines on standard output, written off the loop, and batches to the CA.

Belongs here: queues, their bounds, aggregation, what is lost. Doesn't: what a record says (the stories).

The local log takes every record until its sink is full: then allows are dropped and counted; denials have four times
the room. The CA's copy takes denials one by one, and allows up to a rate; above it, equal allows become one record with
a count. Beyond a bound denials are aggregated too, so that none goes missing; only when even the aggregates are too
many is anything lost, and then it is counted. Denials of arriving peers that have proven nothing have a rate like
allows: anybody may cause them, and would fill the CA's log with them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from shared.model.errors import UnavailableError
from shared.model.identity.loaded_code import LoadedCode
from shared.model.policy.decision import Answer, DecisionRecord, PartyRecord, Phase
from shared.model.policy.rules import Direction
from shared.model.wire.messages import (
    MAX_DECISION_BYTES,
    MAX_DECISIONS_PER_MESSAGE,
    MAX_MESSAGE_BYTES,
    Decisions,
    FromSidecar,
)
from shared.runtime.sinks import LineSink
from sidecar.figures.counts import DecisionCounts

MAX_WAITING_DENIALS = 8192
MAX_WAITING_ALLOWS = 2048
MAX_WAITING_CODE_BYTES = 16 * 1024 * 1024  # Of lists of loaded code: a program chooses what its files are called.
MAX_AGGREGATES = 2048
MAX_NAMED_STRANGERS = 1024  # Beyond that many aggregates, those of strangers no longer name their addresses.
MAX_COUNT = 1_000_000  # Of one aggregate: the CA takes no greater one.
_ALLOWS_PER_WINDOW = 50
_STRANGERS_PER_WINDOW = 50
_WINDOW_S = 1.0
_FLUSH_S = 0.02
_MAX_UNWRITTEN = 64  # About 80 KiB, and 0.4 ms of the event loop's time.
_ACK_TIMEOUT_S = 30.0
# Records of programs that have loaded much are large: the CA ends a stream with a message that is too large.
_MAX_BATCH_BYTES = MAX_MESSAGE_BYTES // 2

_encoder = msgspec.json.Encoder()


class Recorder:
    """Takes one record for each connection's end (and some starts), and never blocks.

    Arguments:
        sink: the local log.
        send: queues a message to the CA; raises ``UnavailableError`` without a stream.
        write: makes lines of the local log.
        note_untold: called with a list of loaded code that the CA won't get with its record.

    Attributes:
        counts: of every record that was taken.
        lost_total: records that neither the CA nor an aggregate has.
    """

    def __init__(
        self,
        sink: LineSink,
        *,
        send: Callable[[FromSidecar], None],
        write: Callable[[Sequence[DecisionRecord]], bytes] = _encoder.encode_lines,
        note_untold: Callable[[LoadedCode], None] = lambda _: None,
    ) -> None:
        self._note_untold = note_untold
        self._sink = sink
        self._send = send
        self._write = write
        self.counts = DecisionCounts()
        # By urgency, to be encoded together: denials keep their own.
        self._unwritten: dict[bool, list[DecisionRecord]] = {True: [], False: []}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._window_timer: asyncio.TimerHandle | None = None
        self._window_allows = 0
        self._window_strangers = 0
        self._waiting: deque[DecisionRecord] = deque()
        self._waiting_denials = 0
        self._waiting_code_bytes = 0
        self._aggregates: dict[tuple[object, ...], DecisionRecord] = {}
        self._batches = 0
        self._in_flight: tuple[int, Decisions] | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._lost = 0
        self.lost_total = 0
        self._settled = asyncio.Event()

    def record(self, record: DecisionRecord) -> None:
        """Take a record."""
        self.counts.count(record)
        is_denial = record.answer is Answer.DENY
        unwritten = self._unwritten[is_denial]
        unwritten.append(record)
        if len(unwritten) >= _MAX_UNWRITTEN:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)
        self._keep_for_ca(record, is_denial=is_denial)
        if self._window_timer is None:
            self._window_timer = asyncio.get_running_loop().call_later(_WINDOW_S, self._end_window)

    @property
    def waiting(self) -> int:
        """Records, or aggregates of them, that the CA hasn't acknowledged."""
        in_flight = 0 if self._in_flight is None else len(self._in_flight[1].records)
        return in_flight + len(self._waiting) + len(self._aggregates)

    @property
    def lost_lines(self) -> int:
        """Records that the local log didn't take."""
        return self._sink.lost_lines

    def acknowledge(self, batch: int) -> None:
        """The CA has stored a batch: send the next."""
        if self._in_flight is not None and self._in_flight[0] == batch:
            self._settle()
            self._send_batch()
            self._settled.set()

    def reconnect(self) -> None:
        """A new stream is there: send again what wasn't acknowledged; the CA knows a batch that it has stored."""
        if self._in_flight is not None:
            self._transmit(self._in_flight[1])
        else:
            self._send_batch()

    async def close(self, *, timeout_s: float) -> None:
        """Write what waits and give the CA a last chance to store it."""
        self._flush()
        self._end_window()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._in_flight is not None or self._waiting:
                    self._settled.clear()
                    await self._settled.wait()
        for timer in (self._flush_timer, self._window_timer, self._ack_timer):
            if timer is not None:
                timer.cancel()

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        for is_urgent, unwritten in self._unwritten.items():
            if unwritten:
                self._sink.write(self._write(unwritten), is_urgent=is_urgent)
                unwritten.clear()

    def _keep_for_ca(self, record: DecisionRecord, *, is_denial: bool) -> None:
        if self._waiting_code_bytes + _count_code_bytes(record) > MAX_WAITING_CODE_BYTES:
            record = self._drop_code(record)
        if is_denial:
            is_stranger = record.direction is Direction.INGRESS and not record.source.identity
            # What a program has loaded is told once in half an hour: no stranger's haste may use that up.
            is_limited = is_stranger and record.process.code is msgspec.UNSET
            if self._waiting_denials < MAX_WAITING_DENIALS and not (
                is_limited and self._window_strangers >= _STRANGERS_PER_WINDOW
            ):
                self._window_strangers += is_stranger
                self._wait(record)
                return
        elif (self._window_allows < _ALLOWS_PER_WINDOW or record.process.code is not msgspec.UNSET) and len(
            self._waiting
        ) < MAX_WAITING_ALLOWS:
            self._window_allows += 1
            self._wait(record)
            return
        record = self._drop_code(record)
        key = _cause(record)
        if key not in self._aggregates and len(self._aggregates) >= MAX_NAMED_STRANGERS:
            record = _without_stranger(record)
            key = _cause(record)
        known = self._aggregates.get(key)
        if known is not None and known.count + record.count > MAX_COUNT and self._has_room():
            self._wait(self._aggregates.pop(key))
            known = None
        is_full = len(self._aggregates) >= MAX_AGGREGATES if known is None else known.count + record.count > MAX_COUNT
        if is_full:
            self._lost += record.count
            self.lost_total += record.count
            return
        self._aggregates[key] = record if known is None else _add(known, record)

    def _drop_code(self, record: DecisionRecord) -> DecisionRecord:
        """Return a record without the list of its loaded code; a later record will have it."""
        code = record.process.code
        if code is msgspec.UNSET:
            return record
        self._note_untold(code)
        return msgspec.structs.replace(record, process=msgspec.structs.replace(record.process, code=msgspec.UNSET))

    def _end_window(self) -> None:
        self._window_timer = None
        self._window_allows = self._window_strangers = 0
        # Aggregates stay until the queue has room: a long outage costs memory for causes, not for connections.
        while self._aggregates and self._has_room():
            self._wait(self._aggregates.popitem()[1])
        self._send_batch()

    def _wait(self, record: DecisionRecord) -> None:
        self._waiting.append(record)
        self._waiting_denials += record.answer is Answer.DENY
        self._waiting_code_bytes += _count_code_bytes(record)

    def _has_room(self) -> bool:
        return len(self._waiting) < MAX_WAITING_ALLOWS + MAX_WAITING_DENIALS

    def _send_batch(self) -> None:
        if self._in_flight is not None or not (self._waiting or self._lost):
            return
        records = self._take_batch()
        self._batches += 1
        message = Decisions(batch=self._batches, records=records, lost=self._lost)
        self._lost = 0
        self._in_flight = (self._batches, message)
        self._transmit(message)

    def _take_batch(self) -> tuple[DecisionRecord, ...]:
        """Take as many records as fit into one message; one that the CA wouldn't take is lost."""
        records: list[DecisionRecord] = []
        room = _MAX_BATCH_BYTES
        while self._waiting and len(records) < MAX_DECISIONS_PER_MESSAGE:
            record = self._waiting[0]
            size = len(_encoder.encode(record))
            if MAX_DECISION_BYTES >= size > room:
                break
            self._waiting.popleft()
            self._waiting_denials -= record.answer is Answer.DENY
            self._waiting_code_bytes -= _count_code_bytes(record)
            if size > MAX_DECISION_BYTES:
                self._lost += record.count
                self.lost_total += record.count
                continue
            records.append(record)
            room -= size + 1
        return tuple(records)

    def _transmit(self, message: Decisions) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        self._ack_timer = asyncio.get_running_loop().call_later(_ACK_TIMEOUT_S, self._transmit, message)
        try:
            self._send(message)
        except UnavailableError:
            return  # Sent again by the timer or by the next stream, whichever is first.

    def _settle(self) -> None:
        self._in_flight = None
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None


def _count_code_bytes(record: DecisionRecord) -> int:
    code = record.process.code
    if code is msgspec.UNSET:
        return 0
    return sum(len(each.path) + len(each.digest) for each in code.objects)


def _cause(record: DecisionRecord) -> tuple[object, ...]:
    """Return what equal records have in common: the CA's edges, hour by hour, are as exact as this key."""
    return (
        record.phase, record.direction, record.answer, record.would_deny, record.reason, record.rule,
        record.policy_version, record.mode, record.port, record.transport, record.ending, record.service,
        record.has_started, record.draft, record.time // 3600, *_end(record.source), *_end(record.destination),
    )  # fmt: skip


def _end(party: PartyRecord) -> tuple[str, ...]:
    host = party.address.rpartition(":")[0] if _is_stranger(party) else ""
    return (party.workload, party.program, party.listed, party.identity, party.why, host)


def _is_stranger(party: PartyRecord) -> bool:
    return not (party.workload or party.listed or party.identity)


def _without_stranger(record: DecisionRecord) -> DecisionRecord:
    """Leave out the addresses of what has no other name: they are too many to be told apart."""
    source, destination = (
        msgspec.structs.replace(party, address="") if _is_stranger(party) else party
        for party in (record.source, record.destination)
    )
    return msgspec.structs.replace(record, source=source, destination=destination)


def _add(known: DecisionRecord, record: DecisionRecord) -> DecisionRecord:
    is_end = record.phase is Phase.END
    return msgspec.structs.replace(
        known,
        count=known.count + record.count,
        bytes_sent=known.bytes_sent + record.bytes_sent * is_end,
        bytes_received=known.bytes_received + record.bytes_received * is_end,
        duration_s=max(known.duration_s, record.duration_s),
        connection="",
        tunnel="",
    )
