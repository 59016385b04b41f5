"""What keeps a namespace from becoming explicit by mistake: the evaluation of ``touchmark ready``, made by the CA.

Belongs here: refusing a switch that would refuse connections that were seen, whoever asks. Doesn't: whether enough
was seen (UNKNOWN is for people to judge, and the command asks them), or the evaluation (``explicit_readiness.py``). I/O
through the store.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ca.observation.explicit_readiness import assess
from ca.store.store import Store
from shared.model.errors import BlockedError, InputError
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.policy.modes import find_newly_explicit
from shared.model.policy.rules import Mode, NamespaceState, WorkloadMode
from shared.model.wire.admin import DEFAULT_READINESS_SINCE_S, Cause, PolicyCandidateRequest

MAX_WINDOW_S: Final = 366 * DEFAULT_READINESS_SINCE_S
_MAX_NAMED: Final = 3


async def require_unblocked(
    store: Store,
    namespace: str,
    *,
    now: float,
    mode: Mode | None = Mode.EXPLICIT,
    workload_modes: tuple[WorkloadMode, ...] | None = None,
    since_s: float | None = None,
    candidate: PolicyCandidateRequest | None = None,
    options: str = "",
) -> int:
    """Refuse to make permissive workloads explicit where that would refuse what was seen.

    What this does *not* say: that enough was seen. Workloads that are explicit already aren't looked at.

    Arguments:
        mode: the namespace's that is wanted; None: it stays.
        workload_modes: the workloads' own that are wanted; None: they stay.
        since_s: look at so many seconds; None: ``DEFAULT_READINESS_SINCE_S``.
        candidate: the rules and approvals that come with the mode; None: the current ones.
        options: what a command needs to reach this CA; empty: nothing.

    Returns:
        The version that was looked at, or an earlier one: the switch is to be made from that one.

    Raises:
        BlockedError: it would.
    """
    state = await store.namespaces.get_state(namespace)
    wanted = state.workload_modes if workload_modes is None else workload_modes
    becoming = find_newly_explicit(state, state.mode if mode is None else mode, wanted)
    if not becoming:
        return state.version
    window_s = DEFAULT_READINESS_SINCE_S if since_s is None else since_s
    candidate = _with_modes(candidate, state, wanted)
    causes: list[Cause] = []
    asked = ""
    for name in becoming:
        workload = f"{namespace}/{name}" if name else ""
        found = await assess(store, namespace, since=now - window_s, now=now, workload=workload, candidate=candidate)
        if found.causes and not causes:
            asked = (f" --workload {name}" if name else "") + (f" {options}" if options else "")
        causes += [each for each in found.causes if each not in causes]
    if not causes:
        return state.version
    count = len(causes)
    named = "; ".join(map(_describe, causes[:_MAX_NAMED])) + ("; …" if count > _MAX_NAMED else "")
    raise BlockedError(
        f"{namespace} is unchanged: explicit mode would refuse connections that were seen"
        f" ({count} change{'s are' if count != 1 else ' is'} missing): {named}",
        hint=f"`touchmark ready {namespace}{asked}` lists what adds them; --force switches anyway",
    )


def _with_modes(
    candidate: PolicyCandidateRequest | None, state: NamespaceState, modes: tuple[WorkloadMode, ...]
) -> PolicyCandidateRequest | None:
    """Have the wanted modes judged, which say whose mode the namespace's is."""
    if candidate is not None:
        return msgspec.structs.replace(candidate, workload_modes=modes)
    if modes == state.workload_modes:
        return None
    return PolicyCandidateRequest(
        rules=state.rules, group_label=state.group_label, requires=state.requires, workload_modes=modes
    )


async def judge_policy(store: Store, document: MeshPolicyDocument, *, now: float) -> None:
    """Refuse a policy that makes workloads explicit where that would refuse what was seen.

    Where the trial of its mode is over, what it goes back to is judged. Policies are objects only in a cluster.

    Raises:
        BlockedError: it would.
    """
    mode = document.mode
    if document.trial is not None and document.trial.until <= now:
        mode = document.trial.back_to
    candidate = PolicyCandidateRequest(
        rules=document.rules, group_label=document.group_label, requires=document.requires
    )
    await require_unblocked(
        store,
        document.namespace,
        now=now,
        mode=mode,
        workload_modes=document.workload_modes,
        candidate=candidate,
        options="-k",
    )


def check_window(since_s: float | None) -> float | None:
    """Return how far back is to be looked.

    Raises:
        InputError: not that far.
    """
    if since_s is not None and not 0 < since_s <= MAX_WINDOW_S:
        raise InputError(f"since_s is more than 0 and at most {MAX_WINDOW_S:.0f}")
    return since_s


def _describe(cause: Cause) -> str:
    source, destination = cause.source_workload or "?", cause.destination_workload or "?"
    return f"{source} → {destination}:{cause.port} ({cause.reason}, {cause.connections} times)"
