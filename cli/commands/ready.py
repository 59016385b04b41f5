"""``touchmark ready``: is explicit mode safe for a namespace, and what is missing.

Belongs here: the verb, and how a readiness and its fixes are printed, also for ``touchmark mode``. Doesn't: the answer,
which is the CA's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from cli.text.printable import escape, is_plain

if TYPE_CHECKING:
    from cli.backends.base import PolicyBackend
    from shared.model.adoption.fixes import Fix
    from shared.model.policy.reasons import Reason
    from shared.model.wire.admin import Cause, DraftView, Readiness

_READINESS: JsonResult[Readiness] = JsonResult()
_MAX_FAILURES = 5


@prints(_READINESS)
def ready(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    workload: Annotated[
        str, typer.Option("--workload", "-w", help="Only this workload (its service account, or NAMESPACE/NAME).")
    ] = "",
    since: options.Since = "24h",
    as_json: options.Json = False,
) -> None:
    """Say whether explicit mode is safe for a namespace: READY, BLOCKED or UNKNOWN, with everything that is missing.

    Whatever was seen in this time is decided again by the current rules, as it is and as if every program that was seen
    were approved: one round shows all approvals and all rules that are missing, each once, with what needs it and the
    command or YAML that adds it. UNKNOWN: nothing blocks it, but sidecars were silent, records were lost, a
    workload had no connection, or what a server has loaded that accepts them wasn't seen.

    Exit code 0: READY; 3: BLOCKED; 4: nobody knows the namespace; 10: UNKNOWN.

    Examples: touchmark ready shop · touchmark ready shop --workload web --since 7d · touchmark ready shop --json -k
    """
    import os

    from cli.backends.session import work_on_policies
    from cli.backends.target import add_options, write_shell_options
    from cli.commands.unknown_namespace import check_known
    from cli.text.duration import parse_duration
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line
    from shared.model.errors import UnavailableError
    from shared.model.identity.identity import check_namespace, parse_workload
    from shared.model.wire.admin import ReadinessVerdict

    check_namespace(namespace)
    subject = ""
    if workload:
        subject = str(parse_workload(workload if "/" in workload else f"{namespace}/{workload}"))
    since_s = parse_duration(since, "--since")
    target = options.get_target(context)

    async def ask(backend: PolicyBackend) -> tuple[Readiness, DraftView | None]:
        found = await backend.get_readiness(namespace, since_s=since_s, workload=subject)
        if found.verdict is ReadinessVerdict.UNKNOWN:
            await check_known(backend, namespace)
        return found, None if as_json or subject else await _find_draft(backend, namespace)

    readiness, drafted = work_on_policies(target, ask)
    target_options = write_shell_options(target, os.environ)
    if readiness.verdict is None:
        command = add_options(f"touchmark mode {namespace} --check", target_options)
        raise UnavailableError("this CA is too old to say", hint=f"use `{command}`")
    if as_json:
        _READINESS.print(readiness)
    else:
        print_line(f"{subject or namespace}: {readiness.verdict.upper()} (mode now: {readiness.mode})")
        show_readiness(readiness, since, target_options=target_options)
        if drafted is not None:
            print_line(describe_draft(drafted, target_options=target_options))
    code = {
        ReadinessVerdict.READY: ExitCode.SUCCESS,
        ReadinessVerdict.BLOCKED: ExitCode.CHECK_FAILED,
        ReadinessVerdict.UNKNOWN: ExitCode.UNKNOWN,
    }[readiness.verdict]
    if code:
        raise typer.Exit(code)


async def _find_draft(backend: PolicyBackend, namespace: str) -> DraftView | None:
    """Return a namespace's draft; None where it has none, or it can't be asked for: it isn't what was asked."""
    from shared.model.errors import TouchmarkError

    try:
        return await backend.get_draft(namespace)
    except TouchmarkError:
        return None


