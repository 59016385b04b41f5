"""What keeps a namespace from becoming explicit by mistake: the evaluation of ``touchmark ready``, made by the CA.

Belongs here: refusing a switch that would refuse connections that were seen, whoever asks. Doesn't: whether enough
was seen (UNKNOWN is for people to judge, and the command asks them), or the evaluation (``explicit_readiness.py``). I/O
through the store.
"""

from __future__ import annotations

from typing import Final

from ca.observation.explicit_readiness import assess
from ca.store.store import Store
from shared.model.errors import BlockedError, InputError
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.policy.rules import Mode
from shared.model.wire.admin import DEFAULT_READINESS_SINCE_S, Cause, PolicyCandidateRequest

MAX_WINDOW_S: Final = 366 * DEFAULT_READINESS_SINCE_S
_MAX_NAMED: Final = 3


async def require_unblocked(
    store: Store,
    namespace: str,
    *,
    now: float,
    since_s: float | None = None,
    candidate: PolicyCandidateRequest | None = None,
) -> int:
    """Refuse to make a permissive namespace explicit where that would refuse what was seen.

    What this does *not* say: that enough was seen. A namespace that is explicit already isn't looked at.

    Arguments:
        since_s: look at so many seconds; None: ``DEFAULT_READINESS_SINCE_S``.
        candidate: the rules and approvals that come with the mode; None: the current ones.

    Returns:
        The version that was looked at: the switch is to be made from that one.

    Raises:
        BlockedError: it would.
    """
    state = await store.namespaces.get_state(namespace)
    if state.mode is Mode.EXPLICIT:
        return state.version
    window_s = DEFAULT_READINESS_SINCE_S if since_s is None else since_s
    readiness = await assess(store, namespace, since=now - window_s, now=now, candidate=candidate)
    if not readiness.causes:
        return readiness.version
    count = len(readiness.causes)
    named = "; ".join(map(_describe, readiness.causes[:_MAX_NAMED])) + ("; …" if count > _MAX_NAMED else "")
    raise BlockedError(
        f"{namespace} is unchanged: explicit mode would refuse connections that were seen"
        f" ({count} change{'s are' if count != 1 else ' is'} missing): {named}",
        hint=f"`touchmark ready {namespace}` lists what adds them; --force switches anyway",
    )


async def judge_policy(store: Store, document: MeshPolicyDocument, *, now: float) -> None:
    """Refuse a policy that says explicit where that would refuse what was seen; not one whose trial is over.

    Raises:
        BlockedError: it would.
    """
    if document.trial is not None and document.trial.until <= now:
        return
    candidate = PolicyCandidateRequest(
        rules=document.rules, group_label=document.group_label, requires=document.requires
    )
    await require_unblocked(store, document.namespace, now=now, candidate=candidate)


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
