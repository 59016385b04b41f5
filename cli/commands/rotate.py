"""``touchmark ca rotate issuer|root``: start a rotation, show its progress, list the sidecars that lag."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from cli.backends.target import Target
    from shared.model.trust.bundle import RotationKind
    from shared.model.wire.admin import RotationStatus

_POLL_S = 0.2
_STATUS: JsonResult[RotationStatus] = JsonResult(note="authorities by their common names")
Force = Annotated[bool, typer.Option("--force", help="Activate at once; sidecars without the new bundle will fail.")]
Revert = Annotated[bool, typer.Option("--revert", help="Revert the last rotation.")]

app = typer.Typer(no_args_is_help=True, help="Replace an authority without downtime.")


@app.callback()
def rotate() -> None:
    """Replace an authority without downtime."""


@app.command(cls=options.TargetCommand)
@prints(_STATUS)
def issuer(
    context: typer.Context,
    force: Force = False,
    revert: Revert = False,
    timeout_s: options.TimeoutS = 120.0,
    as_json: options.Json = False,
) -> None:
    """Rotate the issuing authority. The new one signs only once every live sidecar trusts it.

    Returns once the new authority signs. Exit code 9 if sidecars haven't installed the new bundle in time: they are
    listed, nothing breaks, and the CA keeps waiting for them.

    Examples: touchmark ca rotate issuer · touchmark ca rotate issuer --timeout 300 · touchmark ca rotate issuer
    --revert
    """
    _rotate(
        "issuer", force=force, revert=revert, timeout_s=timeout_s, as_json=as_json, target=options.get_target(context)
    )


@app.command(cls=options.TargetCommand)
@prints(_STATUS)
def root(
    context: typer.Context,
    force: Force = False,
    revert: Revert = False,
    timeout_s: options.TimeoutS = 300.0,
    as_json: options.Json = False,
) -> None:
    """Rotate the root, with a new issuing authority below it. Both are trusted everywhere before the new one is used.

    Returns once the new authority signs. Exit code 9 if something lacks the new root when the time is up: sidecars, or
    in a cluster the objects that hold the roots, which pods see about two minutes late. They are listed, nothing
    breaks, and the CA keeps waiting for them. The old root stays trusted until no certificate below it is alive and no
    open join token pins it; then it retires automatically.

    Examples: touchmark ca rotate root · touchmark ca rotate root --timeout 300 · touchmark ca rotate root --revert
    """
    _rotate(
        "root", force=force, revert=revert, timeout_s=timeout_s, as_json=as_json, target=options.get_target(context)
    )


def _rotate(kind_name: str, *, force: bool, revert: bool, timeout_s: float, as_json: bool, target: Target) -> None:
    from cli.backends.session import ask_admin
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note
    from shared.model.errors import InputError
    from shared.model.trust.bundle import RotationKind
    from shared.model.wire.admin import RotationRequest

    if force and revert:
        raise InputError("--force and --revert can't be combined")
    kind = RotationKind(kind_name)

    async def start_or_revert(client: AdminClient) -> RotationStatus:
        if revert:
            _check_kind(await client.get_rotation(), kind, target)
            return _name_authorities(await client.revert_rotation())
        status = _name_authorities(await client.start_rotation(RotationRequest(force=force, kind=kind)))
        if not as_json:
            if kind is RotationKind.ROOT:
                print_note(f"new root prepared: {status.next_root or status.root}")
            prepared = status.next or status.issuer
            print_note(f"new issuer prepared: {prepared}; distributing trust bundle {status.sequence}")
        return await _wait_for_activation(client, status, timeout_s, quiet=as_json)

    status = ask_admin(target, start_or_revert)
    if as_json:
        _STATUS.print(status)
    elif revert:
        print_line(f"reverted: {status.issuer} signs")
    elif status.step == "prepared":
        print_note(f"not active after {timeout_s:.0f} s. Still waiting for:")
        for laggard in (*status.waiting_for, *status.unpublished) or (_describe_wait(status),):
            print_note(f"  ✗ {laggard}")
        print_note("  hint: the CA keeps waiting; check these, or repeat with --force")
    else:
        _show_active(status)
    if status.step == "prepared":
        raise typer.Exit(ExitCode.DEADLINE)


def _check_kind(status: RotationStatus, kind: RotationKind, target: Target) -> None:
    import os

    from cli.backends.target import add_options, write_shell_options
    from shared.model.errors import ConflictError

    if status.step != "none" and status.kind is not kind:
        command = add_options(f"touchmark ca rotate {status.kind} --revert", write_shell_options(target, os.environ))
        raise ConflictError(f"the last rotation was of the {status.kind}", hint=f"`{command}`")


def _show_active(status: RotationStatus) -> None:
    from cli.text.output import print_line
    from shared.model.trust.bundle import RotationKind

    print_line(f"{status.issuer} signs")
    if status.kind is RotationKind.ROOT:
        print_line(
            f"{status.previous_root} and the issuers below it stay trusted until their last certificate has expired"
            f" ({status.previous_alive} alive)"
            f" and no open join token pins the root ({len(status.open_tokens)} open), then they retire automatically"
        )
    else:
        print_line(
            f"{status.previous or 'the previous issuer'} stays trusted until its last certificate has expired"
            f" ({status.previous_alive} alive), then it retires automatically"
        )


def describe_rotation(status: RotationStatus) -> str:
    """Say in a few words where a rotation stands and what it waits for."""
    from cli.text.output import name_some

    if status.is_finished:
        return status.step
    if status.step == "prepared":
        return f"{status.kind} prepared, {_describe_wait(status)}"
    awaited = [f"{status.previous_alive} certificates"] if status.previous_alive else []
    if status.open_tokens:
        awaited.append(f"join tokens {name_some(status.open_tokens)}")
    return f"{status.kind} active; its predecessor waits for {' and '.join(awaited) or 'its minimum wait'}"


def _describe_wait(status: RotationStatus) -> str:
    from cli.text.duration import format_time
    from cli.text.output import name_some

    if awaited := (*status.waiting_for, *status.unpublished):
        return f"waiting for {len(awaited)}: {name_some(awaited)}"
    return f"installed everywhere; activation at {format_time(status.ready_at)} at the earliest"


def _name_authorities(status: RotationStatus) -> RotationStatus:
    """Write authorities by their common names alone, as every table does."""
    import msgspec

    from cli.text.output import name_authority

    names = ("issuer", "next", "previous", "root", "next_root", "previous_root")
    return msgspec.structs.replace(status, **{name: name_authority(getattr(status, name)) for name in names})


async def _wait_for_activation(
    client: AdminClient, status: RotationStatus, timeout_s: float, *, quiet: bool
) -> RotationStatus:
    from cli.text.output import print_note

    deadline = asyncio.get_running_loop().time() + timeout_s
    said = ""
    while status.step == "prepared":
        wait = _describe_wait(status)
        if not quiet and wait != said:
            said = wait
            print_note(f"  {wait}")
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(_POLL_S)
        status = _name_authorities(await client.get_rotation())
    return status
