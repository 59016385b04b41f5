"""``touchmark program``: approve, list, update-code, remove.

Longer than most: half of it is the options and the help of four commands.
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.commands import options, program_queue
from cli.text.json_result import JsonResult, prints
from cli.text.printable import escape
from shared.model.errors import InputError, NotFoundError, TouchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.backends.approval import Candidate
    from cli.backends.base import PolicyBackend
    from cli.backends.code_change import CodeChange
    from cli.commands.shapes import CodeUpdated, ProgramsRemoved
    from shared.model.adoption.program_queue import ProgramQueue
    from shared.model.identity.identity import Workload
    from shared.model.identity.program import Program
    from shared.model.wire.admin import ProgramRequest, ProgramView

_APPROVED: JsonResult[ProgramView] = JsonResult(note="nothing if no program was found or chosen: exit code 11")
_ALL_APPROVED: JsonResult[Sequence[ProgramView]] = JsonResult(when="programs of the queue, or several workloads")
_LISTED: JsonResult[Sequence[ProgramView]] = JsonResult(note="approved ones; `program queue` has the others")
_UPDATED: JsonResult[CodeUpdated] = JsonResult()
_REMOVED: JsonResult[ProgramsRemoved] = JsonResult()

app = typer.Typer(no_args_is_help=True, help="Approve the programs that may use a workload's identity.")
app.command("queue", cls=options.TargetCommand)(program_queue.queue)
app.command("refuse", cls=options.TargetCommand)(program_queue.refuse)

_UNLISTED: Final = "unlisted"


class CodeChoice(StrEnum):
    """What follows when a program has loaded code that isn't approved with it."""

    ENFORCE = "enforce"
    REPORT = "report"
    OFF = "off"


_DIGEST = re.compile(r"(sha256:)?[0-9a-fA-F]{64}(/main:(none|(sha256:)?[0-9a-fA-F]{64}))?")


