"""Is ``explicit`` safe for a namespace? What its sidecars saw, decided again by the current rules.

Belongs here: reading what was seen (refusals from the decision log, which keeps them whole; what was allowed from the
edges), and whether it is enough to say yes. Doesn't: what stands against it (``shared.model.adoption.blockers``). I/O
through the store; judging runs in a worker thread, because thousands of records would hold the loop up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ca.observation.coverage import cover
from ca.observation.judging import judge
from ca.observation.loaded_code import CodeFinding, compare_loaded, find_serving
from ca.store.edges.edge import StoredEdge
from ca.store.namespaces import describe_programs
from ca.store.records import ProgramRecord, SidecarRecord
from ca.store.store import Store
from shared.model.adoption.approved_code import restore_programs
from shared.model.adoption.blockers import Blocker, Finding, find_blockers, find_namespaces
from shared.model.adoption.fixes import Fix, FixKind, with_approvals
from shared.model.adoption.program_queue import ProgramRefusal
from shared.model.adoption.seen import Seen, see_record
from shared.model.identity.identity import Identity, IdentityKind, parse_workload
from shared.model.identity.program import Program, parse_program
from shared.model.policy.decision import Answer
from shared.model.policy.modes import effective_mode, read_modes
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, NamespaceState
from shared.model.wire.admin import Cause, PolicyCandidateRequest, Readiness, ReadinessVerdict, WorkloadCoverage

MAX_REPLAYED: Final = 20_000
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """What explicit mode would refuse of what was seen.

    Attributes:
        causes: most frequent first.
        failures: what failed whatever the mode.
        settled: connections that were marked or refused then and would be allowed now.
        refused: connections of programs that somebody has refused; nothing that stands against explicit mode.
        unclear: allowed connections whose addresses weren't kept apart: whether rules allow all of them isn't known.
        is_truncated: there were more than ``MAX_REPLAYED`` records, or more edges than are listed; the newest count.
        serving: programs of the namespace that have served connections, as ``find_serving`` returns them.
    """

    causes: tuple[Cause, ...]
    failures: tuple[Cause, ...] = ()
    refused: tuple[Cause, ...] = ()
    settled: int
    unclear: int = 0
    is_truncated: bool
    serving: Mapping[tuple[str, Program], Seen] = field(default_factory=dict)


async def find_refusals(
    store: Store, namespace: str, *, since: float, workload: str = "", candidate: PolicyCandidateRequest | None = None
) -> Refusals:
    """Decide again, as if the namespace were explicit, what its sidecars saw since then.

    Deny rules don't count: they hold in every mode, as intended. Nor do failures that no mode would change.

    Arguments:
        workload: only what this workload's sidecars saw; empty: those of all workloads without a mode of their own.
            What others send it without mutual TLS counts as well: its mode decides that, and they alone may see it.
        candidate: rules and approvals to judge by instead of the current ones.
    """
    records = await store.decisions.list_refusals(namespace, since=since, limit=MAX_REPLAYED + 1)
    state = await store.namespaces.get_state(namespace)
    judged = _replace_programs(state, candidate)
    restored = await judge(lambda _: restore_programs(records[:MAX_REPLAYED], judged))
    window = await store.edges.list_edges(namespace, since=since)
    own = [edge for edge in window.edges if edge.key.namespace == namespace]
    seen = [
        each for each in map(see_record, restored) if each.would_deny or each.mode is Mode.EXPLICIT or each.has_failed
    ]
    seen += [see_edge(edge) for edge in own if edge.key.answer is Answer.ALLOW and not edge.key.would_deny]
    seen += [see_edge(edge) for edge in window.edges if _is_plain_from_elsewhere(edge, namespace)]
    own_modes = find_own_modes(state, candidate)
    if workload or own_modes:
        seen = [each for each in seen if _is_concerned(each, namespace, workload, own_modes)]
    states = {name: await store.namespaces.get_state(name) for name in sorted(find_namespaces(seen) | {namespace})}
    if candidate is not None:
        states = _with_candidate(states, namespace, candidate)
    refusals = {
        (each.workload, str(each.program)): each for name in states for each in await store.refusals.list_all(name)
    }
    found: Finding = await judge(lambda check: find_blockers(seen, states, namespace, check=check))
    blockers, closed = list(found.blockers), []
    # Who may edit another namespace refuses nothing of this one's.
    own_refusals = {key: each for key, each in refusals.items() if each.namespace == namespace}
    others = [each for each in seen if not find_refused(each, own_refusals, states)] if own_refusals else seen
    if len(others) < len(seen):
        closed = [_describe_refused(each, own_refusals) for each in blockers if _key(each) in own_refusals]
        approvals = [each for each in blockers if each.fix.kind is FixKind.APPROVE and _key(each) not in own_refusals]
        found = await judge(lambda check: find_blockers(others, states, namespace, check=check))
        needed = {each.fix for each in found.blockers}
        blockers = [each for each in found.blockers if each.fix.kind is not FixKind.APPROVE]
        for each in approvals:  # The other end of a refused program's connection needs its own approval all the same.
            if each.fix in needed or await _is_told(store, each):
                blockers.append(each)
        blockers.sort(key=lambda each: (-each.count, -each.last, each.reason))
    blockers = [each if await _is_told(store, each) else each.doubt() for each in blockers]
    blockers = [_describe_refused(each, refusals) if _key(each) in refusals else each for each in blockers]
    return Refusals(
        causes=tuple(map(_make_cause, blockers)),
        failures=tuple(map(_make_cause, found.failures)),
        refused=tuple(map(_make_cause, closed)),
        settled=found.settled,
        unclear=found.unclear,
        is_truncated=len(records) > MAX_REPLAYED or window.is_truncated,
        serving=find_serving(map(see_edge, own), namespace),
    )


def _is_plain_from_elsewhere(edge: StoredEdge, namespace: str) -> bool:
    """Tell whether another namespace's sidecar sent plaintext to a member of this one."""
    key = edge.key
    if key.namespace == namespace or not (key.answer is Answer.ALLOW and key.would_deny):
        return False
    return see_edge(edge).is_plain_to_member and key.destination.listed.partition("/")[0] == namespace


