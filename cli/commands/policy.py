"""``touchmark policy``: lint, diff, suggest, apply, get, delete, export; YAML as the Kubernetes objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.commands.applying import check_explicit, check_lint, describe_finding, lint_documents, report_applied
from cli.commands.draft import draft
from cli.commands.export import export
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from typing import Any

    from cli.backends.base import Applied, PolicyBackend
    from cli.commands.shapes import AppliedView, ObjectsDeleted
    from shared.model.adoption.lint import LintFinding
    from shared.model.policy.documents import Document
    from shared.model.wire.admin import PolicyDifference

_DIFFERENCE: JsonResult[PolicyDifference] = JsonResult()
_LINTED: JsonResult[list[LintFinding]] = JsonResult()
_APPLIED: JsonResult[list[AppliedView]] = JsonResult(
    note="in Kubernetes `version` is null for a Program, and until the CA has put a MeshPolicy in force"
)
_OBJECTS: JsonResult[list[dict[str, Any]]] = JsonResult(note="as in YAML: `{apiVersion, kind, metadata, spec}`")
_DELETED: JsonResult[ObjectsDeleted] = JsonResult()

app = typer.Typer(
    no_args_is_help=True, help="Lint, compare, apply, get, delete and export policies and approved programs as YAML."
)
app.command(cls=options.TargetCommand)(export)
app.command(cls=options.TargetCommand)(draft)

_File = Annotated[
    list[Path], typer.Option("--filename", "-f", help="A YAML file, or - for standard input; repeatable.")
]


@app.command(cls=options.TargetCommand)
@prints(_LINTED)
def lint(
    context: typer.Context,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|NAMESPACE]…",
            help="YAML files (- for standard input), or namespaces; all that are in force by default.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail for warnings.")] = False,
    as_json: options.Json = False,
) -> None:
    """Find what policies say in vain: unknown names, rules that never match, are shadowed, redundant or contradictory.

    References are compared with the namespaces, workloads, Services and approved programs that exist, as far as you may
    list them. Exit code 3 if there is an error (with --strict: or a warning).

    Examples: touchmark policy lint · touchmark policy lint shop · touchmark policy lint rules.yaml --strict -k
    """
    from cli.backends.session import work_on_policies
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line
    from shared.model.adoption.lint import Level

    paths = [Path(each) for each in subjects or () if _is_file(each)]
    names = [each for each in subjects or () if not _is_file(each)]
    documents = _read_documents(paths)

    async def converse(backend: PolicyBackend) -> list[LintFinding]:
        judged = list(documents)
        if names or not paths:
            judged += await _read_current(backend, names)
        return await lint_documents(backend, judged)

    findings = work_on_policies(options.get_target(context), converse)
    if as_json:
        _LINTED.print(findings)
    else:
        for each in findings:
            print_line(describe_finding(each))
        if not findings:
            print_line("✓ nothing found")
    if any(strict or each.level is Level.ERROR for each in findings):
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _is_file(text: str) -> bool:
    return text == "-" or "/" in text or text.endswith((".yaml", ".yml", ".json")) or Path(text).is_file()


async def _read_current(backend: PolicyBackend, names: list[str]) -> list[Document]:
    import yaml

    from shared.model.policy.documents import parse_documents

    found: list[Document] = []
    for name in names or [""]:
        plain = await backend.list_objects(name)
        if plain:
            found += parse_documents(yaml.safe_dump_all(plain), name or "the policies in force")
    return found


@app.command(cls=options.TargetCommand)
@prints(_DIFFERENCE)
def diff(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML files, or - for standard input (the default).", metavar="FILE…")
    ] = None,
    since: options.Since = "24h",
    as_json: options.Json = False,
) -> None:
    """Show what policies in files would change for connections that were seen, before they are applied.

    What was seen of their namespaces is decided by the policies in force and by those in the files, with the
    evaluator that sidecars enforce with: newly denied, newly allowed, and how many connections stay as they are. In a
    permissive namespace a connection is newly denied when it would be marked. A Program in a file replaces the one of
    its name.

    Exit code 0: nothing is newly denied; 3: something is; 10: nothing is, but some of it isn't known.

    Examples: touchmark policy diff rules.yaml · touchmark policy suggest shop | touchmark policy diff ·
    touchmark policy diff rules.yaml --since 7d --json -k
    """
    from cli.backends.session import ask_admin
    from cli.commands.difference import make_request, show_difference
    from cli.text.duration import parse_duration
    from cli.text.exit_codes import ExitCode
    from shared.model.errors import InputError

    documents = _read_documents(files or [Path("-")])
    since_s = parse_duration(since, "--since")
    if not documents:
        raise InputError("the files hold no MeshPolicy and no Program", hint="touchmark policy diff rules.yaml")
    request = make_request(documents)
    found = ask_admin(options.get_target(context), lambda client: client.compare_policies(request, since_s=since_s))
    if as_json:
        _DIFFERENCE.print(found)
    else:
        show_difference(found)
    if found.denied:
        raise typer.Exit(ExitCode.CHECK_FAILED)
    if found.unknown or found.unknowns:
        raise typer.Exit(ExitCode.UNKNOWN)


@app.command(cls=options.TargetCommand)
def suggest(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    since: options.Since = "24h",
) -> None:
    """Print the MeshPolicies that a namespace's seen connections need: the rules in force, and those that are missing.

    Each missing rule has its evidence in a comment; programs to approve are commands in comments, for review. What no
    rule changes stands apart at the end. Nothing is applied.

    Example: touchmark policy suggest shop --since 7d > shop.yaml && touchmark policy lint shop.yaml
    """
    import os

    from cli.backends.session import work_on_policies
    from cli.backends.target import write_shell_options
    from cli.commands.suggestion import write_suggestion
    from cli.commands.unknown_namespace import check_known
    from cli.text.duration import parse_duration
    from cli.text.output import print_line
    from shared.model.identity.identity import check_namespace
    from shared.model.policy.documents import MeshPolicyDocument

    check_namespace(namespace)
    since_s = parse_duration(since, "--since")
    target = options.get_target(context)

    async def converse(backend: PolicyBackend) -> str:
        readiness = await backend.get_readiness(namespace, since_s=since_s)
        if not readiness.causes:
            await check_known(backend, namespace)
        names = {namespace} | {each.fix.namespace for each in readiness.causes if each.fix and each.fix.namespace}
        current = await _read_current(backend, sorted(names))
        policies = {each.namespace: each for each in current if isinstance(each, MeshPolicyDocument)}
        return write_suggestion(readiness, policies, target_options=write_shell_options(target, os.environ))

    print_line(work_on_policies(target, converse).rstrip())


@app.command(cls=options.TargetCommand)
@prints(_APPLIED)
def apply(
    context: typer.Context,
    filename: _File,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Apply although explicit mode would refuse live traffic.",
        ),
    ] = False,
    as_draft: Annotated[
        bool, typer.Option("--draft", help="Write MeshPolicies as drafts, which sidecars evaluate and don't enforce.")
    ] = False,
    ignore_lint: options.IgnoreLint = False,
    force_conflicts: options.ForceConflicts = False,
    if_version: Annotated[
        int | None,
        typer.Option(
            "--if-version",
            min=0,
            help="Only over this version of the namespace, as `policy apply`, `mode` and `ready` say it; for one"
            " MeshPolicy alone.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Create or replace objects from YAML files. If one of them is invalid, none is applied.

    What `policy lint` finds in them is said; where one of it is an error, nothing is applied (exit code 7), but with
    --ignore-lint. Where a MeshPolicy with `mode: explicit` would switch its namespace, the check of `touchmark mode
    NAMESPACE explicit` is run first, by the rules and approvals in the files: exit code 7 if it fails, and nothing is
    applied. --force passes over that check, and over nothing that lint finds.

    In Kubernetes they are written by server-side apply, after a dry run of all of them. Exit code 9 if the CA hasn't
    put them in force yet.

    A policy is replaced as a whole: --if-version fails (exit code 5) if somebody else has changed the namespace since.

    With --draft nothing is put in force: `touchmark policy draft NAMESPACE` shows what would be decided otherwise. A
    namespace has at most one draft; another one takes its place. The CA keeps it; in Kubernetes a MeshPolicy named
    `draft` with `draft: true`, applied without --draft, is one as an object, which no command changes.

    Examples: touchmark policy apply -f rules.yaml · touchmark policy apply -f rules.yaml --if-version 16 · touchmark
    policy apply -f rules.yaml --draft
    """
    import os

    from cli.backends.session import work_on_policies
    from cli.backends.target import write_shell_options
    from cli.commands.draft import apply_drafts, check_drafts
    from cli.text.output import print_note
    from shared.model.errors import InputError

    documents = _read_documents(filename)
    if if_version is not None:
        _require_one_policy(documents)
    if not documents:
        print_note("nothing is applied: the files hold no MeshPolicy and no Program")
    if as_draft and (force or if_version is not None):
        raise InputError(
            "--draft goes without --force and --if-version: nothing is put in force",
            hint="`touchmark policy draft NAMESPACE --promote` puts it in force, with --force or without",
        )
    drafts = check_drafts(documents) if as_draft else []
    target = options.get_target(context)
    where = write_shell_options(target, os.environ)

    async def converse(backend: PolicyBackend) -> list[Applied]:
        await check_lint(backend, documents, is_accepted=ignore_lint or as_draft)
        if as_draft:
            return await apply_drafts(backend, drafts)
        await check_explicit(backend, documents, is_forced=force, target_options=where)
        return await backend.apply(documents, is_forced=force, expected_version=if_version)

    results = work_on_policies(target, converse, is_forced=force_conflicts)
    report_applied(results, _APPLIED if as_json else None, target_options=where)


