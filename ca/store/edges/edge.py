"""What an edge is: one side's view of who talked to whom. Pure values.

Both sides of a connection report it, each with its own verdict, rule and mode. What is stored is each side's view;
``ca/observation/edge_view.py`` joins both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from shared.model.policy.decision import Answer, DraftVerdict, PartyRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode


class EdgeKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What equal connections have in common, as the sidecar on one side reported them.

    Attributes:
        side: who reports: ``egress``: the source's sidecar, ``ingress``: the destination's.
        namespace: the reporter's.
        source, destination: as in decisions, but without ports, ``approved`` is always false, and only an end that has
            no name has an address: a host; empty: several that couldn't be told apart.
        service: ``namespace/name:port`` that was dialled; known to the source's side alone.
    """

    side: Direction
    namespace: str
    source: PartyRecord
    destination: PartyRecord
    port: int
    service: str
    transport: Transport
    answer: Answer
    would_deny: bool
    reason: Reason
    rule: str
    mode: Mode


# Pages and pictures ask for the same edges again and again, and an edge's key never changes.
read_key: Final = lru_cache(maxsize=8192)(msgspec.json.Decoder(EdgeKey).decode)


class EdgeEvidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was seen last of an edge, for people; a sample, renewed at most once in a while.

    Attributes:
        pods: sidecar instances that reported it, at most ``MAX_PODS``.
        source, destination: addresses with ports.
        path: of the reporter's own program, in its own words.
    """

    pods: tuple[str, ...] = ()
    source: str = ""
    destination: str = ""
    path: str = ""
    detail: str = ""
    connection: str = ""
    time: float = 0.0


class StoredEdge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One side's view of an edge, summed over a window of whole hours.

    Attributes:
        opened: connections that began, each counted once, in the hour of its first record.
        ended: connections that ended, each in the hour of its end; a denied one has only an end.
        bytes_sent, bytes_received: from source to destination and back; of ended connections.
        first, last: when a record of it was written, seconds since the epoch.
        is_lossy: in one of the window's hours the reporting workload lost records: the numbers are a lower bound.
    """

    edge_id: int
    key: EdgeKey
    evidence: EdgeEvidence
    opened: int
    ended: int
    bytes_sent: int
    bytes_received: int
    first: float
    last: float
    is_lossy: bool

    @property
    def connections(self) -> int:
        """How many connections had this verdict: a denied one counts where it was denied."""
        return self.ended if self.key.answer is Answer.DENY else self.opened


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeWindow:
    """The edges of a namespace: those of which at least one end is in it.

    Attributes:
        since, until: the window that was summed: whole hours, seconds since the epoch.
        is_truncated: there were more edges than asked for; the ones seen last are there.
    """

    edges: tuple[StoredEdge, ...]
    since: float
    until: float
    is_truncated: bool


class DraftedEdge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Connections of one edge, as one side saw it, that a draft decides otherwise.

    Attributes:
        verdict: the draft's, which several drafts may have given together; it names none here.
        connections: that began or that ended while the draft was evaluated, whichever is more.
        last: when a record of it was written, seconds since the epoch.
    """

    key: EdgeKey
    evidence: EdgeEvidence
    verdict: DraftVerdict
    connections: int
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedWindow:
    """What was decided while a draft was evaluated beside the policies in force.

    Attributes:
        edges: what it decides otherwise, seen last first.
        since: when the first verdict of the namespace's own sidecars was written; None: there is none.
        unchanged: connections that the namespace's own sidecars decide as before.
        uncounted: connections for which there was no room, and records that the namespace's sidecars lost since the
            hour in which the draft was written: the numbers are a lower bound.
        is_truncated: there is more than is listed.
    """

    edges: tuple[DraftedEdge, ...]
    since: float | None
    unchanged: int
    uncounted: int
    is_truncated: bool


class HourOfNamespace(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a namespace's own sidecars decided in one hour.

    Attributes:
        hour: since the epoch.
        sidecars: how many reported; ``lost``: records that they lost.
        allowed, would_deny, denied: connections, each counted in the hour of its first record.
    """

    hour: int
    sidecars: int
    lost: int
    allowed: int = 0
    would_deny: int = 0
    denied: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Whose batch it is, and what it says of itself.

    Attributes:
        namespace, service_account: the reporter's workload.
        lost: records that the sidecar had to drop.
        is_first: the first batch of a sidecar process: it has watched since its start.
    """

    instance: str
    namespace: str
    service_account: str
    lost: int = 0
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHour:
    """What one sidecar reported in one hour; see ``Report``. ``new_edges``: never seen before."""

    instance: str
    hour: int
    namespace: str
    service_account: str
    records: int
    lost: int
    starts: int
    first: float
    last: float
