"""``touchmark ca join-token create|list|revoke``: who may join outside Kubernetes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.commands.shapes import JoinTokenFile
    from shared.model.wire.admin import JoinTokenCreated, JoinTokenView

_CREATED: JsonResult[JoinTokenCreated] = JsonResult()
_WRITTEN: JsonResult[JoinTokenFile] = JsonResult(when="--output")
_LISTED: JsonResult[tuple[JoinTokenView, ...]] = JsonResult(note="newest first")


class JoinTokenGroup(TyperGroup):
    """Takes what isn't a verb for ``create``: ``touchmark ca join-token shop/web`` is what release 0.1 has."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb before its arguments where it is left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=JoinTokenGroup, no_args_is_help=True, help="Let sidecars outside Kubernetes join, by single-use tokens."
)


@app.command(cls=options.TargetCommand)
@prints(_CREATED, _WRITTEN)
def create(
    context: typer.Context,
    workload: Annotated[str, typer.Argument(help="NAMESPACE/SERVICE-ACCOUNT, such as shop/web.")],
    address: Annotated[
        list[str] | None, typer.Option("--address", help="An IP address that the sidecar may register; repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A label KEY=VALUE that the CA vouches for; repeatable.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long the token is valid: 10m, 1h.")] = "1h",
    ca: Annotated[str, typer.Option("--ca", help="HOST:PORT at which the sidecar reaches the CA.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the token to a new file (mode 0600) instead.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Create a single-use token that lets one sidecar join. It pins the CA's root key. `create` may be left out.

    Examples: touchmark ca join-token shop/web --address 198.18.0.2 --output web.token · touchmark ca join-token
    shop/web --ttl 10m --json
    """
    from cli.backends.session import ask_admin
    from cli.commands.shapes import JoinTokenFile
    from cli.machine.new_files import writing_new_file
    from cli.text.duration import format_time, parse_duration
    from cli.text.output import print_line, print_note
    from shared.model.errors import InputError
    from shared.model.identity.identity import parse_workload
    from shared.model.wire.admin import JoinTokenRequest

    labels = {}
    for text in label or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--label: not a label: {text!r}", hint="write KEY=VALUE")
        labels[key] = value
    request = JoinTokenRequest(
        workload=str(parse_workload(workload)),
        addresses=tuple(_read_address(text) for text in address or []),
        labels=labels,
        ttl_s=parse_duration(ttl, "--ttl"),
        ca=ca,
    )
    # The file first: where none can be made, no token is either, that nobody would have.
    with contextlib.nullcontext() if output is None else writing_new_file(output) as file:
        created = ask_admin(options.get_target(context), lambda client: client.create_join_token(request))
        if file is not None:
            file.write(f"{created.token}\n".encode())
    if as_json and output is None:
        _CREATED.print(created)
    elif as_json:
        _WRITTEN.print(JoinTokenFile(token_id=created.token_id, file=str(output)))
    else:
        if output is None:
            print_line(created.token)
        print_note(
            f"valid for one sidecar of {created.workload} until {format_time(created.expires)};"
            f" it may register {', '.join(created.addresses) or 'no address'}"
        )


@app.command("list", cls=options.TargetCommand)
@prints(_LISTED)
def list_tokens(context: typer.Context, as_json: options.Json = False) -> None:
    """List join tokens: open, spent or expired, and by which sidecar. Never their secrets.

    Examples: touchmark ca join-token list · touchmark ca join-token list --json
    """
    from cli.backends.session import ask_admin

    answer = ask_admin(options.get_target(context), lambda client: client.list_join_tokens())
    _show(answer.tokens, as_json=as_json)


@app.command(cls=options.TargetCommand)
@prints(_LISTED)
def revoke(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="The token's ID, as `touchmark ca join-token list` shows it.")],
    as_json: options.Json = False,
) -> None:
    """Revoke an open token: nothing joins by it any more.

    A spent one can't be revoked; `touchmark ca evict` locks its sidecar out.

    Example: touchmark ca join-token revoke TOKEN
    """
    from cli.backends.session import ask_admin

    answer = ask_admin(options.get_target(context), lambda client: client.revoke_join_token(token))
    _show(answer.tokens, as_json=as_json)


def _show(tokens: tuple[JoinTokenView, ...], *, as_json: bool) -> None:
    from cli.text.duration import format_time
    from cli.text.output import print_table

    if as_json:
        _LISTED.print(tokens)
        return
    print_table(
        ("TOKEN", "WORKLOAD", "ADDRESSES", "STATE", "CREATED", "EXPIRES", "SIDECAR"),
        (
            (
                token.token_id,
                token.workload,
                " ".join(token.addresses) or "-",
                token.state,
                format_time(token.created),
                format_time(token.expires),
                token.instance or "-",
            )
            for token in tokens
        ),
        empty="no join tokens",
    )


def _read_address(text: str) -> str:
    import ipaddress

    from shared.model.errors import InputError

    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InputError(f"--address: not an IP address: {text!r}", hint="use IP addresses, not host names") from error
