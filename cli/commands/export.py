"""``touchmark policy export``: the rules in force in the words of another policy engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.export.engine import Engine
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.export.report import Export

_EXPORT: JsonResult[Export] = JsonResult()


@prints(_EXPORT)
def export(
    context: typer.Context,
    engine: Annotated[Engine, typer.Argument(help="For which engine.")],
    namespace: Annotated[str, typer.Argument(help="Only this namespace; all by default.")] = "",
    explicit: Annotated[
        bool, typer.Option("--explicit", help="Export permissive namespaces as explicit mode would enforce them.")
    ] = False,
    pods: Annotated[
        list[str] | None,
        typer.Option(
            help="A workload's labels, such as shop/web:app=web; repeatable. By default the cluster's pods say.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the rules in force as policies of another engine, and what it can't say.

    networkpolicy, clusternetworkpolicy and cilium stand beside the mesh: they let the tunnel's port, the CA, probes and
    DNS through. istio and linkerd are for pods with their proxies instead. Programs can't be said by any of them. Each
    loss is a comment in the YAML and a line on standard error: looser (more is allowed than by Touchmark), stricter, or
    a note. Nothing is applied. The same rules and pods always give the same text.

    Exit code 0: nothing is looser or stricter; 3: something is.

    Examples: touchmark policy export networkpolicy shop -k > shop.yaml · touchmark policy export cilium -k --explicit ·
    touchmark policy export istio shop --pods shop/web:app=web
    """
    from cli.backends.exporting import read_sources
    from cli.export.report import export as write
    from cli.export.report import write_export
    from cli.export.selectors import choose_selectors
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_note
    from shared.model.identity.identity import check_namespace

    if namespace:
        check_namespace(namespace)
    target = options.get_target(context)
    choose_selectors((), pods or ())  # What isn't one is refused before anything is asked.
    sources = asyncio.run(read_sources(target, namespace))
    found = write(
        engine,
        [namespace] if namespace else sorted(sources.states),
        sources.states,
        choose_selectors(sources.pods, pods or ()),
        as_explicit=explicit,
        system_namespace=target.system_namespace,
    )
    if as_json:
        _EXPORT.print(found)
    else:
        typer.echo(write_export(found), nl=False)
    for each in (*sources.notes, *map(str, found.losses)):
        print_note(each)
    if sources.notes or not found.is_exact:
        raise typer.Exit(ExitCode.CHECK_FAILED)
