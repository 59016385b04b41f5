"""The switch of a namespace's mode: what stands against it, who must say yes, waiting until it is in force.

Belongs here: the steps of ``touchmark mode NAMESPACE permissive|explicit``. Doesn't: the verb and its options
(``mode.py``), or how a readiness is printed (``ready.py``).
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from shared.model.errors import BlockedError, NotFoundError, RefusedError, TouchmarkError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cli.backends.base import ModeState, PolicyBackend, SwitchTerms
    from shared.model.policy.rules import Mode, WorkloadMode
    from shared.model.wire.admin import Readiness, ReadinessVerdict

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What the user has said yes to beforehand.

    Attributes:
        to_unknown: switch although too little was seen to say that it is safe.
        to_blocked: switch although it would refuse connections that were seen.
        can_ask: whether the user can be asked.
    """

    to_unknown: bool
    to_blocked: bool
    can_ask: bool


def make_terms(
    consent: Consent, since_s: float, *, for_s: float | None = None, readiness: Readiness | None = None
) -> SwitchTerms:
    """Return what the CA is told of a switch.

    Arguments:
        readiness: what was looked at: what was READY is what is switched. None: whatever is there.
    """
    from cli.backends.base import SwitchTerms
    from shared.model.wire.admin import DEFAULT_READINESS_SINCE_S

    return SwitchTerms(
        for_s=for_s,
        expected_version=None if readiness is None or consent.to_blocked else readiness.version,
        is_forced=consent.to_blocked,
        since_s=None if since_s == DEFAULT_READINESS_SINCE_S else since_s,
    )


async def look_ahead(
    backend: PolicyBackend, namespace: str, since_s: float, *, is_needed: bool, workload: str = ""
) -> Readiness | None:
    """Ask what explicit mode would refuse; where it isn't needed, its absence is reported."""
    from cli.text.output import print_note

    try:
        return await backend.get_readiness(namespace, since_s=since_s, workload=workload)
    except (UnavailableError, RefusedError) as error:
        if is_needed:
            raise
        print_note(f"can't tell what explicit mode would refuse: {error.message}")
        return None


def judge(readiness: Readiness) -> ReadinessVerdict:
    """Return a readiness's verdict, also where a CA of 0.1 has given none."""
    from shared.model.wire.admin import ReadinessVerdict

    if readiness.verdict is not None:
        return readiness.verdict
    if readiness.causes:
        return ReadinessVerdict.BLOCKED
    return ReadinessVerdict.READY if readiness.is_safe else ReadinessVerdict.UNKNOWN


def require_consent(readiness: Readiness, consent: Consent, *, target_options: str) -> None:
    """Refuse a switch to explicit mode that is blocked, and ask where it isn't known to be safe.

    Arguments:
        target_options: what a command needs to reach the same CA.

    Raises:
        BlockedError: it would refuse connections that were seen.
        RefusedError: too little was seen, and the answer is no or nobody can be asked.
    """
    from cli.backends.target import add_options
    from shared.model.wire.admin import ReadinessVerdict

    subject, verdict = readiness.workload or readiness.namespace, judge(readiness)
    command = f"touchmark ready {readiness.namespace}"
    if readiness.workload:
        command += f" --workload {readiness.workload.partition('/')[2]}"
    command = add_options(command, target_options)
    if verdict is ReadinessVerdict.BLOCKED and not consent.to_blocked:
        count = len(readiness.causes)
        raise BlockedError(
            f"{subject} is unchanged: explicit mode would refuse connections that were seen"
            f" ({count} change{'s are' if count != 1 else ' is'} missing)",
            hint=f"`{command}` lists what adds them; --force switches anyway",
        )
    if verdict is not ReadinessVerdict.UNKNOWN or consent.to_unknown or consent.to_blocked:
        return
    if not consent.can_ask or not sys.stdin.isatty():
        raise RefusedError(
            f"{subject} is unchanged: too little was seen to say that explicit mode is safe",
            hint=f"`{command}` says what is missing; --yes switches anyway",
        )
    if not typer.confirm(f"Too little was seen to be sure. Switch {subject} to explicit?", err=True):
        raise RefusedError(f"{subject} is unchanged")


async def require_known(backend: PolicyBackend, namespace: str, workloads: Sequence[str], *, is_forced: bool) -> None:
    """Refuse a mode for a workload that nobody knows, which would be in force for nothing.

    Raises:
        NotFoundError: there is no such workload.
    """
    from difflib import get_close_matches

    from cli.text.output import print_note

    if is_forced or not workloads:
        return
    known = await backend.list_workloads(namespace)
    if known is None:
        print_note(f"can't tell whether {namespace} has these workloads: {', '.join(workloads)}")
        return
    for name in workloads:
        if name not in known:
            close = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
            raise NotFoundError(
                f"there is no workload {namespace}/{name}: its mode would be in force for nothing",
                hint=(f"did you mean {' or '.join(close)}? " if close else "") + "--force sets its mode all the same",
            )


