"""``touchmark policy``: apply, get, delete, with YAML in the shape of the Kubernetes objects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.where import Where, takes_where

if TYPE_CHECKING:
    from cli.admin_client import AdminClient
    from shared.model.policy_documents import Document

app = typer.Typer(no_args_is_help=True, help="Apply, get and delete policies and approved programs as YAML.")

_File = Annotated[list[Path], typer.Option("--filename", "-f", help="A YAML file, or - for standard input; several.")]


@app.command()
@takes_where
def apply(filename: _File, as_json: options.Json = False, *, where: Where) -> None:
    """Create or replace the objects of YAML files. Nothing is applied when one of them is at fault."""
    from cli.conversation import talk
    from cli.output import print_json, print_line

    documents = _read_documents(filename)

    async def converse(client: AdminClient) -> list[dict[str, object]]:
        return [await _apply_one(client, document) for document in documents]

    results = talk(where, converse)
    if as_json:
        print_json(results)
        return
    for result in results:
        print_line(f"{result['kind']} {result['namespace']}/{result['name']} applied (version {result['version']})")


@app.command()
@takes_where
def get(
    namespace: Annotated[str, typer.Argument(help="Only this namespace.")] = "",
    as_json: options.Json = False,
    *,
    where: Where,
) -> None:
    """Print policies and approved programs, as YAML that `policy apply` takes; with --json as a list."""
    import yaml

    from cli.conversation import talk
    from cli.output import print_json, print_line
    from shared.model.policy_documents import MeshPolicyDocument, ProgramDocument, format_documents

    async def converse(client: AdminClient) -> list[Document]:
        policies = (await client.list_policies(namespace)).policies
        programs = (await client.list_programs(namespace)).programs
        return [
            *(
                MeshPolicyDocument(namespace=p.namespace, mode=p.mode, group_label=p.group_label, rules=p.rules)
                for p in policies
            ),
            *(
                ProgramDocument(
                    namespace=p.namespace,
                    name=p.name,
                    service_account=p.service_account,
                    programs=p.programs,
                    weak=p.weak,
                )
                for p in programs
            ),
        ]

    documents = talk(where, converse)
    if as_json:
        print_json(list(yaml.safe_load_all(format_documents(documents))) if documents else [])
    elif documents:
        print_line(format_documents(documents).rstrip())
    else:
        print_line("# nothing there")


@app.command()
@takes_where
def delete(
    namespace: Annotated[str, typer.Argument(help="Delete this namespace's policy.")] = "",
    filename: Annotated[
        list[Path] | None,
        typer.Option("--filename", "-f", help="Delete the objects that this YAML file names; several."),
    ] = None,
    as_json: options.Json = False,
    *,
    where: Where,
) -> None:
    """Delete a namespace's policy, or the objects that a file names. The namespace keeps its mode."""
    from cli.conversation import talk
    from cli.output import print_json, print_line
    from shared.model.errors import InputError
    from shared.model.policy_documents import ProgramDocument

    if bool(namespace) == bool(filename):
        raise InputError("name a namespace, or files with -f", hint="touchmark policy delete shop")
    documents = _read_documents(filename or [])

    async def converse(client: AdminClient) -> list[str]:
        if namespace:
            await client.delete_policy(namespace)
            return [f"MeshPolicy {namespace}/default"]
        deleted = []
        for document in documents:
            if isinstance(document, ProgramDocument):
                await client.remove_program(document.namespace, document.name)
                deleted.append(f"Program {document.namespace}/{document.name}")
            else:
                await client.delete_policy(document.namespace)
                deleted.append(f"MeshPolicy {document.namespace}/default")
        return deleted

    deleted = talk(where, converse)
    if as_json:
        print_json({"deleted": deleted})
    else:
        for text in deleted:
            print_line(f"{text} deleted")


def _read_documents(paths: list[Path]) -> list[Document]:
    from shared.model.errors import InputError
    from shared.model.policy_documents import parse_documents

    documents: list[Document] = []
    for path in paths:
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"can't read {path}: {error.strerror}", hint="name a YAML file, or - for standard input"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} isn't UTF-8 text") from error
        documents += parse_documents(text, "standard input" if str(path) == "-" else str(path))
    return documents


async def _apply_one(client: AdminClient, document: Document) -> dict[str, object]:
    from shared.model.admin import PolicyRequest, ProgramRequest
    from shared.model.policy_documents import ProgramDocument

    if isinstance(document, ProgramDocument):
        program = await client.approve_programs(
            ProgramRequest(
                namespace=document.namespace,
                service_account=document.service_account,
                programs=document.programs,
                name=document.name,
                weak=document.weak,
                approved_by="policy apply",
            )
        )
        return {"kind": "Program", "namespace": program.namespace, "name": program.name, "version": program.version}
    policy = await client.put_policy(
        PolicyRequest(
            namespace=document.namespace, rules=document.rules, group_label=document.group_label, mode=document.mode
        )
    )
    return {"kind": "MeshPolicy", "namespace": policy.namespace, "name": "default", "version": policy.version}
