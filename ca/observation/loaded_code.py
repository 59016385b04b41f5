"""What programs that serve have loaded, compared with their approvals before explicit mode does: a part of readiness.

A server may accept in other processes than listen, which may have loaded more (a worker of nginx: libraries for user
names). What no sidecar has seen of such a process isn't known, and nothing is called ready then. Belongs here: the
comparison of what sidecars have told. Doesn't: looking (``sidecar/proving.py``), or what connections were refused for
(``explicit_readiness.py``). I/O through the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from ca.observation.judging import judge
from ca.store.programs_seen.sightings import MAX_ASKED
from ca.store.store import Store
from shared.model.adoption.blockers import Blocker
from shared.model.adoption.fixes import advise
from shared.model.adoption.program_queue import CODE_KEPT_S, Sighting
from shared.model.adoption.seen import Seen
from shared.model.errors import IdentityError
from shared.model.identity.identity import parse_workload
from shared.model.identity.loaded_code import CodeCheck
from shared.model.identity.program import Program, parse_program
from shared.model.policy.decision import Answer
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval, Direction, NamespaceState

_SHOWN_DIGITS: Final = 19  # ``sha256:`` and twelve digits.
_Key = tuple[str, Program]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFinding:
    """What explicit mode will refuse, and what isn't known of what is loaded."""

    blockers: tuple[Blocker, ...] = ()
    unknowns: tuple[str, ...] = ()


def find_serving(seen: Iterable[Seen], namespace: str) -> dict[_Key, Seen]:
    """Return which programs of a namespace's workloads have served connections, each with the newest of them.

    Returns:
        By service account and program, as the workload's own sidecars have seen them.
    """
    serving: dict[_Key, Seen] = {}
    for each in seen:
        end = each.destination
        if each.direction is not Direction.INGRESS or each.namespace != namespace or each.answer is not Answer.ALLOW:
            continue
        try:
            key = parse_workload(end.workload).service_account, parse_program(end.program)
        except IdentityError:
            continue  # It has shown no program.
        if key not in serving or serving[key].last <= each.last:
            serving[key] = each
    return serving


async def compare_loaded(
    store: Store, state: NamespaceState, serving: Mapping[_Key, Seen], *, since: float
) -> CodeFinding:
    """Compare what processes have loaded that accept connections with what is approved, where explicit mode would.

    Arguments:
        state: of the namespace, with the approvals to judge by.
        serving: as ``find_serving`` returns it.
        since: what was told before that, and wasn't told again for an hour, doesn't count.
    """
    approvals = {
        (each.service_account, each.program): each for each in state.approvals if each.code is CodeCheck.ENFORCE
    }
    checked = sorted((key for key in serving if key in approvals), key=lambda each: (each[0], str(each[1])))
    if not checked:
        return CodeFinding()
    policy = await judge(lambda _: compile_namespace(state))
    blockers, unknowns = list[Blocker](), list[str]()
    for begin in range(0, len(checked), MAX_ASKED):
        keys = checked[begin : begin + MAX_ASKED]
        sightings = await store.sightings.list_of(state.namespace, keys)
        part = await judge(partial(_compare, policy, keys, sightings, approvals, serving, since))
        blockers += part.blockers
        unknowns += part.unknowns
    return CodeFinding(blockers=tuple(blockers), unknowns=tuple(unknowns))


def _compare(
    policy: NamespacePolicy,
    keys: Sequence[_Key],
    sightings: Iterable[Sighting],
    approvals: Mapping[_Key, Approval],
    serving: Mapping[_Key, Seen],
    since: float,
    _: Callable[[], None],
) -> CodeFinding:
    told = {(each.service_account, each.program): each for each in sightings}
    blockers, unknowns = list[Blocker](), list[str]()
    for key in keys:
        sighting, seen = told.get(key), serving[key]
        if sighting is None or sighting.code is None or sighting.accepted < since - CODE_KEPT_S:
            unknowns.append(_describe_unseen(seen))
            continue
        told_code = msgspec.structs.replace(sighting.code, omitted=0)
        foreign = policy.find_foreign_code(key[0], told_code, is_jit=approvals[key].jit)
        if foreign is not None:
            blockers.append(_block(seen, sighting, str(foreign)))
        elif sighting.code.omitted:
            unknowns.append(
                f"{seen.destination.workload}: it has loaded more files than are told: not all are compared"
            )
    return CodeFinding(blockers=tuple(blockers), unknowns=tuple(unknowns))


def _describe_unseen(seen: Seen) -> str:
    workload, program = seen.destination.workload, seen.path or seen.destination.program[:_SHOWN_DIGITS]
    return (
        f"{workload}: what processes of {program} have loaded that accept connections wasn't seen, and explicit mode"
        " compares it: connect to it once more, and ask again (sidecars of release 0.1 don't tell it)"
    )


def _block(seen: Seen, sighting: Sighting, foreign: str) -> Blocker:
    return Blocker(
        reason=Reason.CODE_NOT_APPROVED,
        fix=advise(Reason.CODE_NOT_APPROVED, foreign),
        seen=seen,
        count=seen.count,
        first=seen.first,
        last=max(seen.last, sighting.accepted),
        sidecars=seen.sidecars,
        is_next=False,
    )