@app.command(cls=options.TargetCommand)
@prints(_APPROVED, _ALL_APPROVED)
def approve(
    context: typer.Context,
    workload: Annotated[
        str,
        typer.Argument(help="NAMESPACE/SERVICE-ACCOUNT, such as shop/web. Or a digest that waits in the queue."),
    ] = "",
    programs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Paths of executables, or digests (sha256:…); with --from-decisions further workloads.",
            metavar="PROGRAM…",
        ),
    ] = None,
    image: program_queue.Image = "",
    from_decisions: Annotated[
        bool,
        typer.Option(
            "--from-decisions",
            help="Approve the programs that decisions recorded for these workloads, after confirmation.",
        ),
    ] = False,
    from_queue: Annotated[
        bool,
        typer.Option("--from-queue", help="The digests wait in the queue: approve what was seen to be loaded too."),
    ] = False,
    since: options.Since = "24h",
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="With --from-decisions or from the queue: approve all, with what was loaded, without asking.",
        ),
    ] = False,
    weak: Annotated[
        bool,
        typer.Option("--weak", help="Approve an interpreter or multi-call binary anyway; every decision shows it."),
    ] = False,
    main: Annotated[
        str, typer.Option("--main", help="Restrict an interpreter to this main script (a path or digest), or to none.")
    ] = "",
    loads: Annotated[
        list[Path] | None,
        typer.Option("--loads", metavar="FILE", help="A file that the programs may load besides, such as a plugin."),
    ] = None,
    code: Annotated[
        CodeChoice | None,
        typer.Option("--code", help="What follows when other code is loaded; off: what is loaded isn't looked at."),
    ] = None,
    jit: Annotated[
        bool, typer.Option("--jit", help="The programs make code at run time: expect anonymous executable memory.")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", help="Name of the Program object; derived from the digest by default.")
    ] = "",
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Approve programs for a workload: by file, by digest, from recorded decisions, or from the queue.

    An interpreter or multi-call binary runs any code that it is given, so it is refused without --weak. With --main
    SCRIPT an interpreter is approved for that script only; which script it runs is the process's own claim.

    The approval also lists what the program loads: for a file what its loader says, from decisions what was seen. Other
    code is then refused; it is only reported of weak programs, where not all of it is known, and of programs that were
    seen to make code at run time, without --jit.

    Without a workload, digests (or their first eight digits) and --image mean what `program queue` lists: approved for
    the workloads that it was seen in, after confirmation (of a whole digest only if loaded code is approved with it),
    and those that need --weak only with it. That takes the right to read all namespaces: otherwise put yours in front,
    such as shop/web, with --from-queue.

    Exit code 11: --from-decisions found nothing for a workload, or you chose nothing.

    Examples: touchmark program approve shop/web /usr/sbin/nginx · touchmark program approve shop/web --from-decisions ·
    touchmark program approve shop/web shop/db front/cart --from-decisions · touchmark program approve 3f9a81c2 ·
    touchmark program approve --image registry.example/shop/web:1.4
    """
    from cli.backends import approval
    from cli.backends.program_choice import CodeWish, is_digest
    from cli.backends.session import work_on_policies
    from cli.machine.loaded_objects import read_objects
    from cli.text.duration import parse_duration
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_note
    from shared.model.identity.loaded_code import CodeCheck
    from shared.model.identity.program import weak_kind

    if image or from_queue or is_digest(workload):
        if from_decisions or main or loads or name:
            raise InputError(
                "programs of the queue are approved with what was seen of them: of the options for files and decisions"
                " only --code, --jit and --weak are for them"
            )
        wish = CodeWish(
            is_listed=code is not CodeChoice.OFF,
            check=None if code is None or code is CodeChoice.OFF else CodeCheck(code.value),
            is_jit=jit,
        )
        views = program_queue.approve_waiting(
            options.get_target(context), [*filter(None, (workload,)), *(programs or ())],
            image=image, weak=weak, yes=yes, as_json=as_json, is_forced=force_conflicts, wish=wish,
        )  # fmt: skip
        _show_all_approved(views, as_json=as_json)
        return
    if not (programs or from_decisions):
        raise InputError(
            "give paths or digests to approve, or --from-decisions",
            hint=f"touchmark program approve {workload or 'shop/web'} /usr/bin/curl",
        )
    subjects = _read_subjects(workload, programs if from_decisions else None, name=name)
    lists_code = code is not CodeChoice.OFF
    named = [] if from_decisions else programs or []
    candidates = [approval.read_candidate(_or_path(text), main=main, lists_code=lists_code) for text in named]
    for candidate in candidates if main else ():
        if candidate.source and weak_kind(candidate.source) != "interpreter":
            print_note(
                f"warning: {candidate.source} isn't named like an interpreter (python3, node, java), so sidecars"
                " look for no main script: under this name no process of it matches; leave --main out"
            )
    extra = read_objects(loads or [])
    since_s = parse_duration(since, "--since")

    requests: list[ProgramRequest] = []

    async def converse(backend: PolicyBackend) -> list[tuple[ProgramView, bool]]:
        chosen = dict.fromkeys(subjects, candidates)
        for subject in subjects if from_decisions else ():
            seen = await approval.find_seen(backend, subject, since_s=since_s)
            chosen[subject] = _choose(seen, subject, everything=yes, as_json=as_json)
        for subject, each in chosen.items():
            if not each:
                continue
            approval.refuse_weakness(each, subject, weak=weak)
            # Of several workloads, those without an interpreter get an approval like any other.
            is_weak = weak and (not from_decisions or any(candidate.weakness for candidate in each))
            wanted = None
            if lists_code:
                check = None if code is None else CodeCheck(code.value)
                wanted = approval.decide_code(each, extra, check=check, is_jit=jit, weak=is_weak)
            user = await backend.name_user()
            request = approval.make_request(subject, each, name=name, weak=is_weak, approved_by=user, code=wanted)
            requests.append(request)
        return [await backend.approve_programs(request) for request in requests]

    approved = work_on_policies(options.get_target(context), converse, is_forced=force_conflicts)
    if not approved:
        print_note("nothing approved")
    elif len(subjects) == 1:
        _show_approved(*approved[0], weak=requests[0].weak, as_json=as_json)
    else:
        _show_all_approved(approved, as_json=as_json)
    if len(approved) < len(subjects):
        raise typer.Exit(ExitCode.NOTHING)


def _read_subjects(workload: str, others: Sequence[str] | None, *, name: str) -> list[Workload]:
    """Return the workloads that are named; with --from-decisions these alone are."""
    from shared.model.identity.identity import parse_workload

    for text in others or ():
        if text.startswith(("/", ".", "sha256:")) or "/" not in text:
            raise InputError(
                f"with --from-decisions workloads are named, not programs: {text[:160]}",
                hint=f"touchmark program approve {workload} --from-decisions",
            )
    if others and name:
        raise InputError("--name is for one workload", hint="leave it out: names are derived from the digests")
    return list(dict.fromkeys(parse_workload(text) for text in (workload, *(others or ()))))


def _show_all_approved(views: Sequence[tuple[ProgramView, bool]], *, as_json: bool) -> None:
    """Show what was approved of the queue; the exit code is that of the one that isn't confirmed, if there is one."""
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_note

    if as_json:
        _ALL_APPROVED.print([view for view, _ in views])
    else:
        for view, _ in views:
            _show_approved(view, True, weak=view.weak, as_json=False)
    if not all(is_confirmed for _, is_confirmed in views):
        print_note("an approval is written, but the CA hasn't processed it yet; is it running?")
        raise typer.Exit(ExitCode.DEADLINE)


