"""``touchmark policy draft``, and ``policy apply --draft``: policies that are evaluated beside those in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.policy.rules import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.backends.base import Applied, PolicyBackend
    from cli.commands.shapes import AppliedView, ObjectsDeleted
    from shared.model.adoption.fixes import Fix
    from shared.model.policy.documents import Document, MeshPolicyDocument
    from shared.model.wire.admin import DecidedOtherwise, DraftView

_SHOWN: JsonResult[DraftView] = JsonResult()
_DROPPED: JsonResult[ObjectsDeleted] = JsonResult(when="--drop")
_APPLIED: JsonResult[list[AppliedView]] = JsonResult(when="--promote or --mode", note="as of `policy apply`")


@prints(_SHOWN, _DROPPED, _APPLIED)
def draft(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Write a draft: the policy in force, in this mode.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --mode: in the place of a draft that is there.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the draft.")] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Put the draft in force, and drop it.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --promote: despite live traffic that would be refused, or a newer policy.",
        ),
    ] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the draft as YAML that `policy apply` accepts.")] = False,
    ignore_lint: options.IgnoreLint = False,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Show a namespace's draft policy, and what the sidecars would have decided otherwise by it since it was written.

    `policy apply -f FILE --draft` writes it, --mode a draft that changes nothing but the mode. The sidecars evaluate
    it beside the policy in force and enforce nothing of it. --promote runs the checks of `policy apply` first: exit
    code 7 if they fail, 5 if the policy in force has changed since the draft was written.

    In Kubernetes the MeshPolicy named `draft` is the draft, if there is one: edit or delete that object to change it;
    --mode and --drop refuse to (exit code 5). --promote writes its content as `default`, over the object that was
    looked at, and then deletes it. --mode never takes the place of another draft, but with --replace.

    Exit code 0: nothing is newly denied; 3: something is; 10: nothing is, but no verdict has come yet, not every
    sidecar evaluates it, records were lost, or it asks for what sidecars can't tell.

    Examples: touchmark policy draft shop · touchmark policy draft shop --promote · touchmark decisions --draft-differs
    """
    import os

    from cli.backends.session import work_on_policies
    from cli.backends.target import write_options, write_shell_options
    from cli.cluster.draft_object import make_document
    from cli.commands.applying import check_explicit, check_lint, report_applied
    from cli.commands.shapes import ObjectsDeleted
    from cli.text.output import print_line
    from shared.model.errors import ConflictError, InputError
    from shared.model.identity.identity import check_namespace
    from shared.model.policy.documents import DraftDocument, format_documents

    check_namespace(namespace)
    if (mode is not None) + drop + promote + yaml > 1 or (yaml and as_json):
        raise InputError(
            "--mode, --drop, --promote and --yaml can't be combined, nor --yaml and --json", hint="choose one"
        )
    if replace and mode is None:
        raise InputError("--replace goes with --mode", hint=f"touchmark policy draft {namespace} --mode explicit")
    if (force or ignore_lint) and not promote:
        raise InputError(
            "--force and --ignore-lint go with --promote", hint="a draft that isn't put in force refuses nothing"
        )
    target = options.get_target(context)
    where = write_shell_options(target, os.environ)
    if mode is not None:
        applied = work_on_policies(target, lambda backend: _draft_mode(backend, namespace, mode, is_first=not replace))
        report_applied([applied], _APPLIED if as_json else None, target_options=where)
        return
    if drop:
        work_on_policies(target, lambda backend: backend.drop_draft(namespace))
        if as_json:
            _DROPPED.print(ObjectsDeleted(deleted=[f"draft {namespace}"]))
        else:
            print_line(f"draft of {namespace} dropped")
        return
    if promote:

        async def put_in_force(backend: PolicyBackend) -> Applied:
            seen = await backend.look_at_draft(namespace)
            view = seen.view
            if view.is_outdated and not force:
                raise ConflictError(
                    f"the policy in force in {namespace} has changed since the draft was written: it would take that"
                    " back",
                    hint="write the draft again; --force puts it in force all the same",
                )
            document = make_document(view)
            await check_lint(backend, [document], is_accepted=ignore_lint)
            await check_explicit(backend, [document], is_forced=force, target_options=where)
            return await backend.promote_draft(seen, is_forced=force)

        applied = work_on_policies(target, put_in_force, is_forced=force_conflicts)
        report_applied([applied], _APPLIED if as_json else None, target_options=where)
        return
    view = work_on_policies(target, lambda backend: backend.get_draft(namespace))
    if yaml:
        document = make_document(view)
        print_line(format_documents([DraftDocument(policy=document) if view.is_object else document]).rstrip())
        return
    if as_json:
        _SHOWN.print(view)
    else:
        show(view, target_options=write_options(target))
    _exit(view)


async def _draft_mode(backend: PolicyBackend, namespace: str, mode: Mode, *, is_first: bool) -> Applied:
    """Write the policy in force as a draft, in another mode."""
    import yaml
    from msgspec.structs import replace

    from shared.model.policy.documents import MeshPolicyDocument, parse_documents

    document = MeshPolicyDocument(namespace=namespace)
    for each in parse_documents(yaml.safe_dump_all(await backend.list_objects(namespace)), "the policy in force"):
        if isinstance(each, MeshPolicyDocument):
            document = each
    (applied,) = await apply_drafts(backend, [replace(document, mode=mode, trial=None)], is_first=is_first)
    return applied


def _exit(view: DraftView) -> None:
    from cli.text.exit_codes import ExitCode

    if view.denied:
        raise typer.Exit(ExitCode.CHECK_FAILED)
    is_complete = not (view.is_truncated or view.uncounted or view.is_partly_unknown)
    if not is_complete or view.evaluated_since is None or view.evaluating < max(1, view.sidecars):
        raise typer.Exit(ExitCode.UNKNOWN)


