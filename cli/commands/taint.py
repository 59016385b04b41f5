"""``touchmark ca taint``: distrust an old authority whose key may be compromised."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.errors import NotFoundError, RefusedError

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from shared.model.wire.admin import AuthorityView, CAStatus


_STATUS: JsonResult[CAStatus] = JsonResult()


@prints(_STATUS)
def taint(
    context: typer.Context,
    authority: Annotated[str, typer.Argument(help="The authority's ID, as shown by `touchmark ca status`.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    as_json: options.Json = False,
) -> None:
    """Distrust an old or retired authority at once, for example because its key has leaked.

    Certificates that it signed are refused from now on, and live connections that use them are closed; their sidecars
    request new certificates automatically. Tainting a root also taints every issuing authority below it and
    invalidates open join tokens that pin it. This can't be undone. Rotate first: `touchmark ca rotate issuer --force`,
    or `root`.

    Examples: touchmark ca taint 3d9ae38ede73d007 · touchmark ca taint 3d9ae38ede73d007 --yes --json
    """
    from cli.backends.session import ask_admin
    from cli.text.output import print_line

    async def distrust(client: AdminClient) -> CAStatus:
        found = _find(await client.get_status(), authority)
        if not yes:
            _ask(found, as_json=as_json)
        return await client.taint_authority(found.authority_id)

    status = ask_admin(options.get_target(context), distrust)
    if as_json:
        _STATUS.print(status)
        return
    found = _find(status, authority)
    print_line(f"{_describe(found)} is {found.phase}; trust bundle {status.bundle_sequence} says so to every sidecar")


def _find(status: CAStatus, authority: str) -> AuthorityView:
    for view in status.authorities:
        if view.authority_id == authority:
            return view
    raise NotFoundError(f"no authority {authority}", hint="`touchmark ca status` lists them with their IDs")


def _ask(found: AuthorityView, *, as_json: bool) -> None:
    """Ask for confirmation.

    Raises:
        RefusedError: the answer is no, or this isn't a terminal.
    """
    name = _describe(found)
    if as_json or not sys.stdin.isatty():
        raise RefusedError(
            f"{name} stays trusted: not a terminal, so there is no confirmation",
            hint="use --yes to distrust it without confirmation",
        )
    alive = f"{found.certificates_alive} of its certificates are alive"
    if not typer.confirm(f"Distrust {name} permanently? {alive}; their connections will be closed.", err=True):
        raise RefusedError(f"{name} stays trusted")


def _describe(found: AuthorityView) -> str:
    from cli.text.output import name_authority

    return name_authority(found.subject)
