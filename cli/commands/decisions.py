"""``touchmark decisions``: what was allowed, marked or refused, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from cli.text.printable import escape, is_plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cli.admin.client import AdminClient
    from cli.text.summary import SummaryRow
    from shared.model.adoption.fixes import Fix
    from shared.model.adoption.seen import Seen
    from shared.model.policy.decision import PartyRecord
    from shared.model.policy.reasons import Reason
    from shared.model.policy.rules import NamespaceState
    from shared.model.wire.admin import DecisionList, DecisionView

_LIMIT = 50
_LISTED: JsonResult[tuple[DecisionView, ...]] = JsonResult(note="newest first")
_FOLLOWED: JsonResult[DecisionView] = JsonResult(when="--follow", note="one per line, oldest first")
_SUMMARY: JsonResult[list[SummaryRow]] = JsonResult(when="--summary")
_SUMMARY_LIMIT = 10_000
_MAX_ADVICE = 5


@prints(_LISTED, _FOLLOWED, _SUMMARY)
def decisions(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new decisions.")] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Only refused connections.")] = False,
    would_deny: Annotated[
        bool, typer.Option("--would-deny", help="Only connections that explicit mode would refuse.")
    ] = False,
    draft_differs: Annotated[
        bool, typer.Option("--draft-differs", help="Only what draft policies would have decided otherwise.")
    ] = False,
    namespace: Annotated[str, typer.Option(help="Only this namespace.")] = "",
    workload: Annotated[str, typer.Option(help="Only with this workload at either end.")] = "",
    program: Annotated[str, typer.Option(help="Only with this program at either end (a prefix of its digest).")] = "",
    reason: Annotated[str, typer.Option(help="Only with this reason code.")] = "",
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 24h, 7d.")] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Maximum number of decisions; the newest are shown.",
            show_default="50; 10000 with --summary",
        ),
    ] = None,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary", "-s", help="Group and count equal decisions: refused first, then marked, then allowed."
        ),
    ] = False,
    detail: Annotated[
        bool,
        typer.Option(
            "--detail",
            "-d",
            help="Say everything of each: ends, the program's path, pod, Service, detail, what would change it.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show decisions, newest last. With --follow and --json: one JSON object per line, until Ctrl-C.

    With --summary: each kind of decision once, with its number of connections. With --detail: what would let refused or
    marked connections pass, by the current rules.

    Examples: touchmark decisions --denied --since 10m · touchmark decisions --denied --detail --namespace shop ·
    touchmark decisions --follow --would-deny -k
    """
    import os

    from cli.backends.session import ask_admin
    from cli.backends.target import write_shell_options
    from cli.text.output import print_note
    from cli.text.summary import group_decisions, print_summary
    from shared.model.errors import InputError

    if summary + follow + detail > 1:
        raise InputError("--summary, --follow and --detail can't be combined")

    target = options.get_target(context)
    query = build_query(
        denied=denied,
        would_deny=would_deny,
        draft_differs=draft_differs,
        namespace=namespace,
        workload=workload,
        program=program,
        reason=reason,
        since=since,
        limit=limit or (_SUMMARY_LIMIT if summary else _LIMIT),
    )
    if follow:
        ask_admin(target, lambda client: _follow(client, query, as_json=as_json))
        return
    answer, states = ask_admin(target, lambda client: _ask(client, query, needs_rules=detail and not as_json))
    if as_json and summary:
        _SUMMARY.print([group.as_row() for group in group_decisions(answer.decisions)])
    elif as_json:
        _LISTED.print(answer.decisions)
    elif summary:
        print_summary(answer.decisions)
    elif detail:
        _show_detail(answer, states, target_options=write_shell_options(target, os.environ))
    else:
        _show(answer, target_options=write_shell_options(target, os.environ))
    if answer.lost and not as_json:
        print_note(f"warning: {answer.lost} decisions were lost in transit (never denials)")


async def _ask(
    client: AdminClient, query: dict[str, str], *, needs_rules: bool
) -> tuple[DecisionList, dict[str, NamespaceState]]:
    answer = await client.list_decisions(query)
    refused = any(view.record.would_deny or view.record.answer == "deny" for view in answer.decisions)
    if not (needs_rules and refused):
        return answer, {}
    return answer, {state.namespace: state for state in (await client.list_namespaces()).namespaces}


def _show_detail(answer: DecisionList, states: dict[str, NamespaceState], *, target_options: str) -> None:
    from cli.commands.ready import describe_fix
    from cli.text.decision import describe_fully
    from cli.text.output import print_line

    for view in reversed(answer.decisions):
        for line in describe_fully(view):
            print_line(line)
        for fix, reason, path in find_fixes([view], states):
            lines = describe_fix(fix, reason, path=path, target_options=target_options, shown=view.record.detail)
            for number, line in enumerate(lines):
                print_line(f"  {'fix' if not number else '':12} {line}")
        print_line()
    if not answer.decisions:
        print_line("no matching decisions")


def find_fixes(views: Iterable[DecisionView], states: dict[str, NamespaceState]) -> list[tuple[Fix, Reason, str]]:
    """Return what would let refused and marked connections pass by the current rules, each once: fix, reason, path."""
    from shared.model.adoption.blockers import find_blockers
    from shared.model.adoption.seen import see_record

    by_namespace: dict[str, list[Seen]] = {}
    for view in views:
        if view.record.would_deny or view.record.answer == "deny":
            by_namespace.setdefault(view.record.namespace, []).append(see_record(view.record))
    found = [find_blockers(seen, states, namespace) for namespace, seen in by_namespace.items()]
    blockers = [each if each.is_own_word else each.doubt() for one in found for each in (*one.blockers, *one.failures)]
    return [
        (each.fix, each.reason, each.seen.path if each.fix.program == each.seen.own.program else "")
        for each in blockers
    ]