def show(view: DraftView, *, target_options: str = "") -> None:
    """Print a draft, who evaluates it, and what it decides otherwise."""
    from cli.cluster.draft_object import make_document
    from cli.commands.difference import count_connections, describe
    from cli.text.duration import format_time
    from cli.text.output import print_line
    from cli.text.printable import escape
    from shared.model.policy.modes import name_modes

    draft = view.draft
    mode = f"mode {draft.mode}" if draft.mode is not None else "the mode in force"
    rules = f"{len(draft.rules)} rule{'s' if len(draft.rules) != 1 else ''}"
    print_line(f"draft {draft.number} of {view.namespace}, written {format_time(view.written)}: {mode}, {rules}")
    if draft.workload_modes:
        print_line(f"modes of workloads: {escape(name_modes(draft.workload_modes))}")
    if view.is_object:
        print_line(f"it is what MeshPolicy {view.namespace}/draft says: edit that object, or delete it")
    since = f"; its first verdict is of {format_time(view.evaluated_since)}" if view.evaluated_since else ""
    print_line(f"{view.evaluating} of {view.sidecars} sidecars evaluate it{since}")
    if view.waiting:
        waiting = escape(", ".join(view.waiting))
        print_line(f"? not yet, or of an older release: {waiting}{', …' if _are_more(view) else ''}")
    named: set[Fix] = set()
    for mark, name, changed in (("✗", "newly denied", view.denied), ("+", "newly allowed", view.allowed)):
        if changed:
            print_line(f"{mark} {name}: {count_connections(changed)}")
        for each in changed:
            print_line(f"  {describe(each)}")
            for line in _describe_new_fixes(each, view, named, target_options):
                print_line(f"    {line}")
    if view.settled:
        print_line(f"newly denied before, and allowed by now: {count_connections(view.settled)}")
        for each in view.settled:
            print_line(f"  {describe(each)}")
    if not view.evaluating:
        print_line("? no sidecar evaluates it yet, so nothing is known")
    elif view.evaluated_since is None:
        print_line("? no verdict of it has come from the namespace's own sidecars yet, so nothing is known")
    elif not view.denied:
        print_line("✓ no connection with a verdict of it would be newly denied")
    print_line(f"unchanged: {view.unchanged} connection{'s' if view.unchanged != 1 else ''}")
    if view.uncounted:
        print_line(f"? {view.uncounted} more were lost, or had no room: nobody knows what it says of them")
    if view.is_partly_unknown:
        print_line("? it asks for what sidecars look at only while it is in force: some connections have no verdict")
    if view.is_truncated:
        print_line("? there is more than is shown")
    if view.is_outdated:
        print_line("? the policy in force has changed since it was written: to promote it takes that back")
    for note in describe_limits(make_document(view)):
        print_line(f"? {note}")


def _describe_new_fixes(each: DecidedOtherwise, view: DraftView, named: set[Fix], target_options: str) -> list[str]:
    """Return the lines of what would let connections pass by the draft, but for what was named before."""
    from cli.commands.ready import describe_fix
    from cli.ui.drafts import find_path, head_rule
    from shared.model.adoption.fixes import FixKind

    lines: list[str] = []
    for fix in each.fixes:
        if fix in named:
            continue
        named.add(fix)
        described = describe_fix(fix, each.reason, path=find_path(each, fix), target_options=target_options)
        if fix.kind is FixKind.RULE and fix.namespace == view.namespace:
            described[0] = head_rule(view.namespace, is_object=view.is_object)
        lines += described
    return lines


def _are_more(view: DraftView) -> bool:
    return view.sidecars - view.evaluating > len(view.waiting)


def describe_limits(document: MeshPolicyDocument) -> list[str]:
    """Say what sidecars can't tell of a draft."""
    from shared.model.policy.rules import Requirement, list_hosts

    limits = []
    if Requirement.OWN_SOCKETS in document.requires:
        limits.append(
            "`requires: ownSockets` is looked at only while it is in force: without it, no verdict says allow"
        )
    if list_hosts(document.rules):
        limits.append(
            "`hosts` are resolved only while the policy in force names them: else what they allow isn't known"
        )
    return limits


def check_drafts(documents: Sequence[Document]) -> list[MeshPolicyDocument]:
    """Return documents that may be drafts.

    Raises:
        InputError: one of them may not.
    """
    from shared.model.errors import InputError
    from shared.model.policy.documents import DraftDocument, ProgramDocument

    named = [each for each in documents if not isinstance(each, ProgramDocument)]
    drafts = [each.policy if isinstance(each, DraftDocument) else each for each in named]
    if len(drafts) < len(documents):
        raise InputError(
            "a Program can't be a draft: approvals count for the policy in force and for the draft alike",
            hint="leave it out of the file, or apply it without --draft",
        )
    if any(each.trial is not None for each in drafts):
        raise InputError(
            "a draft has no spec.trial: nothing of it is in force", hint="leave spec.trial out of the file"
        )
    return drafts


async def apply_drafts(
    backend: PolicyBackend, documents: Sequence[MeshPolicyDocument], *, is_first: bool = False
) -> list[Applied]:
    """Write drafts one after the other.

    Arguments:
        is_first: none in the place of another one.
    """
    from cli.backends.base import Applied

    applied = []
    for each in documents:
        state = await backend.put_draft(each, is_first=is_first)
        applied.append(
            Applied(
                kind="MeshPolicy",
                namespace=each.namespace,
                name="default",
                version=state.version,
                is_draft=True,
                note="; ".join(describe_limits(each)),
            )
        )
    return applied
