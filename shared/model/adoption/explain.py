"""What both sides would say of a connection, and why, by the evaluator that they enforce with. Pure.

Belongs here: a connection as a question, and each side's answer with what would change it. Doesn't: who is meant by a
name or an address (the command resolves that), attestation, or whether anything listens.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.model.adoption.blockers import find_blockers
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.adoption.seen import Seen
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.evaluate import Verdict, compile_namespace
from shared.model.policy.modes import as_explicit
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import judge, read_attempt
from shared.model.policy.rules import Direction, NamespaceState


class SideAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one side's sidecar says.

    Attributes:
        side: ``egress``: the source's.
        namespace: its own.
        in_explicit: why it would be refused if this side's workload were explicit; None: it wouldn't.
        missing: what would let it pass in explicit mode, with the reason that each removes.
    """

    side: Direction
    namespace: str
    verdict: Verdict
    in_explicit: Reason | None
    missing: tuple[tuple[Reason, Fix], ...] = ()


class ResolvedName(msgspec.Struct, frozen=True, kw_only=True):
    """What a name that was asked about was taken for.

    Attributes:
        asked: a pod's, another sidecar's or a Service's name. What the API server was asked is as it was written; what
            the CA knows is without its port.
        end: the workload, with ``@PROGRAM`` if that was asked for, or the address, that the answer is about.
        port: the destination's; None: of who connects.
    """

    asked: str
    end: str
    port: int | None = None


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """A connection's answers: the stricter side decides. No side is asked where neither end is in the mesh.

    Attributes:
        unknown: workloads of which the CA knows no sidecar and no approved program.
        resolved: names of pods and Services that were asked about.
    """

    source: PartyRecord
    destination: PartyRecord
    port: int
    allowed: bool
    sides: tuple[SideAnswer, ...]
    unknown: tuple[str, ...] = ()
    resolved: tuple[ResolvedName, ...] = ()


def explain(
    source: PartyRecord,
    destination: PartyRecord,
    port: int,
    states: Mapping[str, NamespaceState],
    *,
    reporter: Direction | None = None,
) -> Explained:
    """Say what each end's sidecar decides.

    Arguments:
        source, destination: as records show ends.
        states: of all namespaces that have one.
        reporter: whose record the ends are from; None: not from a record.

    Raises:
        IdentityError: an end is malformed.
    """
    sides = tuple(
        _ask(side, party.workload.partition("/")[0], source, destination, port, states, reporter)
        for side, party in ((Direction.EGRESS, source), (Direction.INGRESS, destination))
        if party.workload
    )
    return Explained(
        source=source,
        destination=destination,
        port=port,
        allowed=all(each.verdict.allowed for each in sides),
        sides=sides,
    )


def _ask(
    side: Direction,
    namespace: str,
    source: PartyRecord,
    destination: PartyRecord,
    port: int,
    states: Mapping[str, NamespaceState],
    reporter: Direction | None,
) -> SideAnswer:
    attempt = read_attempt(side, namespace, source=source, destination=destination, port=port)
    names = {namespace} | {
        workload.namespace
        for party in (attempt.source, attempt.destination)
        for workload in (party.workload, party.listed)
        if workload is not None
    }
    current = {name: states.get(name, NamespaceState(namespace=name)) for name in names}
    verdict = judge(attempt, {name: compile_namespace(state) for name, state in current.items()})
    explicit = {**current, namespace: as_explicit(current[namespace])}
    then = judge(attempt, {name: compile_namespace(state) for name, state in explicit.items()})
    seen = Seen(
        direction=side,
        namespace=namespace,
        source=source,
        destination=destination,
        port=port,
        answer=Answer.ALLOW if verdict.allowed else Answer.DENY,
        would_deny=verdict.would_deny,
        reason=verdict.reason,
        mode=verdict.mode,
    )
    blockers = find_blockers([msgspec.structs.replace(seen, answer=Answer.ALLOW)], current, namespace).blockers
    if reporter is not None:
        own = source if reporter is Direction.EGRESS else destination
        known = (own.workload, own.listed)
        is_doubtful = [each.fix.kind is FixKind.APPROVE and each.fix.workload not in known for each in blockers]
        blockers = tuple(each.doubt() if doubt else each for each, doubt in zip(blockers, is_doubtful, strict=True))
    return SideAnswer(
        side=side,
        namespace=namespace,
        verdict=verdict,
        in_explicit=seen.find_unproven() if then.allowed else then.reason,
        missing=tuple((each.reason, each.fix) for each in blockers),
    )
