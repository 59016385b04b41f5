"""``touchmark sidecar``: ``run`` starts one; ``dump``, ``connections`` and ``log-level`` ask a running one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.commands.connections import list_rows, name_columns
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.wire.messages import DirectoryEntry
    from shared.model.wire.sidecar_admin import Dump, Level, SidecarConnections

app = typer.Typer(no_args_is_help=True, help="Run a sidecar beside an application, or ask one that runs here.")
_DUMP: JsonResult[Dump] = JsonResult()
_CONNECTIONS: JsonResult[SidecarConnections] = JsonResult()
_LEVEL: JsonResult[Level] = JsonResult()


def complete_instance(incomplete: str) -> list[str]:
    """Return the sidecars that listen here and begin like this, for the shell."""
    from shared.runtime.sidecar_socket import list_sidecars

    return [name for name in list_sidecars() if name.startswith(incomplete)]


def complete_level(incomplete: str) -> list[str]:
    """Return the levels that begin like this, for the shell."""
    return [level for level in ("debug", "info", "warning", "error") if level.startswith(incomplete)]


Instance = Annotated[
    str,
    typer.Option(
        "--instance", help="The sidecar's instance.", show_default="the only one here", autocompletion=complete_instance
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of entries of each list.")]


@app.callback()
def sidecar() -> None:
    """Run a sidecar beside an application, or ask one that runs here."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The YAML file.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File that holds the join token.")] = None,
    state_directory: Annotated[
        Path | None,
        typer.Option(help="Keeps the sidecar's renewal key, by which it starts without a token from then on."),
    ] = None,
) -> None:
    """Run a sidecar in the foreground, configured by a YAML file or by options (`python -m sidecar --help` lists them).

    The join token comes from --token-file or from TOUCHMARK_JOIN_TOKEN, never from the command line.

    Example: touchmark sidecar run --config web.yaml --token-file web.token
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
    if state_directory is not None:
        arguments += ["--state-directory", str(state_directory)]
    become_component("sidecar", [*arguments, *context.args])


@app.command()
@prints(_DUMP)
def dump(instance: Instance = "", limit: Limit = 1000, as_json: options.Json = False) -> None:
    """Show the state of a sidecar on this machine: policies, certificates, bounds, directory, its stream to the CA.

    Only root and the sidecar's own user may ask. In Kubernetes see docs/how-to/kubernetes.md.

    Examples: touchmark sidecar dump · touchmark sidecar dump --json
    """
    from shared.model.wire.sidecar_admin import Dump, DumpQuestion
    from shared.runtime.sidecar_socket import ask_sidecar, choose_sidecar

    answer = ask_sidecar(choose_sidecar(instance), DumpQuestion(limit=limit), expect=Dump)
    if as_json:
        _DUMP.print(answer)
    else:
        _show_dump(answer)


@app.command()
@prints(_CONNECTIONS)
def connections(instance: Instance = "", limit: Limit = 1000, as_json: options.Json = False) -> None:
    """List the live connections of a sidecar on this machine.

    Examples: touchmark sidecar connections · touchmark sidecar connections --json
    """
    from cli.text.output import print_note, print_table
    from shared.model.wire.sidecar_admin import ConnectionsQuestion, SidecarConnections
    from shared.runtime.sidecar_socket import ask_sidecar, choose_sidecar

    answer = ask_sidecar(choose_sidecar(instance), ConnectionsQuestion(limit=limit), expect=SidecarConnections)
    if as_json:
        _CONNECTIONS.print(answer)
        return
    print_table(
        name_columns(), list_rows((answer.instance, each) for each in answer.connections), empty="no live connections"
    )
    if answer.truncated:
        print_note("the list is truncated; raise --limit")


@app.command()
@prints(_LEVEL)
def log_level(
    level: Annotated[
        str,
        typer.Argument(
            help="debug, info, warning or error; without it the present one is shown.", autocompletion=complete_level
        ),
    ] = "",
    instance: Instance = "",
    as_json: options.Json = False,
) -> None:
    """Show or set the least level of events that a running sidecar writes, until it is started again.

    Examples: touchmark sidecar log-level · touchmark sidecar log-level debug
    """
    from cli.text.output import print_line
    from shared.model.wire.sidecar_admin import Level, LevelQuestion
    from shared.runtime.sidecar_socket import ask_sidecar, choose_sidecar

    answer = ask_sidecar(choose_sidecar(instance), LevelQuestion(level=level), expect=Level)
    if as_json:
        _LEVEL.print(answer)
    else:
        print_line(f"{answer.instance}: {answer.level}")


def _show_dump(answer: Dump) -> None:
    import time

    from cli.text.duration import format_duration
    from cli.text.output import print_line, print_table

    now = time.time()
    stream = (
        f"connected, release {answer.ca_version or 'unknown'}" if answer.ca_connected else answer.ca_fault or "none"
    )
    print_line(f"{answer.instance}  {answer.stage}, process {answer.pid}, release {answer.version}")
    print_line(f"workload  {answer.workload or '-'} in {answer.trust_domain or '-'}, bundle {answer.bundle_sequence}")
    print_line(f"CA stream  {stream}; {answer.records_waiting} records wait, {answer.records_lost} lost")
    if answer.renewal_kept_in:
        print_line(
            f"renewal key  in {answer.renewal_kept_in}, counts {format_duration(answer.renewal_grace_s)} after the"
            f" sidecar's last certificate{'' if answer.ca_connected else ', if the CA still takes it'}"
        )
    print_line(
        f"connections  {answer.connections} live, {answer.idle_tunnels} idle tunnels; log level {answer.log_level}"
    )
    print_line()
    print_table(
        ("BOUND", "USED", "LIMIT"), ((each.name, str(each.used), str(each.limit)) for each in answer.bounds), empty=""
    )
    print_line()
    print_table(
        ("NAMESPACE", "VERSION", "MODE", "RULES", "APPROVALS"),
        ((e.namespace, str(e.version), e.mode, str(e.rules), str(e.approvals)) for e in answer.namespaces),
        empty="no policies",
    )
    print_line()
    print_table(
        ("CERTIFICATE", "EXPIRES IN", "ISSUER"),
        (
            (each.identity, format_duration(each.not_after - now) if each.not_after > now else "ended", each.issuer)
            for each in answer.credentials
        ),
        empty="no certificates",
    )
    print_line()
    print_table(
        ("ADDRESS", "WORKLOAD"),
        ((each.address, _name_entry(each)) for each in answer.directory),
        empty="no known addresses",
    )
    if answer.directory_size > len(answer.directory):
        print_line(f"and {answer.directory_size - len(answer.directory)} more addresses; raise --limit")


def _name_entry(entry: DirectoryEntry) -> str:
    if entry.service is not None:
        return f"Service {entry.service.namespace}/{entry.service.name}"
    return f"{entry.namespace}/{entry.service_account}" if entry.namespace else "outside the mesh"
