"""Whose mode counts: a workload's own, else its namespace's. Pure.

Whatever decides or shows what a mode does asks here: sidecars, the CA's issuance, ``explain``, replay and ``ready``.
Belongs here: reading a state's modes, and states with other modes. Doesn't: what a mode allows (``evaluate.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from shared.model.identity.identity import Workload
from shared.model.policy.rules import Mode, NamespaceState, WorkloadMode


def effective_mode(state: NamespaceState, workload: Workload | None) -> Mode:
    """Return the mode that counts for a workload of this namespace.

    Arguments:
        workload: None, or one of another namespace: it isn't known which; the strictest mode in the namespace counts.
    """
    modes = state.workload_modes
    if not modes:
        return state.mode
    if workload is None or workload.namespace != state.namespace:
        return strictest_mode(state)
    for each in modes:
        if each.service_account == workload.service_account:
            return each.mode
    return state.mode


def strictest_mode(state: NamespaceState) -> Mode:
    """Return explicit where the namespace or any of its workloads is."""
    is_explicit = state.mode is Mode.EXPLICIT or any(each.mode is Mode.EXPLICIT for each in state.workload_modes)
    return Mode.EXPLICIT if is_explicit else Mode.PERMISSIVE


def as_explicit(state: NamespaceState) -> NamespaceState:
    """Return the state as if every workload of it were explicit."""
    return msgspec.structs.replace(state, mode=Mode.EXPLICIT, workload_modes=())


def make_modes(modes: Mapping[str, Mode]) -> tuple[WorkloadMode, ...]:
    """Return modes by service account as a state holds them.

    Raises:
        IdentityError: a name isn't one of a service account.
    """
    return tuple(WorkloadMode(service_account=name, mode=modes[name]) for name in sorted(modes))


def read_modes(modes: Iterable[WorkloadMode]) -> dict[str, Mode]:
    """Return the modes of a state by service account."""
    return {each.service_account: each.mode for each in modes}


def change_modes(
    modes: Iterable[WorkloadMode], service_accounts: Iterable[str], mode: Mode | None
) -> tuple[WorkloadMode, ...]:
    """Return the modes with those of some workloads changed; ``mode`` None: they inherit their namespace's."""
    changed = read_modes(modes)
    for name in service_accounts:
        if mode is None:
            changed.pop(name, None)
        else:
            changed[name] = mode
    return make_modes(changed)


def name_modes(modes: Iterable[WorkloadMode]) -> str:
    """Return modes for people, such as ``db explicit, web permissive``; empty where there are none."""
    return ", ".join(f"{each.service_account} {each.mode}" for each in modes)


def find_newly_explicit(state: NamespaceState, mode: Mode, workload_modes: Iterable[WorkloadMode]) -> tuple[str, ...]:
    """Return whose readiness a change of modes has to be judged by.

    Arguments:
        mode, workload_modes: what is wanted in the place of the state's.

    Returns:
        Service accounts that become explicit; an empty one for all workloads without a mode of their own.
    """
    wanted = msgspec.structs.replace(state, mode=mode, workload_modes=tuple(workload_modes))
    named = sorted({*read_modes(state.workload_modes), *read_modes(wanted.workload_modes)})
    found = [""] if mode is Mode.EXPLICIT is not state.mode else []
    covered = set(named) - set(read_modes(wanted.workload_modes)) if found else set()
    for name in named:
        workload = Workload(namespace=state.namespace, service_account=name)
        becomes = effective_mode(wanted, workload) is Mode.EXPLICIT is not effective_mode(state, workload)
        if becomes and name not in covered:
            found.append(name)
    return tuple(found)
