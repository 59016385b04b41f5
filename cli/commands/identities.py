"""``touchmark identities``: the ledger of certificates, and what is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.errors import NotFoundError

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from shared.model.wire.admin import CAStatus, IdentityList, IdentityView

_IDENTITIES: JsonResult[tuple[IdentityView, ...]] = JsonResult(note="newest first")
_LIMIT = 1000


@prints(_IDENTITIES)
def identities(
    context: typer.Context,
    alive: Annotated[
        bool | None, typer.Option("--alive/--all", help="Only unexpired certificates, or expired ones as well.")
    ] = None,
    workload: Annotated[str, typer.Option(help="Only this workload.")] = "",
    serial: Annotated[str, typer.Option(help="Only this serial number, in hexadecimal; its beginning is enough.")] = "",
    digest: Annotated[str, typer.Option(help="Only this program: the SHA-256 of its executable.")] = "",
    authority: Annotated[str, typer.Option(help="Only of this authority: its ID, or its name.")] = "",
    sidecar: Annotated[str, typer.Option(help="Only of this sidecar, as `touchmark ca status` shows it.")] = "",
    since: Annotated[str, typer.Option(help=options.MOMENT_HELP.format("issued since"))] = "",
    until: Annotated[str, typer.Option(help=options.MOMENT_HELP.format("issued until"))] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most that many, the newest.")] = _LIMIT,
    as_json: options.Json = False,
) -> None:
    """Search the ledger of certificates: what was issued to whom, by which authority, and what of it is alive.

    Without options: what is alive. --serial, --since and --until search all that was issued, unless --alive is given.

    Examples: touchmark identities · touchmark identities --workload shop/web --all · touchmark identities --serial 4f1c
    """
    from cli.backends.session import ask_admin
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.duration import format_moment, format_time
    from cli.text.output import name_authority, print_note, print_table, shorten
    from shared.model.identity.identity import parse_workload
    from shared.model.identity.program import Program

    is_alive = not (serial or since or until) if alive is None else alive
    query = {
        "alive": "true" if is_alive else "",
        "workload": str(parse_workload(workload)) if workload else "",
        "serial": serial.lower(),
        "digest": Program(digest=digest.removeprefix("sha256:").lower()).digest if digest else "",
        "sidecar": sidecar,
        "since": format_moment(since, "--since"),
        "until": format_moment(until, "--until"),
        "limit": str(limit) if limit != _LIMIT else "",
    }

    async def search(client: AdminClient) -> IdentityList:
        chosen = {"authority": _find_authority(await client.get_status(), authority)} if authority else {}
        return await client.list_identities(query | chosen)

    target = options.get_target(context)
    answer = ask_admin(target, search)
    if not answer.identities:
        refuse_unknown(target, workload.partition("/")[0])
    if as_json:
        _IDENTITIES.print(answer.identities)
        return
    print_table(
        ("WORKLOAD", "KIND", "PROGRAM", "PATH", "ISSUER", "SIDECAR", "ISSUED", "EXPIRES", "ALIVE", "SERIAL"),
        (
            (
                view.workload,
                view.kind,
                shorten(view.program),
                view.path or "-",
                name_authority(view.issuer),
                view.instance,
                format_time(view.issued),
                format_time(view.not_after),
                "yes" if view.alive else "no",
                view.serial[:16],
            )
            for view in answer.identities
        ),
        empty="no certificates",
    )
    if answer.truncated:
        print_note("the list is truncated; narrow the search, or raise --limit")


def _find_authority(status: CAStatus, named: str) -> str:
    """Return the ID of an authority that is given by its ID or its common name."""
    from cli.text.output import name_authority

    for view in status.authorities:
        if named in (view.authority_id, name_authority(view.subject)):
            return view.authority_id
    raise NotFoundError(f"no authority {named}", hint="`touchmark ca status` lists them with their IDs")
