"""What was seen: one side's view of equal connections, from a decision record or from a sum over many. Pure.

Belongs here: the value, what it says of its ends, and counting. Doesn't: what the rules say of it (``blockers.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from shared.model.policy.decision import Answer, DecisionRecord, PartyRecord, Phase, find_host
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode

# Refusals that every mode has: no rule and no approval changes them.
_FAILURES: Final = frozenset({
    Reason.DESTINATION_NOT_SERVED, Reason.DIRECT_CONNECTION, Reason.DESTINATION_UNREACHABLE,
    Reason.APPLICATION_UNREACHABLE, Reason.PROTOCOL_ERROR, Reason.HANDSHAKE_FAILED, Reason.MTLS_REQUIRED,
    Reason.DEADLINE_EXCEEDED, Reason.OVERLOADED, Reason.SHUTTING_DOWN, Reason.INTERNAL_ERROR, Reason.NO_LISTENER,
    Reason.PEER_UNTRUSTED, Reason.PEER_EXPIRED, Reason.PEER_DISTRUSTED, Reason.PEER_WORKLOAD_MISMATCH,
    Reason.TRUST_DOMAIN_UNKNOWN,
})  # fmt: skip


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that one side saw alike.

    Attributes:
        direction: ``EGRESS``: the source's sidecar reports.
        namespace: the reporter's.
        service: ``namespace/name:port`` that was dialled; empty where it isn't known.
        count: connections.
        connection: where this is one record: its connection's ID, which both sides' records share; else empty.
        sidecars: some of the instances that reported it.
        path: of the reporter's own program, in its own words; ``detail`` likewise.
        source_address, destination_address: with ports, of one of them.
        first, last: seconds since the epoch.
    """

    direction: Direction
    namespace: str
    source: PartyRecord
    destination: PartyRecord
    port: int
    answer: Answer
    would_deny: bool
    reason: Reason
    mode: Mode
    phase: Phase = Phase.END
    count: int = 1
    connection: str = ""
    service: str = ""
    sidecars: tuple[str, ...] = ()
    path: str = ""
    detail: str = ""
    source_address: str = ""
    destination_address: str = ""
    first: float = 0.0
    last: float = 0.0

    @property
    def own(self) -> PartyRecord:
        """The reporter's end."""
        return self.source if self.direction is Direction.EGRESS else self.destination

    @property
    def has_failed(self) -> bool:
        """Whether it failed for a reason that has nothing to do with the mode."""
        return self.answer is Answer.DENY and self.reason in _FAILURES

    def find_unproven(self) -> Reason | None:
        """Return why explicit mode would have closed it whatever policy says: its program was no longer proven."""
        if not self.own.program or not self.own.why:
            return None
        try:
            return Reason(self.own.why)
        except ValueError:  # A newer sidecar's.
            return self.reason

    @property
    def is_plain_to_member(self) -> bool:
        """Whether the source's sidecar sends it plainly to a member of the mesh: the destination's mode counts, too."""
        is_plain = self.destination.why == Reason.MTLS_UNAVAILABLE and bool(self.destination.listed)
        return is_plain and self.direction is Direction.EGRESS

    @property
    def is_withheld_readiness(self) -> bool:
        """Whether it is no connection, but a listener whose readiness was withheld."""
        return not (self.source.address or self.source_address or name_end(self.source))

    @property
    def is_summed(self) -> bool:
        """Whether it was allowed, and is of several strangers whose addresses weren't kept apart."""
        peer = self.destination if self.direction is Direction.EGRESS else self.source
        is_allowed = self.answer is Answer.ALLOW and not self.would_deny
        return is_allowed and bool(self._sample) and not (peer.address or name_end(peer))

    def at_extremes(self) -> tuple[Seen, Seen]:
        """Return what is summed as if at the first and at the last address of its newest stranger's family.

        A rule that names all addresses allows both; one that names some of them hardly does.
        """
        is_six = ":" in find_host(self._sample)
        first, last = ("::", "ffff:" * 7 + "ffff") if is_six else ("0.0.0.0", "255.255.255.255")
        return self._put_peer_at(first), self._put_peer_at(last)

    def at_sample(self) -> Seen:
        """Return what is summed as if all of it were with the stranger that was seen last."""
        return self._put_peer_at(find_host(self._sample))

    @property
    def _sample(self) -> str:
        """The address, with port, of one of its peers."""
        return self.destination_address if self.direction is Direction.EGRESS else self.source_address

    def _put_peer_at(self, host: str) -> Seen:
        address = f"[{host}]:0" if ":" in host else f"{host}:0"
        if self.direction is Direction.EGRESS:
            return msgspec.structs.replace(self, destination=msgspec.structs.replace(self.destination, address=address))
        return msgspec.structs.replace(self, source=msgspec.structs.replace(self.source, address=address))


def see_record(record: DecisionRecord) -> Seen:
    """Return what a record says."""
    return Seen(
        direction=record.direction,
        namespace=record.namespace,
        source=record.source,
        destination=record.destination,
        port=record.port,
        answer=record.answer,
        would_deny=record.would_deny,
        reason=record.reason,
        mode=record.mode,
        phase=record.phase,
        count=record.count,
        connection=record.connection if record.count == 1 else "",
        service=record.service or "",
        sidecars=(record.sidecar,),
        path=record.process.path,
        detail=record.detail,
        source_address=record.source.address,
        destination_address=record.destination.address,
        first=record.time,
        last=record.time,
    )


def name_end(party: PartyRecord) -> str:
    """Return who an end is: its workload, foreign identity, or the workload listed at its address; else empty."""
    return party.workload or party.identity or party.listed


def fill_in_hosts(seen: Sequence[Seen]) -> Sequence[Seen]:
    """Have what was seen at an address before a rule named its host say what was seen of that address since.

    Whether the host had the address then isn't known; that a sidecar has found it there within the same window is. Ends
    without an address are several that couldn't be told apart: they say nothing of one another.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for each in seen:
        if each.destination.hosts and each.destination.address:
            found.setdefault(_place(each), set()).update(each.destination.hosts)
    if not found:
        return seen
    filled = []
    for each in seen:
        if each.direction is Direction.EGRESS and (hosts := found.get(_place(each))) is not None:
            destination = msgspec.structs.replace(each.destination, hosts=tuple(sorted(hosts)))
            each = msgspec.structs.replace(each, destination=destination)
        filled.append(each)
    return filled


def _place(seen: Seen) -> tuple[str, str]:
    """Return whose sidecar saw which address."""
    return seen.namespace, find_host(seen.destination.address)


class Tally:
    """Counts connections that several records speak of: both sides' records, starts and ends, aggregates.

    A connection has one ID in all its records, but an aggregate names none. So each side's starts and ends are counted
    for themselves, each exactly, and the greatest of these counts holds.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Direction, Phase], set[str]] = {}
        self._aggregated: Counter[tuple[Direction, Phase]] = Counter()

    def add(self, seen: Seen) -> None:
        """Add what was seen."""
        side = (seen.direction, seen.phase)
        named = self._seen.setdefault(side, set())
        if seen.connection or seen.count == 1:
            named.add(seen.connection)
        else:
            self._aggregated[side] += seen.count

    def count(self) -> int:
        """Return how many connections it were."""
        sides = (len(named) + self._aggregated[side] for side, named in self._seen.items())
        return max(len(set().union(*self._seen.values())), *sides) if self._seen else 0