def _is_concerned(seen: Seen, namespace: str, workload: str, own_modes: Mapping[str, Mode]) -> bool:
    """Tell whether the mode that is asked about decides what was seen."""
    ends: set[str] = set()
    if seen.namespace == namespace:
        ends = {seen.own.workload, seen.own.listed} - {""} if workload else {seen.own.workload or seen.own.listed}
    if seen.is_plain_to_member and seen.destination.listed.partition("/")[0] == namespace:
        ends.add(seen.destination.listed)
    return any(_is_asked_about(end, workload, own_modes) for end in ends)


def find_own_modes(state: NamespaceState, candidate: PolicyCandidateRequest | None = None) -> dict[str, Mode]:
    """Return the workloads that have a mode of their own, which their namespace's doesn't change."""
    wanted = None if candidate is None else candidate.workload_modes
    modes = state.workload_modes if wanted is None else wanted
    return {f"{state.namespace}/{name}": mode for name, mode in read_modes(modes).items()}


def find_refused(
    seen: Seen, refusals: Mapping[tuple[str, str], ProgramRefusal], states: Mapping[str, NamespaceState]
) -> tuple[str, str] | None:
    """Return the workload and the program of an end that somebody has refused, and that isn't approved; else None."""
    for party in (seen.source, seen.destination):
        key = (party.workload or party.listed, party.program)
        if party.program and key in refusals:
            namespace, _, service_account = key[0].partition("/")
            state = states.get(namespace)
            approvals = state.approvals if state is not None else ()
            if not any(a.service_account == service_account and str(a.program) == key[1] for a in approvals):
                return key
    return None


def _key(blocker: Blocker) -> tuple[str, str]:
    """Return the workload and the program that an approval is missing of; else empty."""
    return (blocker.fix.workload, blocker.fix.program) if blocker.fix.kind is FixKind.APPROVE else ("", "")


def _describe_refused(blocker: Blocker, refusals: Mapping[tuple[str, str], ProgramRefusal]) -> Blocker:
    """Return the same without the approval: somebody has refused this program."""
    refusal = refusals[_key(blocker)]
    advice = (
        f"{refusal.refused_by or 'somebody'} has refused this program; to ask again:"
        f" `touchmark program refuse {refusal.workload} {refusal.program} --take-back`"
    )
    return msgspec.structs.replace(blocker, fix=Fix(kind=FixKind.ADVICE, advice=advice))