def describe_draft(view: DraftView, *, target_options: str) -> str:
    """Say in a line that there is a draft, and what it has found: a readiness goes by the rules in force alone."""
    from cli.backends.target import add_options
    from cli.commands.difference import count_connections

    found = [
        f"{count_connections(changes)} {name}"
        for changes, name in (
            (view.denied, "newly denied"),
            (view.settled, "newly denied before and allowed by now"),
            (view.allowed, "newly allowed"),
        )
        if changes
    ]
    said = ", ".join(found) or ("nothing changed so far" if view.evaluated_since else "no verdict of it has come yet")
    command = add_options(f"touchmark policy draft {view.namespace}", target_options)
    return f"there is a draft, which isn't looked at here ({said}): `{command}`"


def show_readiness(readiness: Readiness, since: str, *, target_options: str) -> None:
    """Print what explicit mode would refuse, each cause with its fix, and what was seen at all."""
    import time

    from cli.backends.target import add_options, complete_commands
    from cli.commands.coverage import show_coverage
    from cli.text.output import print_line

    subject = readiness.workload or readiness.namespace
    print_line(
        f"{readiness.sidecars_reported} of {readiness.sidecars_total} sidecars of {subject} reported"
        f" in the last {since}" + (f"; silent: {', '.join(readiness.silent)}" if readiness.silent else "")
    )
    if not readiness.sidecars_total:
        print_line(f"{subject} has no live sidecar: there is nothing to predict from; is the name right?")
    if readiness.coverage:
        show_coverage(readiness.coverage, now=time.time())
    if readiness.settled:
        print_line(f"settled: {readiness.settled} marked or refused then would be allowed by the current rules")
    if readiness.is_truncated:
        print_line("✗ too many records to check them all; use a shorter --since")
    for unknown in readiness.unknowns:
        print_line(f"? {unknown}")
    if readiness.workload_modes and not readiness.workload:
        named = ", ".join(f"{each.service_account} ({each.mode})" for each in readiness.workload_modes)
        command = add_options(f"touchmark ready {readiness.namespace} --workload NAME", target_options)
        print_line(f"with a mode of their own, so not looked at here: {named}; `{command}`")
    if not readiness.causes and not (readiness.sidecars_total or readiness.coverage):
        print_line("? nothing was recorded, so that nothing is known")
    elif not readiness.causes:
        but = " but those of refused programs" if readiness.refused else ""
        print_line(f"✓ explicit mode would refuse none of the recorded connections{but}")
    else:
        _show_causes(readiness.causes, target_options=target_options)
        print_line()  # The last change's YAML ends here.
    if readiness.refused:
        print_line("of refused programs, so meant to be closed:")
        for cause in readiness.refused[:_MAX_FAILURES]:
            advice = f"; {complete_commands(cause.fix.advice, target_options)}" if cause.fix is not None else ""
            print_line(f"  {cause.connections} × {describe_cause(cause)}{escape(advice)}")
        if len(readiness.refused) > _MAX_FAILURES:
            print_line(f"  … and {len(readiness.refused) - _MAX_FAILURES} more (--json has all)")
    if readiness.failures:
        print_line("failed in any mode, so nothing that explicit mode changes:")
        for cause in readiness.failures[:_MAX_FAILURES]:
            print_line(f"  {cause.reason}: {describe_cause(cause)}{_say_detail(cause)}")
        if len(readiness.failures) > _MAX_FAILURES:
            print_line(f"  … and {len(readiness.failures) - _MAX_FAILURES} more (--json has all)")