async def require_known_namespace(backend: PolicyBackend, namespace: str, *, is_switch: bool = False) -> None:
    """Refuse to judge a namespace that nobody knows: where nothing was seen, nothing stands against a switch.

    Known is what has a sidecar, a policy, or an approved program; in a cluster, what is there.

    Arguments:
        is_switch: its mode is to be set, which would be in force for nothing.

    Raises:
        NotFoundError: there is no such namespace.
    """
    from cli.commands.unknown_namespace import suggest_namespace
    from cli.text.output import print_note

    try:
        state = await backend.get_mode(namespace)
    except TouchmarkError:
        if is_switch:  # The switch itself says what can't be reached.
            return
        raise
    if state.version or state.total or state.wanted is not None:
        return
    known = (await backend.look_around()).namespaces
    if known is None:
        print_note(f"can't tell whether there is a namespace {namespace}: no sidecar runs in it, and no policy is set")
    elif namespace not in known:
        if is_switch:
            said, way_on = "its mode would be in force for nothing", "; --force sets its mode all the same"
        else:
            said, way_on = "nothing was seen of it, so that nothing can be said of a switch", ""
        hint = suggest_namespace(namespace, known) + way_on
        raise NotFoundError(f"there is no namespace {namespace}: {said}", hint=hint)


def list_newly_explicit(
    state: ModeState, mode: Mode | None, workload_modes: Sequence[WorkloadMode] | None
) -> tuple[str, ...]:
    """Return whose readiness a change of modes has to be judged by: service accounts; an empty one for all others.

    Arguments:
        mode, workload_modes: what is wanted; None: it stays.
    """
    from shared.model.policy.modes import find_newly_explicit
    from shared.model.policy.rules import Mode, NamespaceState

    present = state.mode or Mode.PERMISSIVE
    known = NamespaceState(namespace=state.namespace, mode=present, workload_modes=state.workload_modes)
    wanted = state.workload_modes if workload_modes is None else workload_modes
    return find_newly_explicit(known, mode or present, wanted)


async def wait_for_sidecars(backend: PolicyBackend, namespace: str, timeout_s: float, *, quiet: bool) -> ModeState:
    """Wait until the mode is in force in every sidecar, or the time is up.

    Raises:
        RefusedError: the CA refuses what is written.
    """
    from cli.text.output import print_note

    deadline = asyncio.get_running_loop().time() + timeout_s
    said = -1
    while True:
        state = await backend.get_mode(namespace)
        if state.fault:
            raise RefusedError(
                f"the mode is set, but the CA refuses {namespace}'s MeshPolicy: {state.fault}",
                hint="the previous policy stays in force; fix the MeshPolicy first",
            )
        if not quiet and state.is_observed and not state.is_complete and state.installed != said:
            said = state.installed
            names = ", ".join(state.waiting[:3]) + (" …" if state.total - said > 3 else "")
            print_note(f"  in force in {said} of {state.total} sidecars; waiting for {names}")
        if state.is_complete or asyncio.get_running_loop().time() >= deadline:
            return state
        await asyncio.sleep(_POLL_S)


def _describe_workloads(state: ModeState, workloads: Sequence[str]) -> Iterator[str]:
    own = {each.service_account: each.mode for each in state.workload_modes}
    for name in workloads:
        said = f"is {own[name]}, a mode of its own" if name in own else f"inherits {state.mode or 'the mode'}"
        yield f"{state.namespace}/{name} {said}"


def describe_trial(state: ModeState, *, target_options: str) -> None:
    """Print when the mode goes back by itself; nothing where it stays."""
    from cli.backends.target import add_options
    from cli.text.duration import format_time
    from cli.text.output import print_line
    from shared.model.policy.modes import name_modes

    confirm = add_options(f"touchmark mode {state.namespace} confirm", target_options)
    if state.workload_modes_back_to is not None:
        print_line(
            f"the CA takes workloads' modes back at {format_time(state.until)}, to"
            f" {name_modes(state.workload_modes_back_to) or 'none of their own'}, unless `{confirm}`"
        )
    if state.back_to is not None:
        print_line(f"the CA goes back to {state.back_to} at {format_time(state.until)}, unless `{confirm}`")


def describe_workload_modes(state: ModeState) -> None:
    """Print which workloads have a mode of their own."""
    from cli.text.output import print_line
    from shared.model.policy.modes import name_modes

    if state.workload_modes:
        print_line(f"workloads with a mode of their own: {name_modes(state.workload_modes)}")


def describe_switch(
    state: ModeState, wanted: Mode | None, timeout_s: float, *, workloads: Sequence[str] = (), target_options: str
) -> None:
    """Print how far a switch has come.

    Arguments:
        workloads: service accounts that were switched; none: the namespace was.
    """
    from cli.text.output import print_line, print_note

    namespace = state.namespace
    if workloads:
        for line in _describe_workloads(state, workloads):
            print_line(line)
    if state.is_complete:
        print_line(f"{namespace} is {state.mode}: version {state.version} is in force in all {state.total} sidecars")
    elif not state.is_observed:
        print_line(
            f"{wanted or state.wanted} is set for {namespace}, but the CA hasn't processed it within {timeout_s:.0f} s"
        )
        print_note("  hint: is a CA running? check with `touchmark doctor -k`")
    else:
        print_line(f"{namespace} is {state.mode} in the CA (version {state.version}), but not in every sidecar:")
        for laggard in state.waiting:
            print_note(f"  ✗ {laggard} hasn't confirmed within {timeout_s:.0f} s")
        if (unnamed := state.total - state.installed - len(state.waiting)) > 0:
            print_note(f"  ✗ and {unnamed} more")
    describe_trial(state, target_options=target_options)