def _show(answer: DecisionList, *, target_options: str) -> None:
    from cli.text.decision import COLUMNS, format_rows
    from cli.text.output import print_note, print_table

    print_table(COLUMNS, format_rows(reversed(answer.decisions)), empty="no matching decisions")
    for advice in advise_approvals(answer.decisions, target_options=target_options):
        print_note(advice)


def build_query(
    *,
    denied: bool = False,
    would_deny: bool = False,
    draft_differs: bool = False,
    namespace: str = "",
    workload: str = "",
    program: str = "",
    reason: str = "",
    since: str = "",
    limit: int = 50,
) -> dict[str, str]:
    """Check the filters and write them as the admin API's query.

    Raises:
        InputError: a filter has a wrong shape, or names an unknown reason.
    """
    import re
    import time

    from cli.text.duration import parse_duration
    from shared.model.errors import InputError
    from shared.model.identity.identity import check_namespace, parse_workload
    from shared.model.policy.reasons import Reason

    if reason and reason not in list(Reason):
        raise InputError(f"--reason: unknown reason: {reason!r}", hint=f"one of: {', '.join(sorted(Reason))}")
    if program:
        program = f"sha256:{program.removeprefix('sha256:').lower()}"
        if not re.fullmatch(r"sha256:[0-9a-f]{1,64}(/main:.*)?", program):
            raise InputError(
                f"--program: not a digest prefix: {program!r}", hint="use hexadecimal digits, as in the tables"
            )
    return {
        "namespace": check_namespace(namespace) if namespace else "",
        "workload": str(parse_workload(workload)) if workload else "",
        "program": program,
        "reason": reason,
        "denied": "true" if denied else "",
        "would_deny": "true" if would_deny else "",
        "draft_differs": "true" if draft_differs else "",
        "since": str(time.time() - parse_duration(since, "--since")) if since else "",
        "limit": str(limit),
    }


def advise_approvals(views: Iterable[DecisionView], *, target_options: str) -> list[str]:
    """Return the commands that approve the programs or loaded code which were refused for want of it, newest first.

    Each can be pasted into a shell; the path where the program was seen follows as a comment. The path is the process's
    own word: one that a shell might act on has a line of its own. A party that is no workload or program is left out.
    """
    from cli.machine.executable import find_weakness
    from shared.model.identity.program import parse_program
    from shared.model.policy.reasons import Reason
    from shared.model.policy.rules import Direction

    commands: dict[str, str] = {}
    options = f" {target_options}" if target_options else ""
    for view in views:
        record = view.record
        if record.answer == "deny" and record.reason is Reason.CODE_NOT_APPROVED:
            own = record.source if record.direction is Direction.EGRESS else record.destination
            if _is_workload(own.workload):
                words = f"touchmark program update-code {own.workload} --from-decisions{options}"
                commands[words] = commands.get(words) or record.process.path
            continue
        if record.answer != "deny" or record.reason not in (Reason.PROGRAM_NOT_APPROVED, Reason.LISTENER_NOT_APPROVED):
            continue
        is_source = record.reason is Reason.PROGRAM_NOT_APPROVED
        party = record.source if is_source else record.destination
        if not _is_nameable(party):
            continue
        is_own = is_source is (record.direction is Direction.EGRESS)  # Else the process is the other party's.
        path = record.process.path if is_own else ""
        weak = " --weak" if parse_program(party.program).main or find_weakness(path) else ""
        command = f"touchmark program approve {party.workload} {party.program}{weak}{options}"
        commands[command] = commands.get(command) or path
    if not commands:
        return []
    named = [_name(command, path) for command, path in list(commands.items())[:_MAX_ADVICE]]
    more = [f"  … and {len(commands) - _MAX_ADVICE} more"] if len(commands) > _MAX_ADVICE else []
    return ["not approved at that time; review, then run:", *named, *more]


def _is_nameable(party: PartyRecord) -> bool:
    """Tell whether a record's party can be approved: a sidecar reported it, and may have written anything."""
    from shared.model.errors import TouchmarkError
    from shared.model.identity.identity import parse_workload
    from shared.model.identity.program import format_program, parse_program

    if not party.workload or not party.program or party.approved:
        return False
    try:
        parsed = (str(parse_workload(party.workload)), format_program(parse_program(party.program)))
    except TouchmarkError:
        return False
    return parsed == (party.workload, party.program)


def _is_workload(text: str) -> bool:
    from shared.model.errors import TouchmarkError
    from shared.model.identity.identity import parse_workload

    try:
        return str(parse_workload(text)) == text
    except TouchmarkError:
        return False


def _name(command: str, path: str) -> str:
    if not path:
        return f"  {command}"
    return f"  {command}  # {path}" if is_plain(path) else f"  {command}\n    seen at {escape(path)}"


async def _follow(client: AdminClient, query: dict[str, str], *, as_json: bool) -> None:
    from cli.text.decision import format_rows
    from cli.text.output import print_line

    async for view in client.follow_decisions(query):
        if as_json:
            _FOLLOWED.print(view)
        else:
            for row in format_rows([view]):
                print_line("  ".join(row))
