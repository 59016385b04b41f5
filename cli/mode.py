"""``touchmark mode``: show a namespace's mode, say what ``explicit`` would refuse, switch."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.where import Where, takes_where
from shared.model.errors import InputError, RefusedError
from shared.model.policy import Mode

if TYPE_CHECKING:
    from cli.admin_client import AdminClient
    from shared.model.admin import Acknowledgements, Readiness

_POLL_S = 0.1


@takes_where
def mode(
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
    as_json: options.Json = False,
    *,
    where: Where,
) -> None:
    """Show or switch how a namespace treats what no rule allows: let it flow, marked; or refuse it.

    Before it switches to explicit it shows what that would refuse, by the rules of now, of what was seen: by cause,
    and how many sidecars reported.
    Exit code 3: --check found something; 7: you said no (or nobody could be asked); 9: switched, but not every sidecar
    has confirmed.
    """
    from cli.conversation import talk
    from cli.duration import parse_duration
    from shared.model.identity import check_namespace

    check_namespace(namespace)
    since_s = parse_duration(since)
    if check and target is Mode.PERMISSIVE:
        raise InputError("--check asks about explicit; permissive refuses only by deny rules")

    async def converse(client: AdminClient) -> int:
        if target is None and not check:
            return await _show(client, namespace, as_json=as_json)
        readiness = None
        if target is not Mode.PERMISSIVE:
            readiness = await client.get_readiness(namespace, since_s=since_s)
            if not as_json:
                show_readiness(readiness, since)
        if check:
            return _conclude_check(readiness, as_json=as_json)
        if readiness is not None and not readiness.is_safe and not yes:
            _ask(namespace, as_json=as_json)
        return await _switch(client, namespace, target or Mode.EXPLICIT, readiness, timeout_s, as_json=as_json)

    code = talk(where, converse)
    if code:
        raise typer.Exit(code)


def show_readiness(readiness: Readiness, since: str) -> None:
    """Print what explicit would have refused, grouped by cause, and who reported."""
    from cli.output import print_line, print_table, shorten
    from shared.model.reasons import EXPLANATIONS

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


async def _show(client: AdminClient, namespace: str, *, as_json: bool) -> int:
    from cli.output import print_json, print_line, print_note

    state = await client.get_namespace(namespace)
    acknowledgements = await client.get_acknowledgements(namespace)
    if as_json:
        print_json(
            {
                "namespace": namespace,
                "mode": state.mode,
                "version": state.version,
                "installed": acknowledgements.installed,
                "total": acknowledgements.total,
                "waiting": acknowledgements.waiting,
            }
        )
    else:
        print_line(
            f"{namespace} is {state.mode} (version {state.version}, in force in {acknowledgements.installed} of"
            f" {acknowledgements.total} sidecars)"
        )
        if not state.version and not acknowledgements.total:
            print_note("nothing is known of this namespace: no sidecar lives there and nothing was applied")
    return 0


def _conclude_check(readiness: Readiness | None, *, as_json: bool) -> int:
    from cli.exit_codes import ExitCode
    from cli.output import print_json

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
    client: AdminClient, namespace: str, target: Mode, readiness: Readiness | None, timeout_s: float, *, as_json: bool
) -> int:
    from cli.exit_codes import ExitCode
    from cli.output import print_json, print_line, print_note
    from shared.model.admin import ModeRequest

    state = await client.set_mode(namespace, ModeRequest(mode=target))
    acknowledgements = await _wait_for_everybody(client, namespace, timeout_s, quiet=as_json)
    is_complete = not acknowledgements.waiting
    if as_json:
        print_json(
            {
                "namespace": namespace,
                "mode": state.mode,
                "version": state.version,
                "installed": acknowledgements.installed,
                "total": acknowledgements.total,
                "waiting": acknowledgements.waiting,
                "readiness": readiness,
            }
        )
    elif is_complete:
        print_line(
            f"{namespace} is {state.mode}: version {state.version} is in force in all {acknowledgements.total} sidecars"
        )
    else:
        print_line(f"{namespace} is {state.mode} in the CA (version {state.version}), but not everywhere:")
        for laggard in acknowledgements.waiting:
            print_note(f"  ✗ {laggard} hasn't confirmed within {timeout_s:.0f} s")
    return ExitCode.SUCCESS if is_complete else ExitCode.DEADLINE


async def _wait_for_everybody(
    client: AdminClient, namespace: str, timeout_s: float, *, quiet: bool
) -> Acknowledgements:
    from cli.output import print_note

    deadline = asyncio.get_running_loop().time() + timeout_s
    said = -1
    while True:
        acknowledgements = await client.get_acknowledgements(namespace)
        if not quiet and acknowledgements.waiting and acknowledgements.installed != said:
            said = acknowledgements.installed
            print_note(f"  in force in {said} of {acknowledgements.total} sidecars")
        if not acknowledgements.waiting or asyncio.get_running_loop().time() >= deadline:
            return acknowledgements
        await asyncio.sleep(_POLL_S)
