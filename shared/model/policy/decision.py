"""The record of one connection on one side, as it is logged, sent to the CA and queried. Pure.

Constant keys: every field but a few is always present in JSON, so that a log pipeline needs no special cases.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec

from shared.model.identity.loaded_code import LoadedCode
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode

# Of one destination: many sites share an address.
MAX_HOSTS_RECORDED: Final = 16


class Answer(StrEnum):
    """What happened to the connection."""

    ALLOW = "allow"
    DENY = "deny"


class Phase(StrEnum):
    """Which moment a record describes. A connection that is denied yields one ``end`` record."""

    START = "start"
    END = "end"


class Ending(StrEnum):
    """How a connection ended."""

    NONE = "none"  # It still lives: a start record.
    FINISHED = "finished"  # Both directions ended cleanly.
    REFUSED = "refused"  # Denied, or never established.
    RESET_BY_SOURCE = "reset_by_source"
    RESET_BY_DESTINATION = "reset_by_destination"
    PEER_LOST = "peer_lost"  # The tunnel broke.
    POLICY_CHANGED = "policy_changed"  # A live connection was decided again and denied.
    RECORD_LIMIT = "record_limit"  # As much was encrypted with one key as may be, and there was no new one.
    TIMED_OUT = "timed_out"  # It was idle, or lived, for longer than this sidecar's settings allow.
    SHUTDOWN = "shutdown"  # This sidecar stopped.


class Transport(StrEnum):
    """What carried the bytes between the two sides."""

    NONE = "none"
    TUNNEL = "tunnel"
    MTLS = "mtls"
    PLAINTEXT = "plaintext"


# ``gc=False``: they are made by the thousand, and hold nothing but text.
class PartyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One end, as the record shows it.

    Attributes:
        address: ``198.18.0.2:5432`` or ``[2001:db8::1]:5432``; empty when unknown.
        workload: ``namespace/service-account`` that is proven; empty for a stranger.
        listed: the workload that the directory lists at the address; evidence for people.
        program: ``sha256:…``; empty when there is none.
        identity: the SPIFFE ID; empty when there is none.
        approved: whether the program is approved now.
        why: why there is no identity; beside a program: why explicit mode would have closed this connection, which went
            on, because it was no longer proven that this program alone holds it. Else empty.
        hosts: of a destination: names of egress rules that resolved to ``address`` when the connection began, at most
            ``MAX_HOSTS_RECORDED``; it isn't written where there are none, and only for CAs of protocol 2.
    """

    address: str = ""
    workload: str = ""
    listed: str = ""
    program: str = ""
    identity: str = ""
    approved: bool = False
    why: str = ""
    hosts: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class Origin(StrEnum):
    """Where a process comes from; evidence with limits (``sidecar/attest/origin.py``).

    Attributes:
        CONTAINER: it descends from its container's first process.
        EXEC: from a session that was started in the container later, as by ``kubectl exec``.
        UNKNOWN: neither is known; so it is outside Kubernetes, and where a parent has ended.
    """

    CONTAINER = "container"
    EXEC = "exec"
    UNKNOWN = "unknown"


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The local process: who opened (outbound) or serves (inbound) the connection. ``pid`` 0: none was found.

    Attributes:
        code: what it has mapped executable besides its program. Only one record in half an hour of each program and set
            of objects has it, and only for CAs of protocol 2.
        origin: where it comes from, where that is known; only for CAs of protocol 2.
    """

    pid: int = 0
    uid: int = -1
    path: str = ""
    digest: str = ""
    code: LoadedCode | msgspec.UnsetType = msgspec.UNSET
    origin: Origin | msgspec.UnsetType = msgspec.UNSET


def find_host(address: str) -> str:
    """Return the host of a party's ``address``: a record's has a port, an edge's hasn't."""
    if address.startswith("[") or address.count(":") == 1:
        return address.rpartition(":")[0].strip("[]")
    return address


class DraftVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the drafts of the ends' namespaces would have said in the place of the policies in force; enforced by none.

    Attributes:
        answer, would_deny, reason, rule: as of ``DecisionRecord``.
        drafts: which drafts took part: ``namespace@number``, at most two.
    """

    answer: Answer
    would_deny: bool
    reason: Reason
    rule: str
    drafts: tuple[str, ...]


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One decision. Times in seconds since the epoch, UTC; durations in seconds; sizes in bytes.

    Attributes:
        sidecar: the sidecar instance that decided.
        connection: the connection's id, the same on both sides; ``tunnel`` likewise.
        count: how many equal allows this record stands for (aggregates in the CA's copy); else 1.
        issuer: subject of the issuing authority of the peer's certificate; shows a rotation at work.
        service: ``namespace/name:port`` of the Service that was dialled, in egress records; only for CAs of protocol 2.
        bytes_sent, bytes_received: from source to destination, and back. Where an end was reset, what its kernel had
            acknowledged by then: the last of what it read may be missing.
        has_started: this is the end of a connection that has a ``start`` record as well, so that one connection can be
            counted once; only for CAs of protocol 2.
        draft: the drafts' verdict, where there are any and all that it needs is known; only for CAs of protocol 2.
    """

    time: float
    namespace: str
    sidecar: str
    phase: Phase
    direction: Direction
    answer: Answer
    would_deny: bool
    reason: Reason
    rule: str
    policy_version: int
    mode: Mode
    weak: bool
    source: PartyRecord
    destination: PartyRecord
    process: ProcessRecord
    port: int
    transport: Transport
    tunnel: str
    connection: str
    issuer: str
    bytes_sent: int
    bytes_received: int
    duration_s: float
    ending: Ending
    detail: str = ""
    count: int = 1
    service: str | msgspec.UnsetType = msgspec.UNSET
    has_started: bool | msgspec.UnsetType = msgspec.UNSET
    draft: DraftVerdict | msgspec.UnsetType = msgspec.UNSET


class DraftChange(StrEnum):
    """How a record's verdict by the drafts compares with what happened."""

    NONE = ""  # There is no such verdict.
    SAME = "same"
    DENIED = "denied"  # Stricter: denied, or marked, where it wasn't.
    ALLOWED = "allowed"  # Less strict.


def compare_draft(record: DecisionRecord) -> DraftChange:
    """Return how the drafts would have changed a decision."""
    draft = record.draft
    if draft is msgspec.UNSET:
        return DraftChange.NONE
    if is_stricter(draft, record):
        return DraftChange.DENIED
    return DraftChange.ALLOWED if is_stricter(record, draft) else DraftChange.SAME


class Decided(Protocol):
    """What says how strictly something was decided."""

    @property
    def answer(self) -> Answer:
        """Whether it is allowed."""

    @property
    def would_deny(self) -> bool:
        """Whether explicit mode would deny it."""


def is_stricter(one: Decided, other: Decided) -> bool:
    """Tell whether the one decision is stricter than the other: deny, would deny, allow."""
    mine, others = (2 if each.answer is Answer.DENY else int(each.would_deny) for each in (one, other))
    return mine > others


def name_draft(namespace: str, number: int) -> str:
    """Name a draft as records do."""
    return f"{namespace}@{number}"