def _show_causes(causes: tuple[Cause, ...], *, target_options: str) -> None:
    from cli.backends.target import add_options
    from cli.text.output import print_line
    from shared.model.adoption.fixes import FixKind

    count = len(causes)
    print_line(f"✗ {count} change{'s are' if count > 1 else ' is'} missing, or explicit mode would refuse connections:")
    for cause in causes:
        hidden = " (once the programs are approved)" if cause.is_next else ""
        print_line()
        print_line(f"{cause.reason}: {cause.connections} connection{'s' if cause.connections > 1 else ''}{hidden}")
        print_line(f"  {describe_cause(cause)}{_say_detail(cause)}")
        if cause.sidecars:
            print_line(f"  seen by {escape(', '.join(cause.sidecars))}")
        path = _path_of(cause, cause.fix) if cause.fix is not None else ""
        fix, reason = cause.fix, cause.reason
        for line in describe_fix(fix, reason, path=path, target_options=target_options, shown=cause.detail):
            print_line(f"  {line}")
        if cause.fix is not None and cause.fix.kind is FixKind.APPROVE:
            command = f"touchmark program refuse {cause.fix.workload} {cause.fix.program}"
            print_line(f"  if it doesn't belong there: {add_options(command, target_options)}")


def describe_cause(cause: Cause) -> str:
    """Say who connected to what: workloads, else addresses; programs, the path of the reporter's own; the Service."""
    from cli.text.output import shorten

    path = f" ({cause.path})" if cause.path else ""
    source = cause.source_workload or _host(cause.source_address) or "unidentified"
    if cause.source_program:
        source += f" {shorten(cause.source_program)}"
    if cause.side == "egress":
        source += path
    destination = cause.destination_workload or _host(cause.destination_address) or "unidentified"
    if cause.destination_program:
        destination += f" {shorten(cause.destination_program)}"
    if cause.side == "ingress":
        destination += path
    service = f", Service {cause.service}" if cause.service else ""
    return escape(f"{source} → {destination}, port {cause.port}{service}")


def describe_fix(fix: Fix | None, reason: Reason, *, path: str, target_options: str, shown: str = "") -> list[str]:
    """Return the lines of what lets connections pass that were refused for a reason: a command, YAML, or advice.

    Arguments:
        path: of the program to approve, in its own words; empty where it isn't known.
        target_options: what a command needs to reach the same CA.
        shown: the record's detail where it stands beside the fix already: advice doesn't repeat it.
    """
    from cli.backends.target import complete_commands
    from shared.model.adoption.fixes import FixKind, drop_detail
    from shared.model.policy.reasons import EXPLANATIONS

    if fix is None:
        return [complete_commands(EXPLANATIONS[reason].fix, target_options)]
    if fix.kind is FixKind.APPROVE:
        return [write_approval(fix, path=path, target_options=target_options)]
    if fix.kind is FixKind.RULE and fix.rule is not None:
        return write_rule(fix)
    return [escape(complete_commands(drop_detail(fix.advice, shown), target_options))]


def write_approval(fix: Fix, *, path: str, target_options: str) -> str:
    """Write the command that approves a program; its path, which is the process's own word, as a comment."""
    from cli.machine.executable import find_weakness

    weak = " --weak" if "/main:" in fix.program or find_weakness(path) else ""
    command = (
        f"touchmark program approve {fix.workload} {fix.program}{weak}{f' {target_options}' if target_options else ''}"
    )
    if not path:
        return command
    return f"{command}  # {path}" if is_plain(path) else f"{command}\n    seen at {escape(path)}"


def write_rule(fix: Fix) -> list[str]:
    """Write a rule as YAML for the namespace's MeshPolicy."""
    import yaml

    from shared.model.policy.documents import plain_rule

    if fix.rule is None:
        return []
    text = yaml.safe_dump([plain_rule(fix.rule)], sort_keys=False, allow_unicode=True, width=120)
    return [f"add to spec.rules of MeshPolicy {fix.namespace}/default:", *(f"  {line}" for line in text.splitlines())]


def _path_of(cause: Cause, fix: Fix) -> str:
    """Return the path of the program to approve, if it is the reporter's own."""
    own = cause.source_program if cause.side == "egress" else cause.destination_program
    workload = cause.source_workload if cause.side == "egress" else cause.destination_workload
    return cause.path if (workload, own) == (fix.workload, fix.program) else ""


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _say_detail(cause: Cause) -> str:
    from cli.text.decision import drop_service

    detail = drop_service(cause.detail, cause.service)
    return f": {escape(detail)}" if detail else ""
