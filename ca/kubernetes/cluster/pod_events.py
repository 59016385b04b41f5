"""Kubernetes Events on pods: what ``kubectl describe pod`` shows of refusals, second sidecars and laggards. I/O.

Belongs here: which event, how often, and sending it. Doesn't: what is refused. An Event is a hint for people: it is
sent once, by the replica that learned of it, and one that can't be sent is counted and forgotten.
"""

from __future__ import annotations

import asyncio
import datetime
import secrets
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from ca.kubernetes.cluster.pods import PodRecord
from ca.metrics import Metrics
from shared.model.errors import TouchmarkError
from shared.model.policy.decision import Answer, DecisionRecord
from shared.model.policy.rules import Direction, Mode

EVERY_S: Final = 3600.0  # Of a pod and a reason.
MAX_REMEMBERED: Final = 10_000
MAX_WAITING: Final = 500
PAUSE_S: Final = 0.2  # Between two events: five a second at most.
CONTROLLER: Final = "touchmark.dev/ca"
_MAX_NOTE: Final = 1024  # The API's own bound.
_MAX_NAME: Final = 200
_MAX_PATH: Final = (
    200  # A sidecar's word, which terminals print: printable, and no longer than leaves room for the rest.
)

_log = structlog.get_logger("touchmark.ca")


class EventClient(Protocol):
    """What events need of the API server's client."""

    async def post(self, path: str, body: object, kind: type[Any], /) -> Any:
        """Create an object."""


class PodEvents:
    """Tells people by Events.

    Arguments:
        find_pod: a sidecar's instance → its pod; None: it is gone, or no pod.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        client: EventClient,
        *,
        find_pod: Callable[[str], PodRecord | None],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._find_pod = find_pod
        self._metrics = metrics
        self._clock = clock
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()  # What was told longest ago first.
        self._waiting: deque[tuple[PodRecord, str, str]] = deque()
        self._arrived = asyncio.Event()

    def tell_refusals(self, records: Sequence[DecisionRecord]) -> None:
        """Tell of connections that explicit mode refused, on the pod whose sidecar refused them."""
        for record in records:
            if record.answer is Answer.DENY and record.mode is Mode.EXPLICIT:
                self.tell(record.sidecar, "ConnectionRefused", _describe(record), subject=record.reason)

    def tell(self, instance: str, reason: str, note: str, *, subject: str = "") -> None:
        """Queue an event on a sidecar's pod, unless it has had one of this kind within an hour.

        Arguments:
            reason: of the event, in CamelCase.
            subject: tells kinds of one reason apart.
        """
        pod = self._find_pod(instance)
        if pod is None:
            return
        now, key = self._clock(), (pod.uid, reason, subject)
        if now - self._told.get(key, -EVERY_S) < EVERY_S:
            return
        while self._told and now - next(iter(self._told.values())) >= EVERY_S:
            self._told.popitem(last=False)
        if len(self._told) >= MAX_REMEMBERED or len(self._waiting) >= MAX_WAITING:
            self._metrics.pod_events.labels(result="dropped").inc()
            return
        self._told[key] = now
        self._told.move_to_end(key)
        self._waiting.append((pod, reason, note))
        self._arrived.set()

    async def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                pod, reason, note = self._waiting.popleft()
                await self._send(pod, reason, note)
                await asyncio.sleep(PAUSE_S)

    async def _send(self, pod: PodRecord, reason: str, note: str) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{pod.namespace}/events"
        try:
            await self._client.post(path, make_event(pod, reason, note, now=self._clock()), msgspec.Raw)
        except TouchmarkError as error:
            self._metrics.pod_events.labels(result="failed").inc()
            _log.warning("pod_event_not_sent", pod=f"{pod.namespace}/{pod.name}", reason=reason, code=error.code)
        else:
            self._metrics.pod_events.labels(result="sent").inc()


def make_event(pod: PodRecord, reason: str, note: str, *, now: float) -> dict[str, Any]:
    """Return an Event (events.k8s.io/v1) on a pod; its name is drawn at random."""
    when = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="microseconds")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{pod.name[:_MAX_NAME]}.{secrets.token_hex(8)}", "namespace": pod.namespace},
        "eventTime": when.replace("+00:00", "Z"),
        "type": "Warning",
        "action": "Refuse" if reason == "ConnectionRefused" else "Report",
        "reason": reason,
        "note": note[:_MAX_NOTE],
        "reportingController": CONTROLLER,
        "reportingInstance": socket.gethostname()[:128],
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
    }


def _describe(record: DecisionRecord) -> str:
    source = record.source.workload or record.source.listed or record.source.address or "unknown"
    destination = record.destination.workload or record.destination.listed or record.destination.address or "unknown"
    side = "from" if record.direction is Direction.EGRESS else "to"
    path = "".join(each if each.isprintable() else "?" for each in record.process.path[:_MAX_PATH])
    program = f" of {path}" if path else ""
    text = f"A connection {side} this pod{program} was refused: {source} to {destination}, port {record.port}"
    rule = f" by rule {record.rule}" if record.rule else ""
    return f"{text}: {record.reason}{rule}. One event an hour at most tells of this reason; touchmark decisions has all"
