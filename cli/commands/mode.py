"""``touchmark mode``: show a namespace's mode, say what ``explicit`` would refuse, switch."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.errors import InputError, RefusedError, UnavailableError
from shared.model.policy.rules import Mode

if TYPE_CHECKING:
    from cli.backends.base import ModeState, PolicyBackend
    from cli.commands.shapes import ModeSwitch, ModeView
    from shared.model.wire.admin import Readiness

_POLL_S = 0.2
_MODE: JsonResult[ModeView] = JsonResult(
    note="`mode` is in force in the CA (null: not reported yet), `wanted` is set (null: none)"
)
_SWITCHED: JsonResult[ModeSwitch] = JsonResult(when="a switch")
_READINESS: JsonResult[Readiness | None] = JsonResult(when="--check")


@prints(_MODE, _SWITCHED, _READINESS)
def mode(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    target: Annotated[
        Mode | None, typer.Argument(help="The mode to switch to; without it, show the current one.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only show which recorded connections explicit mode would refuse; exit code 3 if any."
        ),
    ] = False,
    since: options.Since = "24h",
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", "--force", help="Switch without asking, also where it would refuse live traffic."),
    ] = False,
    timeout_s: options.TimeoutS = 30.0,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Show or switch a namespace's mode. Permissive allows and marks what no rule allows; explicit refuses it.

    Before a switch to explicit, it shows which recorded connections the current rules would refuse, grouped by cause,
    and how many sidecars have reported.
    Exit code 3: --check found something; 7: you answered no (or there was no terminal to ask on); 9: switched, but not
    every sidecar has confirmed.

    In Kubernetes it writes only the field spec.mode of the namespace's MeshPolicy, and creates one if there is none.
    """
    from cli.backends.session import work_on_policies
    from cli.commands.ready import show_readiness
    from cli.text.duration import parse_duration
    from shared.model.identity.identity import check_namespace

    check_namespace(namespace)
    since_s = parse_duration(since)
    if check and target is Mode.PERMISSIVE:
        raise InputError("--check applies to explicit mode: permissive mode refuses only what a deny rule matches")

    async def converse(backend: PolicyBackend) -> int:
        if target is None and not check:
            return _show(await backend.get_mode(namespace), as_json=as_json)
        readiness = None
        if target is not Mode.PERMISSIVE:
            readiness = await _look_ahead(backend, namespace, since_s, is_needed=check or not yes)
            if readiness is not None and not as_json:
                show_readiness(readiness, since, in_cluster=options.get_target(context).in_cluster)
        if check:
            return _conclude_check(readiness, as_json=as_json)
        if readiness is not None and not readiness.is_safe and not yes:
            _ask(namespace, as_json=as_json)
        return await _switch(backend, namespace, target or Mode.EXPLICIT, readiness, timeout_s, as_json=as_json)

    code = work_on_policies(options.get_target(context), converse, is_forced=force_conflicts)
    if code:
        raise typer.Exit(code)


async def _look_ahead(backend: PolicyBackend, namespace: str, since_s: float, *, is_needed: bool) -> Readiness | None:
    """Ask what explicit mode would refuse. With --yes the CA's answer is optional, and its absence is reported."""
    from cli.text.output import print_note

    try:
        return await backend.get_readiness(namespace, since_s=since_s)
    except (UnavailableError, RefusedError) as error:
        if is_needed:
            raise
        print_note(f"can't tell what explicit mode would refuse: {error.message}")
        return None


def _show(state: ModeState, *, as_json: bool) -> int:
    from cli.commands.shapes import ModeView
    from cli.text.output import print_line, print_note

    if as_json:
        _MODE.print(ModeView(**_describe(state)))
        return 0
    if state.mode is None:
        print_line(f"{state.namespace}: {state.wanted or 'no mode'} is set; the CA hasn't reported the mode in force")
    else:
        print_line(
            f"{state.namespace} is {state.mode} (version {state.version}, in force in {state.installed} of"
            f" {state.total} sidecars)"
        )
        if state.wanted not in (None, state.mode):
            print_line(f"set is {state.wanted}")
    if state.fault:
        print_line(f"✗ the CA refuses the MeshPolicy: {state.fault}")
    elif not state.is_observed:
        print_line("✗ the CA hasn't processed the MeshPolicy yet")
    for laggard in state.waiting:
        print_line(f"  ✗ {laggard} hasn't confirmed")
    if not state.version and not state.total and state.wanted is None:
        print_note("unknown namespace: no sidecar runs in it and nothing was applied to it")
    return 0


def _describe(state: ModeState) -> dict[str, Any]:
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

    if as_json:
        _READINESS.print(readiness)
    return ExitCode.SUCCESS if readiness is not None and readiness.is_safe else ExitCode.CHECK_FAILED


def _ask(namespace: str, *, as_json: bool) -> None:
    """Ask for confirmation.

    Raises:
        RefusedError: the answer is no, or this isn't a terminal.
    """
    if as_json or not sys.stdin.isatty():
        raise RefusedError(
            f"{namespace} is unchanged: explicit mode would refuse live traffic, or not every sidecar has reported",
            hint=f"see `touchmark mode {namespace} --check`; use --yes to switch anyway",
        )
    if not typer.confirm(f"Switch {namespace} to explicit anyway?", err=True):
        raise RefusedError(f"{namespace} is unchanged")


async def _switch(
    backend: PolicyBackend,
    namespace: str,
    target: Mode,
    readiness: Readiness | None,
    timeout_s: float,
    *,
    as_json: bool,
) -> int:
    from cli.commands.shapes import ModeSwitch
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note

    await backend.set_mode(namespace, target)
    state = await _wait_for_sidecars(backend, namespace, timeout_s, quiet=as_json)
    if as_json:
        _SWITCHED.print(ModeSwitch(**_describe(state), readiness=readiness))
    elif state.is_complete:
        print_line(f"{namespace} is {state.mode}: version {state.version} is in force in all {state.total} sidecars")
    elif not state.is_observed:
        print_line(f"{target} is set for {namespace}, but the CA hasn't processed it within {timeout_s:.0f} s")
        print_note("  hint: is a CA running? check with `touchmark doctor -k`")
    else:
        print_line(f"{namespace} is {state.mode} in the CA (version {state.version}), but not in every sidecar:")
        for laggard in state.waiting:
            print_note(f"  ✗ {laggard} hasn't confirmed within {timeout_s:.0f} s")
        if (unnamed := state.total - state.installed - len(state.waiting)) > 0:
            print_note(f"  ✗ and {unnamed} more")
    return ExitCode.SUCCESS if state.is_complete else ExitCode.DEADLINE


async def _wait_for_sidecars(backend: PolicyBackend, namespace: str, timeout_s: float, *, quiet: bool) -> ModeState:
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
