"""The ``touchmark`` command: puts the verbs together and turns errors into exit codes.

Belongs here: the tree of commands and the one place where errors are shown. Doesn't: what a verb does. Verb
modules import only ``typer`` at their top, so that ``--help`` and completion stay quick.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from cli.commands import (
    audit,
    ca,
    connections,
    coverage,
    decisions,
    demo,
    doctor,
    edges,
    explain,
    graph,
    identities,
    inject,
    install,
    mode,
    policy,
    program,
    ready,
    sidecar,
    status,
    timeline,
    top,
    trust,
    ui,
    uninstall,
    upgrade,
    version,
)
from cli.commands.options import TargetCommand
from cli.text.exit_codes import ExitCode, format_exit_codes
from cli.text.help_text import format_help
from cli.text.output import print_error, print_note
from shared.model.errors import InputError, TouchmarkError

_UNKNOWN_COMMAND: Final = re.compile(r"No such command '([^']{1,80})'\.")

app = typer.Typer(
    name="touchmark",
    help="Attested programs speak mutual TLS; everything else is seen and refused.",
    epilog=format_exit_codes(),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(ca.app, name="ca")
app.add_typer(sidecar.app, name="sidecar")
app.command("status", cls=TargetCommand)(status.status)
app.command("mode", cls=TargetCommand)(mode.mode)
app.command("ready", cls=TargetCommand)(ready.ready)
app.command("explain", cls=TargetCommand)(explain.explain)
app.add_typer(program.app, name="program")
app.add_typer(policy.app, name="policy")
app.add_typer(trust.app, name="trust")
app.add_typer(audit.app, name="audit")
app.command("decisions", cls=TargetCommand)(decisions.decisions)
app.command("identities", cls=TargetCommand)(identities.identities)
app.command("connections", cls=TargetCommand)(connections.connections)
app.command("edges", cls=TargetCommand)(edges.edges)
app.command("top", cls=TargetCommand)(top.top)
app.command("coverage", cls=TargetCommand)(coverage.coverage)
app.command("timeline", cls=TargetCommand)(timeline.timeline)
app.command("graph", cls=TargetCommand)(graph.graph)
app.command("ui", cls=TargetCommand)(ui.ui)
app.command("inject")(inject.inject)
app.command("demo")(demo.demo)
app.command("install", cls=TargetCommand)(install.install)
app.command("upgrade", cls=TargetCommand)(upgrade.upgrade)
app.command("uninstall", cls=TargetCommand)(uninstall.uninstall)
app.command("doctor", cls=TargetCommand)(doctor.doctor)
app.command("version")(version.version)


@functools.cache
def _make_tree() -> Any:
    """Make the tree of commands, once for a process: it costs more than most commands, and keeps nothing of a line."""
    tree = get_command(app)
    _write_helps(tree)
    return tree


def _write_helps(command: Any) -> None:
    """Write each verb's help as a terminal shows it: typer takes docstrings with their line breaks."""
    command.help = format_help(command.help or "")
    for inner in getattr(command, "commands", {}).values():
        _write_helps(inner)


def list_commands() -> tuple[str, ...]:
    """Return every command's name without ``touchmark``, as ``program approve``."""

    def walk(command: Any, before: str) -> Iterator[str]:
        for name, inner in getattr(command, "commands", {}).items():
            yield before + name
            yield from walk(inner, f"{before}{name} ")

    return tuple(walk(_make_tree(), ""))


def _name_meant(message: str, path: str) -> str:
    """Add to typer's words about an unknown command which ones may be meant; other words are left as they are.

    Arguments:
        path: of the group that has no such command, with ``touchmark``.
    """
    from cli.text.command_names import find_meant

    if (unknown := _UNKNOWN_COMMAND.fullmatch(message)) is None:
        return message
    meant = find_meant(f"{path} {unknown[1]}".partition(" ")[2], list_commands())
    if not meant:
        return message
    return f"{message} Did you mean {' or '.join(f'{each!r}' for each in meant)}?"


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version.version()
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the versions and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. User mistakes never yield a traceback."""
    as_json = "--json" in arguments
    try:
        code = _make_tree()(args=list(arguments), prog_name="touchmark", standalone_mode=False)
    except TouchmarkError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except TyperException as error:
        message = error.format_message().replace("Value error, ", "")
        if message:
            command = getattr(getattr(error, "ctx", None), "command_path", "touchmark")
            message = _name_meant(message, command)
            print_error(InputError(message, hint=f"`{command} --help` shows the options"), as_json=as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_note("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) closed the pipe: no failure, but Python would complain when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.SUCCESS
    if code == ExitCode.INTERRUPTED:  # Typer turns a KeyboardInterrupt into this code silently.
        print_note("interrupted")
    return code if isinstance(code, int) else ExitCode.SUCCESS


def main() -> None:
    """Run this process's command line and exit."""
    sys.exit(run(sys.argv[1:]))
