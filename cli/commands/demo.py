"""The verb ``touchmark demo``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.demo.facts import Facts

_FACTS: JsonResult[Facts] = JsonResult(note="what was observed; null where this run couldn't show it")


class CaptureChoice(StrEnum):
    """How the demo's sidecars capture."""

    AUTO = "auto"
    REDIRECT = "redirect"
    LISTENERS = "listeners"


class ServerChoice(StrEnum):
    """What the demo's server is."""

    AUTO = "auto"
    NGINX = "nginx"
    PYTHON = "python"


@prints(_FACTS)
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep it running until Ctrl-C, to try things out.")] = False,
    capture: Annotated[
        CaptureChoice, typer.Option(help="redirect: network namespaces; listeners: loopback.")
    ] = CaptureChoice.AUTO,
    server: Annotated[
        ServerChoice, typer.Option(help="auto: nginx where it is installed, else a Python script.")
    ] = ServerChoice.AUTO,
    as_json: options.Json = False,
) -> None:
    """Run a guided tour with real processes: permissive mode, explicit mode, an intruder refused, the issuer rotated.

    As root it uses network namespaces of its own; as an ordinary user a user namespace where that works, otherwise
    loopback. There an ordinary user's sidecars may not look into one another, so that explicit mode refuses the
    approved program as well (`holders_unknown`): run it as root. It cleans up after itself. Exit code 3 if an
    observation contradicts Touchmark's claims.

    Examples: touchmark demo · touchmark demo --keep
    """
    from cli.demo.run import run_demo

    code = run_demo(capture=capture.value, server=server.value, keep=keep, json_result=_FACTS if as_json else None)
    if code:
        raise typer.Exit(code)
