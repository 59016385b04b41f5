"""``touchmark mode``: show a namespace's mode, say what ``explicit`` would refuse, switch."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from shared.model.errors import InputError, RefusedError, UnavailableError
from shared.model.policy.rules import Mode

if TYPE_CHECKING:
    from cli.backends.base import ModeState, PolicyBackend
    from shared.model.wire.admin import Readiness

_POLL_S = 0.2


def mode(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    target: Annotated[
        Mode | None, typer.Argument(help="Switch to this mode; without it, show the present one.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only show what explicit would refuse of what was seen; exit code 3 if anything."),
    ] = False,
    since: options.Since = "24h",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Switch without asking.")] = False,
    timeout_s: options.TimeoutS = 30.0,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Show or switch how a namespace treats what no rule allows: let it flow, marked; or refuse it.

    Before it switches to explicit it shows what that would refuse, by the rules of now, of what was seen: by cause,
    and how many sidecars reported.
    Exit code 3: --check found something; 7: you said no (or nobody could be asked); 9: switched, but not every sidecar
    has confirmed.

    In Kubernetes it writes the field spec.mode of the namespace's MeshPolicy alone, and makes one where there is none.
    """
    from cli.backends.session import work_on_policies
    from cli.text.duration import parse_duration
    from shared.model.identity.identity import check_namespace

    check_namespace(namespace)
    since_s = parse_duration(since)
    if check and target is Mode.PERMISSIVE:
        raise InputError("--check asks about explicit; permissive refuses only by deny rules")

    async def converse(backend: PolicyBackend) -> int:
        if target is None and not check:
            return _show(await backend.get_mode(namespace), as_json=as_json)
        readiness = None
        if target is not Mode.PERMISSIVE:
            readiness = await _look_ahead(backend, namespace, since_s, is_needed=check or not yes)
            if readiness is not None and not as_json:
                show_readiness(readiness, since)
        if check:
            return _conclude_check(readiness, as_json=as_json)
        if readiness is not None and not readiness.is_safe and not yes:
            _ask(namespace, as_json=as_json)
        return await _switch(backend, namespace, target or Mode.EXPLICIT, readiness, timeout_s, as_json=as_json)

    code = work_on_policies(options.get_target(context), converse, is_forced=force_conflicts)
    if code:
        raise typer.Exit(code)


def show_readiness(readiness: Readiness, since: str) -> None:
    """Print what explicit would have refused, grouped by cause, and who reported."""
    from cli.text.output import print_line, print_table, shorten
    from shared.model.policy.reasons import EXPLANATIONS

    total = sum(cause.connections for cause in readiness.causes)
    print_line(
        f"{readiness.sidecars_reported} of {readiness.sidecars_total} sidecars of {readiness.namespace} reported"
        f" in the last {since}" + (f"; silent: {', '.join(readiness.silent)}" if readiness.silent else "")
    )
    if not readiness.sidecars_total:
        print_line("no sidecar lives there: this says nothing about connections")
    if readiness.settled:
        print_line(f"settled: {readiness.settled} marked or refused then would be allowed by the rules of now")
    if readiness.is_truncated:
        print_line("✗ there is more than could be looked at; ask about a shorter time with --since")
    if not total:
        print_line("✓ explicit mode would refuse nothing of what was seen")
        return
    print_line(f"✗ explicit mode would refuse {total} connection{'s' if total > 1 else ''} of what was seen:")
    print_table(
        ("CONNECTIONS", "REASON", "SOURCE", "PROGRAM", "DESTINATION", "PROGRAM", "PORT"),
        (
            (
                str(cause.connections),
                cause.reason,
                cause.source_workload or "unidentified",
                shorten(cause.source_program),
                cause.destination_workload or "unidentified",
                shorten(cause.destination_program),
                str(cause.port),
            )
            for cause in readiness.causes
        ),
        empty="nothing",
    )
    for reason in dict.fromkeys(cause.reason for cause in readiness.causes):
        print_line(f"  {reason}: {EXPLANATIONS[reason].fix}")


async def _look_ahead(backend: PolicyBackend, namespace: str, since_s: float, *, is_needed: bool) -> Readiness | None:
    """Ask what explicit would refuse. Whoever says --yes may switch without the CA's answer, and is told so."""
    from cli.text.output import print_note

    try:
        return await backend.get_readiness(namespace, since_s=since_s)
    except (UnavailableError, RefusedError) as error:
        if is_needed:
            raise
        print_note(f"what explicit would refuse isn't known: {error.message}")
        return None


