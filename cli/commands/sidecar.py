"""``touchmark sidecar run``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Run a sidecar beside an application.")


@app.callback()
def sidecar() -> None:
    """Run a sidecar beside an application."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The YAML file.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File that holds the join token.")] = None,
) -> None:
    """Run a sidecar in the foreground, configured by a YAML file or by options (`python -m sidecar --help` lists them).

    The join token comes from --token-file or from TOUCHMARK_JOIN_TOKEN, never from the command line.
    """
    from cli.machine.component import become_component
    from shared.model.errors import InputError

    arguments: list[str] = []
    for option, path in (("--config", config), ("--token-file", token_file)):
        if path is None:
            continue
        if not os.access(path, os.R_OK):
            raise InputError(f"can't read {path}", hint=f"{option} names a readable file")
        arguments += [option, str(path)]
    become_component("sidecar", [*arguments, *context.args])
