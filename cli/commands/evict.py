"""``touchmark ca evict``: lock out a sidecar, or all of a workload, at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.errors import RefusedError

if TYPE_CHECKING:
    from shared.model.wire.admin import Evicted

_EVICTED: JsonResult[Evicted] = JsonResult()


@prints(_EVICTED)
def evict(
    context: typer.Context,
    whom: Annotated[str, typer.Argument(help="A sidecar as `touchmark ca status` shows it, or NAMESPACE/ACCOUNT.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    dismiss: Annotated[
        bool, typer.Option("--dismiss", help="Evict nobody: an eviction that a restore has undone stays undone.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Lock out a sidecar, or all sidecars of a workload, for example because its machine or pod is compromised.

    Its stream ends, its certificates are refused by every sidecar and live connections that use them are closed, within
    seconds. It gets no more certificates and can't come back with those that it has.

    A pod's sidecar never comes back: delete the pod. Another one comes back with a join token that is made afterwards.
    New pods and tokens of the workload aren't barred; that is for a policy. With a workload, its open join tokens are
    revoked as well.

    Examples: touchmark ca evict vm-4a4e73 · touchmark ca evict shop/web --yes
    """
    import time

    from cli.backends.session import ask_admin
    from cli.text.duration import format_time
    from cli.text.output import print_line, print_note
    from shared.model.wire.admin import EvictionRequest

    if dismiss:
        settled = ask_admin(
            options.get_target(context), lambda client: client.evict(EvictionRequest(whom=whom, dismiss=True))
        )
        if as_json:
            _EVICTED.print(settled)
        else:
            print_line(f"{whom} may stay: `touchmark status` no longer speaks of its eviction")
        return
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise RefusedError(
                f"{whom} stays: not a terminal, so there is no confirmation",
                hint="use --yes to evict without confirmation",
            )
        if not typer.confirm(f"Evict {whom}? Its connections will be closed.", err=True):
            raise RefusedError(f"{whom} stays")
    done = ask_admin(options.get_target(context), lambda client: client.evict(EvictionRequest(whom=whom)))
    if as_json:
        _EVICTED.print(done)
        return
    if done.is_unknown:
        print_line(
            f"barred all the same: {', '.join(done.instances)}; no such sidecar is in the ledger, which may lack some"
            " since a backup was restored: is the name right?"
        )
    else:
        print_line(f"evicted: {', '.join(done.instances)}")
    if done.certificates:
        count = f"{done.certificates} certificate{'s' if done.certificates != 1 else ''}"
        verb, end = ("are", "they end") if done.certificates != 1 else ("is", "it ends")
        if done.ends > time.time():
            state = f"{count} {verb} distrusted until {end}, the last at {format_time(done.ends)}"
        else:
            state = (
                f"no certificate was alive; {count}, the last ended at {format_time(done.ends)}, {verb} distrusted for"
                " clocks that are up to an hour behind"
            )
        print_line(f"{state}; trust bundle {done.bundle_sequence} says so to every sidecar")
    if done.tokens:
        print_line(f"revoked join tokens: {', '.join(done.tokens)}")
    print_note("a pod has to be deleted; another sidecar comes back with a join token that is made from now on")
