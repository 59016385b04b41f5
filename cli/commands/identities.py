"""``touchmark identities``: the ledger of certificates, and what is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.wire.admin import IdentityView

_IDENTITIES: JsonResult[tuple[IdentityView, ...]] = JsonResult(note="newest first")


@prints(_IDENTITIES)
def identities(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Include expired certificates.")] = False,
    workload: Annotated[str, typer.Option(help="Only this workload.")] = "",
    as_json: options.Json = False,
) -> None:
    """List unexpired certificates with their workload, program, issuer and expiry."""
    from cli.backends.session import ask_admin
    from cli.text.duration import format_time
    from cli.text.output import name_authority, print_note, print_table, shorten
    from shared.model.identity.identity import parse_workload

    query = {"alive": "" if everything else "true", "workload": str(parse_workload(workload)) if workload else ""}
    answer = ask_admin(options.get_target(context), lambda client: client.list_identities(query))
    if as_json:
        _IDENTITIES.print(answer.identities)
        return
    print_table(
        ("WORKLOAD", "KIND", "PROGRAM", "PATH", "ISSUER", "SIDECAR", "EXPIRES", "ALIVE", "SERIAL"),
        (
            (
                view.workload,
                view.kind,
                shorten(view.program),
                view.path or "-",
                name_authority(view.issuer),
                view.instance,
                format_time(view.not_after),
                "yes" if view.alive else "no",
                view.serial[:16],
            )
            for view in answer.identities
        ),
        empty="no certificates",
    )
    if answer.truncated:
        print_note("the list is truncated; narrow it with --workload")
