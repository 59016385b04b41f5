"""``touchmark policy``: apply, get, delete, with YAML in the shape of the Kubernetes objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from typing import Any

    from cli.backends.base import Applied, PolicyBackend
    from cli.commands.shapes import AppliedView, ObjectsDeleted
    from shared.model.policy.documents import Document

_APPLIED: JsonResult[list[AppliedView]] = JsonResult(
    note="in Kubernetes `version` is null for a Program, and until the CA has put a MeshPolicy in force"
)
_OBJECTS: JsonResult[list[dict[str, Any]]] = JsonResult(note="as in YAML: `{apiVersion, kind, metadata, spec}`")
_DELETED: JsonResult[ObjectsDeleted] = JsonResult()

app = typer.Typer(no_args_is_help=True, help="Apply, get and delete policies and approved programs as YAML.")

_File = Annotated[
    list[Path], typer.Option("--filename", "-f", help="A YAML file, or - for standard input; repeatable.")
]


@app.command(cls=options.TargetCommand)
@prints(_APPLIED)
def apply(
    context: typer.Context,
    filename: _File,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Create or replace objects from YAML files. If one of them is invalid, none is applied.

    In Kubernetes they are written by server-side apply, after a dry run of all of them. Exit code 9 if the CA hasn't
    put them in force yet.
    """
    from cli.backends.session import work_on_policies
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note

    documents = _read_documents(filename)
    results = work_on_policies(
        options.get_target(context), lambda backend: backend.apply(documents), is_forced=force_conflicts
    )
    if as_json:
        _APPLIED.print([_describe(each) for each in results])
    for each in results if not as_json else ():
        version = "" if each.version is None else f" (version {each.version})"
        print_line(f"{each.kind} {each.namespace}/{each.name} applied{version}")
        if each.note:
            print_note(f"  {each.note}")
        if not each.is_confirmed:
            print_note("  the CA hasn't put it in force yet; is it running?")
    if not all(each.is_confirmed for each in results):
        raise typer.Exit(ExitCode.DEADLINE)


@app.command(cls=options.TargetCommand)
@prints(_OBJECTS)
def get(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Only this namespace.")] = "",
    as_json: options.Json = False,
) -> None:
    """Print policies and approved programs as YAML that `policy apply` accepts, or with --json as a list."""
    import yaml

    from cli.backends.session import work_on_policies
    from cli.text.output import print_line

    found = work_on_policies(options.get_target(context), lambda backend: backend.list_objects(namespace))
    if as_json:
        _OBJECTS.print(found)
    elif found:
        print_line(yaml.safe_dump_all(found, sort_keys=False, allow_unicode=True, width=120).rstrip())
    else:
        print_line("# no policies or programs")


@app.command(cls=options.TargetCommand)
@prints(_DELETED)
def delete(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Delete this namespace's policy.")] = "",
    filename: Annotated[
        list[Path] | None,
        typer.Option("--filename", "-f", help="Delete the objects in this YAML file; repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Delete a namespace's policy, or the objects in a file. The namespace keeps its mode."""
    from cli.backends.session import work_on_policies
    from cli.commands.shapes import ObjectsDeleted
    from cli.text.output import print_line
    from shared.model.errors import InputError
    from shared.model.policy.documents import ProgramDocument

    if bool(namespace) == bool(filename):
        raise InputError("give a namespace, or files with -f", hint="touchmark policy delete shop")
    documents = _read_documents(filename or [])

    async def converse(backend: PolicyBackend) -> list[str]:
        if namespace:
            await backend.delete_policy(namespace)
            return [f"MeshPolicy {namespace}/default"]
        deleted = []
        for document in documents:
            if isinstance(document, ProgramDocument):
                await backend.remove_program(document.namespace, document.name)
                deleted.append(f"Program {document.namespace}/{document.name}")
            else:
                await backend.delete_policy(document.namespace)
                deleted.append(f"MeshPolicy {document.namespace}/default")
        return deleted

    deleted = work_on_policies(options.get_target(context), converse)
    if as_json:
        _DELETED.print(ObjectsDeleted(deleted=deleted))
    else:
        for text in deleted:
            print_line(f"{text} deleted")


def _read_documents(paths: list[Path]) -> list[Document]:
    from cli.machine.input_files import read_texts
    from shared.model.policy.documents import parse_documents

    return [document for text, source in read_texts(paths) for document in parse_documents(text, source)]


def _describe(applied: Applied) -> AppliedView:
    from cli.commands.shapes import AppliedView

    return AppliedView(
        kind=applied.kind,
        namespace=applied.namespace,
        name=applied.name,
        version=applied.version,
        is_confirmed=applied.is_confirmed,
    )