def _show_approved(view: ProgramView, is_confirmed: bool, *, weak: bool, as_json: bool) -> None:
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note, shorten

    if weak:
        print_note(f"warning: weak approval: {describe_weakness(view.programs)}")
    if as_json:
        _APPROVED.print(view)
    else:
        print_line(f"approved for {view.namespace}/{view.service_account} as {view.name}:")
        for program in view.programs:
            print_line(f"  {program}  ({shorten(str(program))})")
        if (said := _describe_code(view)) != _UNLISTED:
            print_line(f"loaded code: {said}")
    if not is_confirmed:
        print_note("the approval is written, but the CA hasn't processed it yet; is it running?")
        raise typer.Exit(ExitCode.DEADLINE)


def describe_weakness(programs: Sequence[Program]) -> str:
    """Say in words what a weak approval of these programs allows."""
    from cli.machine.allowance import ANY_CODE
    from shared.model.identity.program import NO_MAIN

    if not all(program.main for program in programs):
        return "any code that this program runs gets the workload's identity"
    if any(program.main == NO_MAIN for program in programs):
        return ANY_CODE
    return "the main script is the process's own claim"


@app.command("list", cls=options.TargetCommand)
@prints(_LISTED)
def list_programs(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Only this namespace.")] = "",
    as_json: options.Json = False,
) -> None:
    """List approved programs, those that wait for an approval, and those that were refused.

    Examples: touchmark program list · touchmark program list shop --json
    """
    from cli.backends.session import work_on_policies
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.output import print_line, print_note

    async def ask(backend: PolicyBackend) -> tuple[Sequence[ProgramView], ProgramQueue | TouchmarkError | None]:
        views = await backend.list_programs(namespace)
        return views, None if as_json else await _find_queue(backend, namespace)

    target = options.get_target(context)
    views, queue = work_on_policies(target, ask)
    if not views:
        refuse_unknown(target, namespace)
    if as_json:
        _LISTED.print(views)
        return
    _show_programs(views)
    if isinstance(queue, TouchmarkError):
        print_note(f"what waits and what was refused isn't known: {queue.message}")
    elif queue is not None:
        if queue.waiting:
            print_line()
            print_line("seen, and neither approved nor refused:")
            program_queue.show_waiting(queue.waiting)
        program_queue.show_refused(queue.refused)


async def _find_queue(backend: PolicyBackend, namespace: str) -> ProgramQueue | TouchmarkError | None:
    """Return the queue, or why it can't be read: who may list a cluster's objects mayn't always ask the CA."""
    try:
        return await backend.get_queue(namespace)
    except NotFoundError:  # A CA of 0.1 has none.
        return None
    except TouchmarkError as error:
        return error


def _show_programs(views: Sequence[ProgramView]) -> None:
    from cli.text.duration import format_time
    from cli.text.output import print_table

    print_table(
        ("NAME", "WORKLOAD", "PROGRAM", "WEAK", "LOADED CODE", "APPROVED", "APPROVED BY"),
        (
            (
                view.name,
                f"{view.namespace}/{view.service_account}",
                str(program),
                ("weak: any code" if not program.main or program.main == "none" else "weak: claimed script")
                if view.weak
                else "",
                _describe_code(view),
                format_time(view.approved),
                view.approved_by or "-",
            )
            for view in views
            for program in view.programs
        ),
        empty="no approved programs; add one with `touchmark program approve`",
    )


