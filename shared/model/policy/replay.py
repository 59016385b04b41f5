"""Replay: what the current rules decide about a connection that was recorded earlier. Pure.

``touchmark mode NAMESPACE explicit`` asks with it, so that a cause that was settled since (a program approved, a
rule added) no longer counts, and a removed rule counts again. It is the evaluator that sidecars enforce with.

What a replay does *not* know: labels, addresses and holders of that moment, and what hosts in rules resolved to, beyond
what the record says; attestation failures are taken as they were.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from shared.model.identity.foreign import parse_foreign_id
from shared.model.identity.identity import Workload, parse_workload
from shared.model.identity.program import parse_program
from shared.model.policy.decision import DecisionRecord, PartyRecord, find_host
from shared.model.policy.evaluate import Address, NamespacePolicy, Party, Verdict, compile_namespace, evaluate
from shared.model.policy.modes import effective_mode
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, NamespaceState


def compile_as(state: NamespaceState, mode: Mode) -> NamespacePolicy:
    """Prepare a namespace's state for evaluation as if it and all its workloads were in this mode."""
    return compile_namespace(msgspec.structs.replace(state, mode=mode, workload_modes=()))


def party_namespaces(record: DecisionRecord) -> frozenset[str]:
    """Return the namespaces whose states a replay of this record needs.

    Raises:
        IdentityError: the record names a malformed workload.
    """
    own = {record.namespace}
    for party in (record.source, record.destination):
        workload = _workload(party.workload) or _workload(party.listed)
        if workload is not None:
            own.add(workload.namespace)
    return frozenset(own)


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as one side judges it.

    Attributes:
        direction: ``EGRESS``: the source's side judges.
        namespace: the judging side's own.
    """

    direction: Direction
    namespace: str
    source: Party
    destination: Party
    port: int


def read_attempt(
    direction: Direction, namespace: str, *, source: PartyRecord, destination: PartyRecord, port: int
) -> Attempt:
    """Return what one side judged, as its record shows both ends.

    Raises:
        IdentityError: an end names a malformed workload, program or foreign identity.
    """
    return Attempt(
        direction=direction,
        namespace=namespace,
        source=_party(source, may_be_pending=False),
        destination=_party(destination, may_be_pending=direction is Direction.EGRESS),
        port=port,
    )


def judge(attempt: Attempt, policies: Mapping[str, NamespacePolicy]) -> Verdict:
    """Decide from the attempt's side, as the sidecar there does.

    Arguments:
        policies: by namespace, at least the judging side's and those of both ends' workloads.
    """
    own = policies[attempt.namespace]
    is_egress = attempt.direction is Direction.EGRESS
    return evaluate(
        direction=attempt.direction,
        source=attempt.source,
        destination=attempt.destination,
        port=attempt.port,
        source_policy=own if is_egress else _policy_of(attempt.source, policies),
        destination_policy=_policy_of(attempt.destination, policies) if is_egress else own,
    )


def replay(record: DecisionRecord, policies: dict[str, NamespacePolicy]) -> Verdict:
    """Decide a recorded connection again, from the side that recorded it.

    Arguments:
        policies: by namespace, at least those of ``party_namespaces``.

    Raises:
        IdentityError: the record names a malformed workload, program or foreign identity.
    """
    if not (record.source.address or record.source.workload):
        return _judge_listener(record, policies[record.namespace])
    attempt = read_attempt(
        record.direction, record.namespace, source=record.source, destination=record.destination, port=record.port
    )
    return judge(attempt, policies)


def _judge_listener(record: DecisionRecord, own: NamespacePolicy) -> Verdict:
    """Decide again about a listener whose readiness was withheld, without a connection. Its approval settles that."""
    listener = _party(record.destination, may_be_pending=False)
    approval = None
    if listener.workload is not None and listener.program is not None:
        approval = own.find_approval(listener.workload, listener.program)
    mode = effective_mode(own.state, listener.workload)
    return Verdict(
        allowed=approval is not None or mode is Mode.PERMISSIVE,
        would_deny=approval is None and mode is Mode.PERMISSIVE,
        reason=record.reason,
        mode=mode,
        policy_version=own.state.version,
        weak=approval is not None and approval.weak,
    )


def _party(record: PartyRecord, *, may_be_pending: bool) -> Party:
    workload, program = _workload(record.workload), parse_program(record.program) if record.program else None
    # A proven identity that is no workload of ours is foreign.
    foreign = parse_foreign_id(record.identity) if record.identity and workload is None else None
    return Party(
        workload=workload,
        program=program,
        foreign=foreign,
        address=_address(record.address),
        listed=_workload(record.listed),
        why_unidentified=_reason(record.why) if program is None else None,
        is_pending=may_be_pending and workload is not None and program is None and not record.why,
        hosts=record.hosts or (),
    )


def _policy_of(party: Party, policies: Mapping[str, NamespacePolicy]) -> NamespacePolicy | None:
    workload = party.workload or party.listed
    return None if workload is None else policies[workload.namespace]


def _workload(text: str) -> Workload | None:
    return parse_workload(text) if text else None


def _reason(text: str) -> Reason | None:
    return Reason(text) if text in Reason.__members__.values() else None


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(find_host(text))
    except ValueError:
        return None