async def _is_told(store: Store, blocker: Blocker) -> bool:
    """Tell whether a program that is to be approved was ever named by a sidecar of its own workload.

    The ledger has what that sidecar was issued for the program; whoever meets it knows it by such a certificate.
    """
    fix = blocker.fix
    if blocker.is_own_word or fix.kind is not FixKind.APPROVE:
        return True
    workload, program = parse_workload(fix.workload), parse_program(fix.program)
    kinds = (IdentityKind.PROGRAM, IdentityKind.OBSERVED)
    identities = [Identity(trust_domain=store.trust_domain, workload=workload, kind=k, program=program) for k in kinds]
    return await store.ledger.has_any(workload, identities)


def _with_candidate(
    states: dict[str, NamespaceState], namespace: str, candidate: PolicyCandidateRequest
) -> dict[str, NamespaceState]:
    changed = dict(states)
    changed[namespace] = msgspec.structs.replace(
        changed[namespace], rules=candidate.rules, group_label=candidate.group_label, requires=candidate.requires
    )
    if candidate.workload_modes is not None:
        changed[namespace] = msgspec.structs.replace(changed[namespace], workload_modes=candidate.workload_modes)
    changed[namespace] = _replace_programs(changed[namespace], candidate)
    for each in candidate.programs:
        state = changed.get(each.namespace, NamespaceState(namespace=each.namespace))
        programs = [(each.service_account, program) for program in each.programs]
        changed[each.namespace] = with_approvals(state, programs)
    return changed


def _replace_programs(state: NamespaceState, candidate: PolicyCandidateRequest | None) -> NamespaceState:
    """Return the state with the candidate's approvals in the place of its own, where they come in their place."""
    if candidate is None or not candidate.replaces_programs:
        return state
    records = [
        ProgramRecord(
            namespace=each.namespace,
            name=each.name,
            service_account=each.service_account,
            programs=each.programs,
            weak=each.weak,
            code=each.code,
        )
        for each in candidate.programs
        if each.namespace == state.namespace
    ]
    approvals, code = describe_programs(records)
    return msgspec.structs.replace(state, approvals=approvals, code=code)


def see_edge(edge: StoredEdge) -> Seen:
    """Return what an edge says."""
    key, evidence = edge.key, edge.evidence
    return Seen(
        direction=key.side,
        namespace=key.namespace,
        source=key.source,
        destination=key.destination,
        port=key.port,
        answer=key.answer,
        would_deny=key.would_deny,
        reason=key.reason,
        mode=key.mode,
        count=max(edge.connections, 1),
        connection=evidence.connection if edge.connections <= 1 else "",
        service=key.service,
        sidecars=evidence.pods,
        path=evidence.path,
        detail=evidence.detail,
        source_address=evidence.source,
        destination_address=evidence.destination,
        first=edge.first,
        last=edge.last,
    )


async def assess(
    store: Store,
    namespace: str,
    *,
    since: float,
    now: float,
    workload: str = "",
    candidate: PolicyCandidateRequest | None = None,
) -> Readiness:
    """Say whether explicit mode is safe: what stands against it, and whether enough was seen to say that nothing does.

    Arguments:
        workload: of this workload alone; empty: of the namespace, that is of those that inherit its mode.
    """
    state = await store.namespaces.get_state(namespace)
    own_modes = find_own_modes(state, candidate)
    found = await find_refusals(store, namespace, since=since, workload=workload, candidate=candidate)
    loaded = await _compare_loaded(store, state, found, since=since, workload=workload, candidate=candidate)
    live = [
        each
        for each in await store.sidecars.list_live(now=now)
        if each.workload.namespace == namespace and _is_asked_about(str(each.workload), workload, own_modes)
    ]
    reporting = await store.decisions.list_reporting_sidecars(namespace, since=since)
    silent = sorted(each.instance for each in live if each.instance not in reporting and not each.connected)
    covered = await _cover(store, namespace, live, since=since, now=now)
    coverage = tuple(each for each in covered if _is_asked_about(each.workload, workload, own_modes))
    unknowns = (*_find_unknowns(found, live, silent, coverage), *loaded.unknowns)
    causes = (*found.causes, *map(_make_cause, loaded.blockers))
    otherwise = ReadinessVerdict.UNKNOWN if unknowns else ReadinessVerdict.READY
    return Readiness(
        namespace=namespace,
        mode=effective_mode(state, parse_workload(workload)) if workload else state.mode,
        version=state.version,
        since=since,
        causes=causes,
        settled=found.settled,
        is_truncated=found.is_truncated,
        sidecars_reported=len(live) - len(silent),
        sidecars_total=len(live),
        silent=tuple(silent),
        is_safe=not (causes or loaded.unknowns or found.is_truncated or found.unclear or silent),
        verdict=ReadinessVerdict.BLOCKED if causes else otherwise,
        unknowns=unknowns,
        failures=found.failures,
        refused=found.refused,
        coverage=coverage,
        workload=workload,
        workload_modes=state.workload_modes,
    )