@app.command("update-code", cls=options.TargetCommand)
@prints(_UPDATED)
def update_code(
    context: typer.Context,
    workload: Annotated[str, typer.Argument(help="NAMESPACE/SERVICE-ACCOUNT, such as shop/web.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Libraries, plugins and executables' loaders.", metavar="FILE…")
    ] = None,
    from_decisions: Annotated[
        bool, typer.Option("--from-decisions", help="Take what decisions saw loaded by the workload's programs.")
    ] = False,
    since: options.Since = "24h",
    replace: Annotated[
        bool, typer.Option("--replace", help="Versions of the same libraries that aren't among these mayn't be loaded.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Let a workload's approved programs load other libraries: after an update of its image, as one change.

    It shows what changes, by library, and asks once, however many programs load it. Versions that are approved already
    stay, for pods that still run the former image, until --replace.

    Examples: touchmark program update-code shop/web /usr/lib/x86_64-linux-gnu/libssl.so.3 · touchmark program
    update-code shop/web --from-decisions --replace
    """
    from cli.backends import approval
    from cli.backends.code_change import plan_change
    from cli.backends.session import work_on_policies
    from cli.commands.shapes import CodeUpdated
    from cli.machine.loaded_objects import read_objects
    from cli.text.duration import parse_duration
    from cli.text.output import print_line
    from shared.model.identity.identity import parse_workload

    subject, since_s = parse_workload(workload), parse_duration(since, "--since")
    if bool(files) == from_decisions:
        raise InputError("give files, or --from-decisions", hint=f"touchmark program update-code {workload} FILE…")
    named = read_objects(files or [])

    async def converse(backend: PolicyBackend) -> CodeChange:
        views = [
            view
            for view in await backend.list_programs(subject.namespace)
            if view.service_account == subject.service_account and view.code is not None
        ]
        if not views:
            raise NotFoundError(
                f"no approval of {subject} says what its programs load",
                hint="`touchmark program approve` takes it from the programs' files",
            )
        found = named
        if from_decisions:
            programs = [program for view in views for program in view.programs]
            seen = await approval.find_seen_code(backend, subject, programs=programs, since_s=since_s)
            found = seen.objects if seen is not None else ()
        change = plan_change(views, found, replaces=replace)
        _confirm_change(change, subject, is_confirmed=yes, as_json=as_json)
        for request in change.requests:
            await backend.approve_programs(request)
        return change

    change = work_on_policies(options.get_target(context), converse, is_forced=force_conflicts)
    if as_json:
        added = tuple(each.new for each in change.changes)
        names = tuple(request.name for request in change.requests)
        _UPDATED.print(CodeUpdated(added=added, removed=change.removed, objects=names))
    elif change.requests:
        print_line(f"updated for {subject}: {', '.join(request.name for request in change.requests)}")


def _confirm_change(change: CodeChange, workload: Workload, *, is_confirmed: bool, as_json: bool) -> None:
    """Show what changes, by library, and ask once.

    Raises:
        RefusedError: the answer is no, or this isn't a terminal.
    """
    from cli.text.output import print_line, print_note
    from shared.model.errors import RefusedError

    if not change.requests:
        print_note(f"nothing changes: {workload}'s programs may load all of it already")
        return
    if not as_json:
        for each in change.changes:
            print_line(f"+ {escape(each.new.path)}  sha256:{each.new.digest}  in {', '.join(each.objects)}")
            for other in (each for each in each.others if each not in change.removed):
                print_line(f"  {escape(other.path)}  sha256:{other.digest}")
        for gone in change.removed:
            print_line(f"- {escape(gone.path)}  sha256:{gone.digest}")
    if is_confirmed:
        return
    count = len(change.changes) + len(change.removed)
    if as_json or not sys.stdin.isatty():
        raise RefusedError(
            f"{count} change{'s need' if count != 1 else ' needs'} a review", hint="review them, then repeat with --yes"
        )
    if not typer.confirm(
        f"Change what {workload}'s approved programs may load in {count} place{'s' * (count != 1)}?", err=True
    ):
        raise RefusedError("nothing was changed")


@app.command(cls=options.TargetCommand)
@prints(_REMOVED)
def remove(
    context: typer.Context,
    workload: Annotated[
        str, typer.Argument(help="NAMESPACE/SERVICE-ACCOUNT, or NAMESPACE/NAME of the Program object.")
    ],
    programs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Paths, digests or object names to remove; without any, the named object.", metavar="PROGRAM…"
        ),
    ] = None,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Remove approvals. Live connections of these programs are evaluated again at once.

    Examples: touchmark program remove shop/web /usr/bin/curl · touchmark program remove shop/web-27125f033149
    """
    from cli.backends import approval
    from cli.backends.session import work_on_policies
    from cli.commands.shapes import ProgramsRemoved
    from cli.text.output import print_line
    from shared.model.identity.identity import parse_workload

    subject = parse_workload(workload)

    async def converse(backend: PolicyBackend) -> list[str]:
        views = await backend.list_programs(subject.namespace)
        if not programs:
            if not any(view.name == subject.service_account for view in views):
                raise NotFoundError(
                    f"no Program object {subject}", hint=f"`touchmark program list {subject.namespace}` shows the names"
                )
            await backend.remove_program(subject.namespace, subject.service_account)
            return [str(subject)]
        return [removed for text in programs for removed in await _remove_one(backend, subject, views, text)]

    async def _remove_one(
        backend: PolicyBackend, subject: Workload, views: Sequence[ProgramView], text: str
    ) -> list[str]:
        own = [view for view in views if view.service_account == subject.service_account]
        named = [view for view in own if view.name == text]
        if named:
            await backend.remove_program(subject.namespace, text)
            return [f"{subject.namespace}/{text}"]
        program = approval.read_candidate(_or_path(text), main="").program
        removed = [str(program) for view in own if _holds(view, program)]
        if not removed:
            raise NotFoundError(
                f"{program} isn't approved for {subject}", hint="`touchmark program list` shows what is"
            )
        for view in own:
            if _holds(view, program):
                await approval.take_out(backend, view, program)
        return removed

    removed = work_on_policies(options.get_target(context), converse, is_forced=force_conflicts)
    if as_json:
        _REMOVED.print(ProgramsRemoved(removed=removed))
    else:
        for text in removed:
            print_line(f"removed {text}")


def _choose(candidates: Sequence[Candidate], workload: Workload, *, everything: bool, as_json: bool) -> list[Candidate]:
    """Show the programs that decisions recorded, and ask about each.

    Raises:
        RefusedError: there are some, and this isn't a terminal.
    """
    from cli.machine.allowance import describe_allowance
    from cli.text.output import print_line, print_note
    from shared.model.errors import RefusedError

    if not candidates:
        print_note(
            f"no decision shows an unapproved program of {workload}; decisions arrive a moment after their connections"
            " have ended, or some seconds after they began"
        )
        return []
    for candidate in candidates if not as_json else ():
        allows = describe_allowance(candidate.program, candidate.source)
        weakness = (
            f"  weak: {candidate.weakness}" + (f"; allows {allows}" if allows else "") if candidate.weakness else ""
        )
        print_line(f"seen: {candidate.program}  {escape(candidate.source) or 'path unknown'}{weakness}")
        for each in candidate.code.objects if candidate.code else ():
            print_line(f"  loads {escape(each.path)}  {f'sha256:{each.digest}' if each.digest else 'not measured'}")
        if candidate.code and candidate.code.anonymous:
            print_line("  has anonymous executable memory: --jit, if it makes code at run time")
    if everything:
        return list(candidates)
    if as_json or not sys.stdin.isatty():
        count = len(candidates)
        raise RefusedError(
            f"{count} program{'s' if count != 1 else ''} of {workload} need{'s' if count == 1 else ''} a review",
            hint="review them, then approve their digests, or repeat with --yes",
        )

    def ask(each: Candidate) -> bool:
        allows = describe_allowance(each.program, each.source)
        which = f", which allows {allows}" if allows else ""
        return typer.confirm(f"Approve {escape(each.source) or each.program}{which}?", err=True)

    return [each for each in candidates if ask(each)]


def _describe_code(view: ProgramView) -> str:
    """Say what follows from loaded code, for people."""
    code = view.code
    if code is None or code.effective_check is None:
        return _UNLISTED
    jit = ", jit" if code.jit else ""
    return f"{code.effective_check}, {len(code.objects)} objects{jit}"


def _holds(view: ProgramView, program: Program) -> bool:
    return any(_is_same(program, each) for each in view.programs)


def _is_same(wanted: Program, held: Program) -> bool:
    return wanted == held or (not wanted.main and wanted.digest == held.digest)


def _or_path(text: str) -> str | Path:
    return text if _DIGEST.fullmatch(text) else Path(text)
