"""What an approval is made of: candidates from files, digests and decisions, and the refusal of weak ones. Does I/O."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.backends.base import PolicyBackend
from cli.machine.allowance import ANY_CODE
from cli.machine.executable import advise_on_weakness, digest_file, find_weakness, read_executable
from cli.machine.loaded_objects import list_loaded
from shared.model.errors import InputError, NotFoundError
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import MAX_OBJECTS, ApprovedCode, CodeCheck, LoadedCode, LoadedObject
from shared.model.identity.program import NO_MAIN, Program, parse_program, weak_kind
from shared.model.policy.decision import DecisionRecord, PartyRecord
from shared.model.policy.rules import Direction
from shared.model.wire.admin import ProgramRequest, ProgramView

_INTERPRETER: Final = "an interpreter, since it has a main script"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A program that may be approved.

    Attributes:
        source: where it was found, for people.
        weakness: what makes its approval weak; empty when nothing is known.
        code: what it loads; None when that isn't known.
    """

    program: Program
    source: str
    weakness: str
    code: LoadedCode | None = None


def read_candidate(text: str | Path, *, main: str, lists_code: bool = False) -> Candidate:
    """Read one argument: a file to hash, or a digest as it is.

    Arguments:
        main: a script's path or digest, ``none``, or empty.
        lists_code: whether to ask the file's loader what it loads.

    Raises:
        InputError: a file can't be read, or is no program; what it loads can't be listed.
    """
    code = None
    if isinstance(text, Path):
        executable = read_executable(text)
        program, source, weakness = Program(digest=executable.digest), executable.path, executable.weakness
        if lists_code:
            code = LoadedCode(objects=list_loaded(text))
    else:
        program, source, weakness = parse_program(text), "", ""
    if program.main:
        weakness = weakness or _INTERPRETER
    if main:
        program = Program(digest=program.digest, main=_read_main(main))
        weakness = weakness or _INTERPRETER
    return Candidate(program=program, source=source, weakness=weakness, code=code)


def _read_main(text: str) -> str:
    if text == NO_MAIN:
        return NO_MAIN
    digest = text.removeprefix("sha256:").lower()
    if len(digest) == 64 and all(letter in "0123456789abcdef" for letter in digest):
        return digest
    return digest_file(Path(text))


async def find_seen(backend: PolicyBackend, workload: Workload, *, since_s: float) -> list[Candidate]:
    """Return the programs of a workload that decisions name as not approved, most recent first; no refused ones."""
    found: dict[Program, Candidate] = {}
    records = await _list_own(backend, workload, since_s=since_s)
    refused = await list_refused(backend, workload)
    for record, own in records:
        if own.approved or not own.program:
            continue
        program = parse_program(own.program)
        if program in refused:
            continue
        weakness = find_weakness(record.process.path) or (_INTERPRETER if program.main else "")
        code = _gather_code(each for each, _ in records if each.process.digest == program.digest)
        found.setdefault(program, Candidate(program=program, source=record.process.path, weakness=weakness, code=code))
    return list(found.values())


async def list_refused(backend: PolicyBackend, workload: Workload) -> frozenset[Program]:
    """Return the programs that somebody has refused for a workload; none from a CA of 0.1, which has no queue."""
    try:
        queue = await backend.get_queue(workload.namespace)
    except NotFoundError:
        return frozenset()
    return frozenset(each.program for each in queue.refused if each.workload == str(workload))


async def find_seen_code(
    backend: PolicyBackend, workload: Workload, *, programs: Collection[Program], since_s: float
) -> LoadedCode | None:
    """Return what decisions saw loaded by these programs of a workload; None when they saw nothing."""
    digests = {program.digest for program in programs}
    records = await _list_own(backend, workload, since_s=since_s)
    return _gather_code(each for each, _ in records if each.process.digest in digests)


async def _list_own(
    backend: PolicyBackend, workload: Workload, *, since_s: float
) -> list[tuple[DecisionRecord, PartyRecord]]:
    """List the records of the workload's own sidecars, each with its local end.

    A sidecar speaks for its own workload alone: what another one says of this one's programs proposes nothing.
    """
    query = {"workload": str(workload), "since": str(time.time() - since_s), "limit": "10000"}
    records = [view.record for view in (await backend.list_decisions(query)).decisions]
    sides = [(each, each.source if each.direction is Direction.EGRESS else each.destination) for each in records]
    return [
        (record, own)
        for record, own in sides
        if record.namespace == workload.namespace and str(workload) in (own.workload, own.listed)
    ]


