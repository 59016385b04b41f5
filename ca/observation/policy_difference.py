"""What proposed policies would change for what was seen. I/O through the store; deciding runs in a worker thread.

Belongs here: what is read, and the documents put in the place of those in force. Doesn't: deciding
(``shared.model.adoption.difference``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ca.observation.explicit_readiness import see_edge
from ca.observation.judging import judge
from ca.store.store import Store
from shared.model.adoption.blockers import find_namespaces
from shared.model.adoption.difference import Changed, compare
from shared.model.adoption.seen import Seen, name_end
from shared.model.identity.identity import check_namespace
from shared.model.policy.rules import Approval, NamespaceState
from shared.model.wire.admin import DecidedOtherwise, PolicyDifference, PolicyDifferenceRequest, ProgramRequest


async def find_difference(store: Store, proposed: PolicyDifferenceRequest, *, since: float) -> PolicyDifference:
    """Decide the connections of the documents' namespaces by the current and by the proposed policies.

    Arguments:
        since: seconds since the epoch, widened to a whole hour.

    Raises:
        IdentityError: a document's namespace isn't one.
    """
    namespaces = name_namespaces(proposed)
    seen: dict[int, Seen] = {}
    unknowns: list[str] = []
    begin = since
    for namespace in namespaces:
        window = await store.edges.list_edges(namespace, since=since)
        seen.update({edge.edge_id: see_edge(edge) for edge in window.edges})
        begin = min(begin, window.since)
        if window.is_truncated:
            unknowns.append(f"{namespace} has more edges than are looked at; ask about a shorter time")
        lossy = sorted({name_end(see_edge(edge).own) for edge in window.edges if edge.is_lossy})
        unknowns += [f"{name} lost records: what they said isn't known" for name in lossy]
        if not window.edges:
            unknowns.append(f"nothing was seen of {namespace} in this time")
    names = sorted(find_namespaces(seen.values()) | set(namespaces))
    states = {name: await store.namespaces.get_state(name) for name in names}
    changed = propose(states, proposed)
    found = await judge(lambda check: compare(list(seen.values()), states, changed, check=check))
    return PolicyDifference(
        namespaces=tuple(namespaces),
        since=begin,
        denied=tuple(map(_view, found.denied)),
        allowed=tuple(map(_view, found.allowed)),
        unchanged=found.unchanged,
        unknown=found.unknown,
        unknowns=tuple(dict.fromkeys(unknowns)),
    )


def name_namespaces(proposed: PolicyDifferenceRequest) -> list[str]:
    """Return the documents' namespaces.

    Raises:
        IdentityError: one of them isn't a namespace.
    """
    named = [each.namespace for each in proposed.policies] + [each.namespace for each in proposed.programs]
    return sorted({check_namespace(each) for each in named})


def propose(states: Mapping[str, NamespaceState], proposed: PolicyDifferenceRequest) -> dict[str, NamespaceState]:
    """Return the states as they would be if the documents were applied."""
    changed = dict(states)
    for policy in proposed.policies:
        state = changed.get(policy.namespace, NamespaceState(namespace=policy.namespace))
        changed[policy.namespace] = msgspec.structs.replace(
            state,
            mode=policy.mode if policy.mode is not None else state.mode,
            rules=policy.rules,
            group_label=policy.group_label,
            requires=policy.requires,
            workload_modes=state.workload_modes if policy.workload_modes is None else policy.workload_modes,
        )
    for program in proposed.programs:
        state = changed.get(program.namespace, NamespaceState(namespace=program.namespace))
        kept = [each for each in state.approvals if each.name != program.name]
        changed[program.namespace] = msgspec.structs.replace(state, approvals=(*kept, *_approve(program)))
    return changed


def _approve(program: ProgramRequest) -> Iterable[Approval]:
    for each in program.programs:
        yield Approval(service_account=program.service_account, program=each, weak=program.weak, name=program.name)


def _view(changed: Changed) -> DecidedOtherwise:
    seen = changed.seen
    return DecidedOtherwise(
        before=changed.before.words,
        after=changed.after.words,
        side=seen.direction,
        reason=changed.reason,
        rule=changed.rule,
        source=name_end(seen.source) or seen.source.address or "unidentified",
        source_program=seen.source.program,
        destination=name_end(seen.destination) or seen.destination.address or "unidentified",
        destination_program=seen.destination.program,
        port=seen.port,
        service=seen.service,
        path=seen.path,
        connections=changed.count,
        last_seen=seen.last,
    )