def _show(state: ModeState, *, as_json: bool) -> int:
    from cli.text.output import print_json, print_line, print_note

    if as_json:
        print_json(_describe(state))
        return 0
    if state.mode is None:
        print_line(f"{state.namespace}: {state.wanted or 'no mode'} is written; the CA hasn't said what is in force")
    else:
        print_line(
            f"{state.namespace} is {state.mode} (version {state.version}, in force in {state.installed} of"
            f" {state.total} sidecars)"
        )
        if state.wanted not in (None, state.mode):
            print_line(f"written is {state.wanted}")
    if state.fault:
        print_line(f"✗ the CA refuses what is written: {state.fault}")
    elif not state.is_observed:
        print_line("✗ the CA hasn't seen yet what is written")
    for laggard in state.waiting:
        print_line(f"  ✗ {laggard} hasn't confirmed")
    if not state.version and not state.total and state.wanted is None:
        print_note("nothing is known of this namespace: no sidecar lives there and nothing was applied")
    return 0


def _describe(state: ModeState) -> dict[str, object]:
    return {
        "namespace": state.namespace,
        "mode": state.mode,
        "version": state.version,
        "installed": state.installed,
        "total": state.total,
        "waiting": state.waiting,
        "wanted": state.wanted,
        "is_observed": state.is_observed,
        "fault": state.fault,
    }


def _conclude_check(readiness: Readiness | None, *, as_json: bool) -> int:
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_json

    if as_json:
        print_json(readiness)
    return ExitCode.SUCCESS if readiness is not None and readiness.is_safe else ExitCode.CHECK_FAILED


def _ask(namespace: str, *, as_json: bool) -> None:
    """Ask whether to go on.

    Raises:
        RefusedError: the answer is no, or there is nobody to ask.
    """
    if as_json or not sys.stdin.isatty():
        raise RefusedError(
            f"{namespace} stays as it is: explicit would refuse what flows now, or not every sidecar reported",
            hint=f"see `touchmark mode {namespace} --check`; --yes switches all the same",
        )
    if not typer.confirm(f"Switch {namespace} to explicit all the same?", err=True):
        raise RefusedError(f"{namespace} stays as it is")


async def _switch(
    backend: PolicyBackend,
    namespace: str,
    target: Mode,
    readiness: Readiness | None,
    timeout_s: float,
    *,
    as_json: bool,
) -> int:
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_json, print_line, print_note

    await backend.set_mode(namespace, target)
    state = await _wait_for_everybody(backend, namespace, timeout_s, quiet=as_json)
    if as_json:
        print_json({**_describe(state), "readiness": readiness})
    elif state.is_complete:
        print_line(f"{namespace} is {state.mode}: version {state.version} is in force in all {state.total} sidecars")
    elif not state.is_observed:
        print_line(f"{target} is written for {namespace}, but the CA hasn't seen it within {timeout_s:.0f} s")
        print_note("  hint: is a CA running? `touchmark doctor -k` looks")
    else:
        print_line(f"{namespace} is {state.mode} in the CA (version {state.version}), but not everywhere:")
        for laggard in state.waiting:
            print_note(f"  ✗ {laggard} hasn't confirmed within {timeout_s:.0f} s")
        if (unnamed := state.total - state.installed - len(state.waiting)) > 0:
            print_note(f"  ✗ and {unnamed} more")
    return ExitCode.SUCCESS if state.is_complete else ExitCode.DEADLINE


async def _wait_for_everybody(backend: PolicyBackend, namespace: str, timeout_s: float, *, quiet: bool) -> ModeState:
    """Wait until what is written is in force everywhere, or the time is over.

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
                f"the mode is written, but the CA refuses {namespace}'s MeshPolicy: {state.fault}",
                hint="what was in force before still is; mend the policy first",
            )
        if not quiet and state.is_observed and not state.is_complete and state.installed != said:
            said = state.installed
            names = ", ".join(state.waiting[:3]) + (" …" if state.total - said > 3 else "")
            print_note(f"  in force in {said} of {state.total} sidecars; waiting for {names}")
        if state.is_complete or asyncio.get_running_loop().time() >= deadline:
            return state
        await asyncio.sleep(_POLL_S)