def _require_one_policy(documents: list[Document]) -> None:
    from shared.model.errors import InputError
    from shared.model.policy.documents import MeshPolicyDocument

    if len(documents) != 1 or not isinstance(documents[0], MeshPolicyDocument):
        raise InputError(
            "--if-version is for one MeshPolicy alone: the version is its namespace's, which each object raises",
            hint="apply the other objects by themselves",
        )


@app.command(cls=options.TargetCommand)
@prints(_OBJECTS)
def get(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Only this namespace.")] = "",
    as_json: options.Json = False,
) -> None:
    """Print policies and approved programs as YAML that `policy apply` accepts, or with --json as a list.

    Examples: touchmark policy get · touchmark policy get shop · touchmark policy get shop --json
    """
    import yaml

    from cli.backends.session import work_on_policies
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.output import print_line

    target = options.get_target(context)
    found = work_on_policies(target, lambda backend: backend.list_objects(namespace))
    if not found:
        refuse_unknown(target, namespace)
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
    """Delete a namespace's policy, or the objects in a file. The namespace keeps its mode.

    Examples: touchmark policy delete shop · touchmark policy delete -f rules.yaml
    """
    from cli.backends.session import work_on_policies
    from cli.commands.shapes import ObjectsDeleted
    from cli.text.output import print_line
    from shared.model.errors import InputError
    from shared.model.policy.documents import DraftDocument, ProgramDocument, name_document

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
                await backend.delete_policy(document.namespace, is_draft=isinstance(document, DraftDocument))
                deleted.append(f"MeshPolicy {document.namespace}/{name_document(document)}")
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
