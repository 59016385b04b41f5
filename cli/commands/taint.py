"""``touchmark ca taint``: distrust an old authority whose key may be known to somebody else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from shared.model.errors import NotFoundError, RefusedError

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from shared.model.wire.admin import AuthorityView, CAStatus


def taint(
    context: typer.Context,
    authority: Annotated[str, typer.Argument(help="Its ID, as `touchmark ca status` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Distrust it without asking.")] = False,
    as_json: options.Json = False,
) -> None:
    """Distrust an old authority at once: after its key has leaked, and another one signs.

    Everything that it signed is refused from now on, and live connections of such peers are closed; their sidecars ask
    for new certificates by themselves. With a root, every issuing authority below it goes as well, and open join tokens
    that pin it. It can't be taken back. Rotate first: `touchmark ca rotate issuer --force`, or `root`.
    """
    from cli.backends.session import ask_admin
    from cli.text.output import print_json, print_line

    async def distrust(client: AdminClient) -> CAStatus:
        found = _find(await client.get_status(), authority)
        if not yes:
            _ask(found, as_json=as_json)
        return await client.taint_authority(found.authority_id)

    status = ask_admin(options.get_target(context), distrust)
    if as_json:
        print_json(status)
        return
    found = _find(status, authority)
    print_line(f"{_describe(found)} is {found.phase}: trust bundle {status.bundle_sequence} tells every sidecar")


def _find(status: CAStatus, authority: str) -> AuthorityView:
    for view in status.authorities:
        if view.authority_id == authority:
            return view
    raise NotFoundError(f"no authority {authority}", hint="`touchmark ca status` lists them with their IDs")


def _ask(found: AuthorityView, *, as_json: bool) -> None:
    """Ask whether to go on.

    Raises:
        RefusedError: the answer is no, or there is nobody to ask.
    """
    name = _describe(found)
    if as_json or not sys.stdin.isatty():
        raise RefusedError(f"{name} stays trusted: nobody is there to be asked", hint="--yes distrusts it all the same")
    alive = f"{found.certificates_alive} certificates of it are alive"
    if not typer.confirm(f"Distrust {name} for good? {alive}; connections under them are closed.", err=True):
        raise RefusedError(f"{name} stays trusted")


def _describe(found: AuthorityView) -> str:
    from cli.text.output import name_authority

    return name_authority(found.subject)
