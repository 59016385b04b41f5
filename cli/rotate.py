"""``touchmark ca rotate issuer``: start a rotation, show its progress, name the laggards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.where import Where, takes_where

if TYPE_CHECKING:
    from cli.admin_client import AdminClient
    from shared.model.admin import RotationStatus

_POLL_S = 0.2

app = typer.Typer(no_args_is_help=True, help="Replace an authority while everything runs.")


@app.callback()
def rotate() -> None:
    """Replace an authority while everything runs."""


@app.command()
@takes_where
def issuer(
    force: Annotated[
        bool, typer.Option("--force", help="Activate at once; sidecars that lack the new bundle will fail.")
    ] = False,
    revert: Annotated[bool, typer.Option("--revert", help="Take the last rotation back.")] = False,
    timeout_s: options.TimeoutS = 120.0,
    as_json: options.Json = False,
    *,
    where: Where,
) -> None:
    """Rotate the issuing authority: every live sidecar trusts the new one before it signs anything.

    Ends once the new authority signs. Exit code 9 when sidecars haven't installed the new bundle in time: they are
    named, nothing is broken, and the CA goes on waiting for them.
    """
    from cli.conversation import talk
    from cli.exit_codes import ExitCode
    from cli.output import print_json, print_line, print_note
    from shared.model.errors import InputError

    if force and revert:
        raise InputError("--force and --revert exclude each other")

    async def rotate_issuer(client: AdminClient) -> RotationStatus:
        from shared.model.admin import RotationRequest

        if revert:
            return _name_authorities(await client.revert_rotation())
        status = _name_authorities(await client.start_rotation(RotationRequest(force=force)))
        if not as_json:
            prepared = status.next or status.issuer
            print_note(f"the new issuer is prepared: {prepared}; trust bundle {status.sequence} goes out")
        return await _wait_for_activation(client, status, timeout_s, quiet=as_json)

    status = talk(where, rotate_issuer)
    if as_json:
        print_json(status)
    elif revert:
        print_line(f"taken back: {status.issuer} signs")
    elif status.step == "prepared":
        print_note(f"not active after {timeout_s:.0f} s. Still waiting for:")
        for laggard in status.waiting_for:
            print_note(f"  ✗ {laggard}")
        print_note("  hint: the CA goes on waiting; look at these sidecars, or repeat with --force")
    else:
        print_line(f"{status.issuer} signs")
        print_line(
            f"{status.previous or 'the previous issuer'} is trusted until its last certificate has ended"
            f" ({status.previous_alive} alive), then it retires by itself"
        )
    if status.step == "prepared":
        raise typer.Exit(ExitCode.DEADLINE)


def _name_authorities(status: RotationStatus) -> RotationStatus:
    """Write authorities by their common names alone, as every table does."""
    import msgspec

    from cli.output import name_authority

    return msgspec.structs.replace(
        status,
        issuer=name_authority(status.issuer),
        next=name_authority(status.next),
        previous=name_authority(status.previous),
    )


async def _wait_for_activation(
    client: AdminClient, status: RotationStatus, timeout_s: float, *, quiet: bool
) -> RotationStatus:
    from cli.output import print_note

    deadline = asyncio.get_running_loop().time() + timeout_s
    said: tuple[str, ...] | None = None
    while status.step == "prepared":
        if not quiet and status.waiting_for != said:
            said = status.waiting_for
            names = ", ".join(said[:5]) + (f" and {len(said) - 5} more" if len(said) > 5 else "")
            print_note(f"  waiting for {len(said)}: {names}" if said else "  everybody has it; activating")
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(_POLL_S)
        status = _name_authorities(await client.get_rotation())
    return status