def _gather_code(records: Iterable[DecisionRecord]) -> LoadedCode | None:
    seen = [record.process.code for record in records if isinstance(record.process.code, LoadedCode)]
    if not seen:
        return None
    objects = {(each.digest, each.path): each for code in seen for each in code.objects}
    kept = tuple(sorted(objects.values(), key=_by_path))[:MAX_OBJECTS]
    omitted = max(code.omitted for code in seen) + len(objects) - len(kept)
    return LoadedCode(objects=kept, anonymous=any(code.anonymous for code in seen), omitted=omitted)


def _by_path(each: LoadedObject) -> tuple[str, str]:
    return each.path, each.digest


def decide_code(
    candidates: Sequence[Candidate], extra: Sequence[LoadedObject], *, check: CodeCheck | None, is_jit: bool, weak: bool
) -> ApprovedCode | None:
    """Return what an approval says of loaded code; None when nothing is known of it.

    Arguments:
        extra: what the programs may load besides.
        check: what the user has chosen. Without it other code is refused; it is only reported where not all that a
            program loads is known, where it was seen to make code at run time and ``is_jit`` isn't said, and of weak
            programs: an interpreter loads what it is told to.

    Raises:
        InputError: there are too many objects.
    """
    known = [candidate.code for candidate in candidates if candidate.code is not None]
    objects = {each.digest: each for each in extra}
    for code in known:
        objects.update({each.digest: each for each in code.objects if each.digest})
    if check is None:
        if not known and not extra:
            return ApprovedCode(jit=True) if is_jit else None
        is_complete = len(known) == len(candidates) and all(
            not code.omitted and (is_jit or not code.anonymous) and all(each.digest for each in code.objects)
            for code in known
        )
        check = CodeCheck.ENFORCE if is_complete and not weak else CodeCheck.REPORT
    if len(objects) > MAX_OBJECTS:
        raise InputError(f"{len(objects)} loaded objects; an approval names at most {MAX_OBJECTS}")
    return ApprovedCode(objects=tuple(sorted(objects.values(), key=_by_path)), check=check, jit=is_jit)


def refuse_weakness(candidates: Sequence[Candidate], workload: Workload, *, weak: bool) -> None:
    """Refuse interpreters and multi-call binaries that aren't approved as such.

    Passing this check doesn't prove that a program is strong: it knows common names and strings only.

    Raises:
        InputError: one of them is weak, and ``weak`` isn't given; or no process would ever match it.
    """
    for candidate in candidates:
        if not candidate.program.main and weak_kind(candidate.source) == "interpreter":
            # A process of it always has one, if it is `none`.
            raise InputError(
                f"{candidate.source} is approved for a main script: without one no process of it matches",
                hint=f"nothing is approved; {_advise(candidate)}",
            )
        if candidate.weakness and not weak:
            raise InputError(
                f"{candidate.source or candidate.program}, for {workload}, is {candidate.weakness}: "
                "approving it approves any code that it runs",
                hint=f"nothing is approved; {_advise(candidate)}",
            )


def _advise(candidate: Candidate) -> str:
    if not candidate.program.main:
        return advise_on_weakness(candidate.source or str(candidate.program))
    if candidate.program.main == NO_MAIN:
        return f"repeat with --weak to approve it anyway; {ANY_CODE}. A script started by its path is told apart"
    return "repeat with --weak to approve it anyway, for this main script only"


def make_request(
    workload: Workload,
    candidates: Sequence[Candidate],
    *,
    name: str,
    weak: bool,
    approved_by: str,
    code: ApprovedCode | None,
) -> ProgramRequest:
    """Make the request that approves these programs in this user's name."""
    return ProgramRequest(
        namespace=workload.namespace,
        service_account=workload.service_account,
        programs=tuple(dict.fromkeys(candidate.program for candidate in candidates)),
        name=name,
        weak=weak,
        approved_by=approved_by,
        code=code,
    )


async def take_out(backend: PolicyBackend, view: ProgramView, program: Program) -> None:
    """Take one program out of a ``Program`` object; the object goes with its last."""
    kept = tuple(each for each in view.programs if each != program and (program.main or each.digest != program.digest))
    if not kept:
        await backend.remove_program(view.namespace, view.name)
        return
    await backend.approve_programs(
        ProgramRequest(
            namespace=view.namespace,
            service_account=view.service_account,
            programs=kept,
            name=view.name,
            weak=view.weak,
            approved_by=view.approved_by,
            code=view.code,
        )
    )
