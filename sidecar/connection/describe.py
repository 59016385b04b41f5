"""A connection as values for people: its decision record, and its line in ``touchmark connections``.

Belongs here: what these say. Doesn't: when a record is made (``connection.py``), where it goes (``recording.py``).
Pure: times are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import msgspec

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Identity, Workload
from shared.model.identity.program import Program, format_program
from shared.model.policy.decision import (
    MAX_HOSTS_RECORDED,
    Answer,
    DecisionRecord,
    Ending,
    PartyRecord,
    Phase,
    Transport,
)
from shared.model.policy.evaluate import NamespacePolicy, Party, Verdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.messages import LiveConnection
from sidecar.connection.drafts import judge_by_drafts
from sidecar.connection.parties import Parties, PolicySource
from sidecar.sockets.address import Endpoint, format_endpoint

MAX_DETAIL_CHARACTERS = 500
_REMEMBERED_NAMES = 1024


class Described(Protocol):
    """What is said of a connection."""

    @property
    def id(self) -> str:
        """The same in both sidecars' records."""

    @property
    def parties(self) -> Parties:
        """Both ends."""

    @property
    def verdict(self) -> Verdict | None:
        """The latest decision; None before the first."""

    @property
    def refusal(self) -> Reason | None:
        """Why it was refused for another reason than the verdict's."""

    @property
    def refused_in_explicit(self) -> Reason | None:
        """Why explicit mode would have closed it, where permissive mode let it go on."""

    @property
    def detail(self) -> str:
        """For people."""

    @property
    def transport(self) -> Transport:
        """How bytes flow, or would."""

    @property
    def tunnel(self) -> str:
        """The tunnel's id; empty without one."""

    @property
    def bytes_sent(self) -> int:
        """From source to destination as the local end counts them."""

    @property
    def bytes_received(self) -> int:
        """The other way."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RefusedAttempt:
    """What was refused before there was a connection: a handshake that failed, a readiness that is withheld."""

    id: str
    parties: Parties
    refusal: Reason
    detail: str
    transport: Transport
    verdict: None = None
    refused_in_explicit: None = None
    tunnel: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0


def make_record(
    connection: Described,
    policies: PolicySource,
    *,
    sidecar: str,
    phase: Phase,
    ending: Ending,
    now: float,
    duration_s: float,
    has_started: bool = False,
) -> DecisionRecord:
    """Make a record.

    Arguments:
        sidecar: the name of the one that writes it.
        ending: how it ended; ``Ending.NONE`` for one that lives.
        now: seconds since the epoch.
        has_started: it has a start record.
    """
    verdict, parties = connection.verdict, connection.parties
    own = policies.own.state
    source_policy, destination_policy = parties.find_policies(policies)
    is_denied = connection.refusal is not None or verdict is None or not verdict.allowed
    reason = choose_reason(connection, ending)
    unproven = None if is_denied else connection.refused_in_explicit
    return DecisionRecord(
        time=now,
        namespace=own.namespace,
        sidecar=sidecar,
        phase=phase,
        direction=parties.direction,
        answer=Answer.DENY if is_denied else Answer.ALLOW,
        would_deny=False if is_denied or verdict is None else verdict.would_deny or unproven is not None,
        reason=reason,
        rule="" if verdict is None or reason is not verdict.reason else verdict.rule,
        policy_version=own.version if verdict is None else verdict.policy_version,
        mode=policies.mode if verdict is None else verdict.mode,
        weak=False if verdict is None else verdict.weak,
        source=_describe_party(
            parties.source,
            parties.source_endpoint,
            parties.source_identity,
            source_policy,
            unproven if parties.direction is Direction.EGRESS else None,
        ),
        destination=_describe_party(
            parties.destination,
            parties.destination_endpoint,
            parties.destination_identity,
            destination_policy,
            unproven if parties.direction is Direction.INGRESS else None,
        ),
        process=parties.process,
        port=parties.port,
        transport=connection.transport,
        tunnel=connection.tunnel,
        connection=connection.id,
        issuer=parties.issuer,
        bytes_sent=connection.bytes_sent,
        bytes_received=connection.bytes_received,
        duration_s=round(duration_s, 6),
        ending=ending,
        detail=connection.detail[:MAX_DETAIL_CHARACTERS],
        service=parties.service or msgspec.UNSET,
        has_started=has_started or msgspec.UNSET,
        draft=judge_by_drafts(connection, policies, source_policy, destination_policy),
    )


def choose_reason(connection: Described, ending: Ending) -> Reason:
    """Return the reason that a record gives."""
    if connection.refusal is not None:
        return connection.refusal
    if connection.verdict is not None:
        if connection.refused_in_explicit is not None and not connection.verdict.would_deny:
            return connection.refused_in_explicit
        return connection.verdict.reason
    return Reason.SHUTTING_DOWN if ending is Ending.SHUTDOWN else Reason.DEADLINE_EXCEEDED


def describe_live(connection: Described, *, since: float) -> LiveConnection:
    """Describe a live connection.

    Arguments:
        since: seconds since the epoch.
    """
    verdict, parties = connection.verdict, connection.parties
    source, destination, process = parties.source, parties.destination, parties.process
    return LiveConnection(
        connection=connection.id,
        tunnel=connection.tunnel,
        direction=parties.direction.value,
        source=format_endpoint(parties.source_endpoint),
        destination=format_endpoint(parties.destination_endpoint),
        source_workload=str(source.workload or source.foreign or source.listed or ""),
        destination_workload=str(destination.workload or destination.foreign or destination.listed or ""),
        source_program=format_program(source.program) if source.program else "",
        destination_program=format_program(destination.program) if destination.program else "",
        transport=connection.transport.value,
        would_deny=verdict.would_deny if verdict else False,
        reason=verdict.reason.value if verdict else "",
        since=since,
        bytes_sent=connection.bytes_sent,
        bytes_received=connection.bytes_received,
        process=f"{process.pid} {process.path}" if process.pid else "",
    )


def _describe_party(
    party: Party,
    endpoint: Endpoint,
    identity: Identity | ForeignIdentity | None,
    policy: NamespacePolicy | None,
    unproven: Reason | None,
) -> PartyRecord:
    """Describe an end; where its program was told and isn't proven any more, with both the program and the reason."""
    program, why = party.program, party.why_unidentified
    approved = (
        policy is not None
        and party.workload is not None
        and program is not None
        and policy.find_approval(party.workload, program) is not None
    )
    if program is not None:
        why = unproven
    elif why is None:
        why = Reason.PEER_UNIDENTIFIED if party.foreign is None and not party.is_pending else unproven
    workload, listed, name, identified = _name(party.workload, party.listed, program, identity)
    return PartyRecord(
        address=format_endpoint(endpoint),
        workload=workload,
        listed=listed,
        program=name,
        identity=identified,
        approved=approved,
        why="" if why is None else why.value,
        hosts=party.hosts[:MAX_HOSTS_RECORDED] or msgspec.UNSET,
    )


@lru_cache(maxsize=_REMEMBERED_NAMES)
def _name(
    workload: Workload | None,
    listed: Workload | None,
    program: Program | None,
    identity: Identity | ForeignIdentity | None,
) -> tuple[str, str, str, str]:
    """Write what proves an end: the same for most connections, which differ in their ports."""
    return (
        str(workload) if workload else "",
        str(listed) if listed else "",
        format_program(program) if program else "",
        str(identity) if identity else "",
    )