async def _compare_loaded(
    store: Store,
    state: NamespaceState,
    found: Refusals,
    *,
    since: float,
    workload: str,
    candidate: PolicyCandidateRequest | None,
) -> CodeFinding:
    """Compare what is loaded where no connection was refused for that already. Approvals that are added say nothing."""
    own_modes = find_own_modes(state, candidate)
    # Of what was refused for its code no program is named, but its file is.
    known = {
        (each.destination_workload, each.path)
        for each in found.causes
        if each.reason is Reason.CODE_NOT_APPROVED and each.side == Direction.INGRESS
    }
    serving = {
        key: seen
        for key, seen in found.serving.items()
        if (seen.destination.workload, seen.path) not in known
        and _is_asked_about(seen.destination.workload, workload, own_modes)
    }
    return await compare_loaded(store, _replace_programs(state, candidate), serving, since=since)


def _is_asked_about(workload: str, asked: str, own_modes: Mapping[str, Mode]) -> bool:
    return workload == asked if asked else workload not in own_modes


async def _cover(
    store: Store, namespace: str, live: Sequence[SidecarRecord], *, since: float, now: float
) -> tuple[WorkloadCoverage, ...]:
    reports = await store.edges.list_reports(namespace, since=since)
    return tuple(await judge(lambda _: cover(reports, live, namespace=namespace, now=now)))


def _find_unknowns(
    found: Refusals, live: Sequence[SidecarRecord], silent: Sequence[str], coverage: Sequence[WorkloadCoverage]
) -> tuple[str, ...]:
    """Say what is missing to say that nothing stands against explicit mode. Silence is never health."""
    unknowns: list[str] = []
    if not live:
        unknowns.append("no live sidecar: nothing is observed")
    if silent:
        more = f" and {len(silent) - _MAX_NAMED} more" if len(silent) > _MAX_NAMED else ""
        unknowns.append(f"not reporting: {', '.join(silent[:_MAX_NAMED])}{more}")
    if found.is_truncated:
        unknowns.append("more was seen than can be looked at; ask about a shorter time")
    if found.unclear:
        unknowns.append(
            f"{found.unclear} allowed connections were with more strangers than are told apart: whether rules name all"
            " their addresses isn't known"
        )
    for each in coverage:
        if each.lost:
            unknowns.append(f"{each.workload} lost {each.lost} records: what they said isn't known")
        if each.pods and not each.records:
            unknowns.append(f"{each.workload} had no connection in this time")
    return tuple(unknowns)


def _make_cause(blocker: Blocker) -> Cause:
    seen = blocker.seen
    return Cause(
        reason=blocker.reason,
        source_workload=seen.source.workload or seen.source.identity or seen.source.listed,
        destination_workload=seen.destination.workload or seen.destination.identity or seen.destination.listed,
        source_program=seen.source.program,
        destination_program=seen.destination.program,
        port=seen.port,
        connections=blocker.count,
        last_seen=blocker.last,
        first_seen=blocker.first,
        fix=blocker.fix,
        is_next=blocker.is_next,
        path=seen.path,
        detail=seen.detail,
        service=seen.service,
        source_address=seen.source_address,
        destination_address=seen.destination_address,
        sidecars=blocker.sidecars,
        side=str(seen.direction),
    )
