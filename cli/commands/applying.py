"""What comes with writing policies: lint, the check of a switch to explicit mode, and what was written. Prints.

Belongs here: what ``policy apply`` and ``policy draft --promote`` share. Doesn't: writing (``cli/backends``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.backends.base import Applied, PolicyBackend
    from cli.commands.shapes import AppliedView
    from cli.text.json_result import JsonResult
    from shared.model.adoption.lint import LintFinding
    from shared.model.policy.documents import Document, MeshPolicyDocument
    from shared.model.wire.admin import PolicyCandidateRequest


async def check_lint(backend: PolicyBackend, documents: Sequence[Document], *, is_accepted: bool) -> None:
    """Say what lint finds in documents, and refuse errors; not those of drafts, which aren't put in force.

    Arguments:
        is_accepted: errors are only said.

    Raises:
        RefusedError: there are errors.
    """
    from cli.text.output import print_note
    from shared.model.policy.documents import DraftDocument

    findings = await lint_documents(backend, documents)
    for finding in findings:
        print_note(describe_finding(finding))
    if not is_accepted and any(isinstance(each, DraftDocument) for each in documents):
        findings = await lint_documents(backend, [each for each in documents if not isinstance(each, DraftDocument)])
    if not is_accepted:
        require_sound(findings, "mend what is marked ✗ above")


def require_sound(findings: Sequence[LintFinding], remedy: str) -> None:
    """Refuse errors of lint.

    Arguments:
        remedy: what to do about them.

    Raises:
        RefusedError: there are some; the first one is named.
    """
    from shared.model.adoption.lint import Level
    from shared.model.errors import RefusedError

    errors = [each for each in findings if each.level is Level.ERROR]
    if errors:
        count = f"{len(errors)} error{'s' if len(errors) != 1 else ''}"
        raise RefusedError(
            f"nothing is applied: `policy lint` finds {count}: {describe_finding(errors[0])}",
            hint=f"{remedy}; --ignore-lint applies it all the same",
        )


async def lint_documents(backend: PolicyBackend, documents: Sequence[Document]) -> list[LintFinding]:
    """Return what lint finds in documents, by what exists beside them."""
    from msgspec.structs import replace

    from cli.backends.surroundings import add_documents, read_drafted_states, read_states
    from shared.model.adoption.lint import lint as find

    states, drafted = read_states(documents), read_drafted_states(documents)
    if not any(state.rules or state.workload_modes for state in (*states, *drafted)):
        return []
    around = add_documents(await backend.look_around(), documents)
    found = [finding for state in states for finding in find(state, around)]
    in_drafts = [finding for state in drafted for finding in find(state, around)]
    return found + [replace(each, message=f"in the draft: {each.message}") for each in in_drafts]


def describe_finding(finding: LintFinding) -> str:
    """Write a finding as a line."""
    from cli.text.printable import escape
    from shared.model.adoption.lint import Level

    mark = "✗" if finding.level is Level.ERROR else "!"
    hint = f" ({finding.hint})" if finding.hint else ""
    subject = f"{finding.namespace}/{finding.rule}" if finding.rule else finding.namespace
    return escape(f"{mark} {subject}: {finding.code}: {finding.message}{hint}")


async def check_explicit(
    backend: PolicyBackend, documents: Sequence[Document], *, is_forced: bool, target_options: str
) -> None:
    """Run the check of ``touchmark mode NAMESPACE explicit`` for each policy that would switch its namespace.

    Arguments:
        target_options: what a command needs to reach the same CA.

    Raises:
        RefusedError: connections would be refused, by the rules and approvals of these documents, or it isn't known.
    """
    from cli.backends.target import add_options
    from cli.commands.mode_switch import list_newly_explicit
    from cli.text.output import print_note
    from shared.model.errors import BlockedError, NotFoundError, RefusedError, UnavailableError
    from shared.model.policy.documents import MeshPolicyDocument
    from shared.model.policy.rules import Mode

    for document in documents:
        if not isinstance(document, MeshPolicyDocument):
            continue
        if document.mode is not Mode.EXPLICIT and document.workload_modes is None:
            continue
        namespace, found = document.namespace, []
        try:
            state = await backend.get_mode(namespace)
            candidate = _make_candidate(document, documents)
            for name in list_newly_explicit(state, document.mode, document.workload_modes):
                subject = f"{namespace}/{name}" if name else ""
                found.append(await backend.assess_candidate(namespace, candidate, since_s=86_400, workload=subject))
        except (NotFoundError, RefusedError, UnavailableError) as error:
            if not is_forced:
                raise RefusedError(
                    f"nothing is applied: what explicit mode would refuse in {namespace} isn't known: {error.message}",
                    hint="--force applies it without looking",
                ) from error
            print_note(f"can't tell what explicit mode would refuse in {namespace}: {error.message}")
            continue
        for readiness in found:
            if readiness.is_safe or is_forced:
                continue
            count = len(readiness.causes)
            kind = BlockedError if count else RefusedError
            option = f" --workload {readiness.workload.partition('/')[2]}" if readiness.workload else ""
            command = add_options(f"touchmark ready {namespace}{option}", target_options)
            raise kind(
                f"nothing is applied: {readiness.workload or namespace} would become explicit, "
                + (
                    f"which would refuse live traffic ({count} change{'s are' if count != 1 else ' is'} missing)"
                    if count
                    else "and too little was seen to say that it is safe"
                ),
                hint=f"`{command}` shows what is missing; --force applies it anyway",
            )


def _make_candidate(document: MeshPolicyDocument, documents: Sequence[Document]) -> PolicyCandidateRequest:
    from shared.model.policy.documents import ProgramDocument
    from shared.model.wire.admin import PolicyCandidateRequest, ProgramRequest

    return PolicyCandidateRequest(
        rules=document.rules,
        group_label=document.group_label,
        requires=document.requires,
        workload_modes=document.workload_modes,
        programs=tuple(
            ProgramRequest(
                namespace=each.namespace, service_account=each.service_account, programs=each.programs, weak=each.weak
            )
            for each in documents
            if isinstance(each, ProgramDocument)
        ),
    )


def report_applied(
    results: list[Applied], printer: JsonResult[list[AppliedView]] | None, *, target_options: str
) -> None:
    """Print what was written; end with exit code 9 where the CA hasn't confirmed it.

    Arguments:
        printer: prints it as JSON; None: as lines.
        target_options: what a command needs to reach the same CA.
    """
    from cli.backends.target import add_options
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note

    if printer is not None:
        printer.print([_describe(each) for each in results])
    for each in results if printer is None else ():
        version = "" if each.version is None else f" (version {each.version})"
        if each.is_draft:
            print_line(f"draft {each.kind} {each.namespace}/{each.name} written{version}; nothing of it is in force")
            command = add_options(f"touchmark policy draft {each.namespace}", target_options)
            print_note(f"  `{command}` shows what it would decide otherwise")
        else:
            print_line(f"{each.kind} {each.namespace}/{each.name} applied{version}")
        if each.note:
            print_note(f"  {each.note}")
        if not each.is_confirmed:
            print_note(f"  the CA hasn't {'taken it' if each.is_draft else 'put it in force'} yet; is it running?")
    if not all(each.is_confirmed for each in results):
        raise typer.Exit(ExitCode.DEADLINE)


def _describe(applied: Applied) -> AppliedView:
    from cli.commands.shapes import AppliedView

    return AppliedView(
        kind=applied.kind,
        namespace=applied.namespace,
        name=applied.name,
        version=applied.version,
        is_confirmed=applied.is_confirmed,
        is_draft=applied.is_draft,
        note=applied.note,
    )
