"""``touchmark ca journal``: what the CA did with its authorities, in the order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from shared.model.wire.admin import CAStatus, JournalList, JournalView

_JOURNAL: JsonResult[tuple[JournalView, ...]] = JsonResult(note="newest last")


@prints(_JOURNAL)
def journal(
    context: typer.Context,
    since: Annotated[str, typer.Option(help=options.MOMENT_HELP.format("done since"))] = "",
    until: Annotated[str, typer.Option(help=options.MOMENT_HELP.format("done until"))] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most that many, the newest.")] = 100,
    as_json: options.Json = False,
) -> None:
    """Show what happened to the authorities: founded, prepared, activated, retired, tainted, and without whom.

    Who had it done stands in `touchmark audit list`, what was issued in `touchmark identities`.

    Examples: touchmark ca journal · touchmark ca journal --since 7d --json
    """
    from cli.backends.session import ask_admin
    from cli.text.duration import format_moment, format_time
    from cli.text.output import name_authority, print_table

    query = {"since": format_moment(since, "--since"), "until": format_moment(until, "--until"), "limit": str(limit)}

    async def ask(client: AdminClient) -> tuple[CAStatus, JournalList]:
        return await client.get_status(), await client.list_journal(query)

    status, answer = ask_admin(options.get_target(context), ask)
    entries = tuple(reversed(answer.entries))
    if as_json:
        _JOURNAL.print(entries)
        return
    names = {view.authority_id: name_authority(view.subject) for view in status.authorities}
    print_table(
        ("TIME", "EVENT", "AUTHORITY", "DETAIL"),
        (
            (format_time(one.time), one.event, names.get(one.authority_id, one.authority_id or "-"), one.detail or "-")
            for one in entries
        ),
        empty="nothing happened to the authorities",
    )
