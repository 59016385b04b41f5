"""What an approval is made of: candidates from files, digests and decisions, and the refusal of weak ones. Does I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.backends.base import PolicyBackend
from cli.machine.executable import advise_on_weakness, digest_file, find_weakness, read_executable
from shared.model.errors import InputError
from shared.model.identity.identity import Workload
from shared.model.identity.program import NO_MAIN, Program, parse_program
from shared.model.policy.rules import Direction
from shared.model.wire.admin import ProgramRequest, ProgramView

_INTERPRETER: Final = "an interpreter, since it has a main script"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A program that may be approved.

    Attributes:
        source: where it was found, for people.
        weakness: what makes its approval weak; empty when nothing is known.
    """

    program: Program
    source: str
    weakness: str


def read_candidate(text: str | Path, *, main: str) -> Candidate:
    """Read one argument: a file to hash, or a digest as it is.

    Arguments:
        main: a script's path or digest, ``none``, or empty.

    Raises:
        InputError: a file can't be read, or is no program.
    """
    if isinstance(text, Path):
        executable = read_executable(text)
        program, source, weakness = Program(digest=executable.digest), executable.path, executable.weakness
    else:
        program, source, weakness = parse_program(text), "", ""
    if program.main:
        weakness = weakness or _INTERPRETER
    if main:
        program = Program(digest=program.digest, main=_read_main(main))
        weakness = weakness or _INTERPRETER
    return Candidate(program=program, source=source, weakness=weakness)


def _read_main(text: str) -> str:
    if text == NO_MAIN:
        return NO_MAIN
    digest = text.removeprefix("sha256:").lower()
    if len(digest) == 64 and all(letter in "0123456789abcdef" for letter in digest):
        return digest
    return digest_file(Path(text))


async def find_seen(backend: PolicyBackend, workload: Workload, *, since_s: float) -> list[Candidate]:
    """Return the programs of a workload that decisions name as not approved, most recent first."""
    found: dict[Program, Candidate] = {}
    query = {"workload": str(workload), "since": str(time.time() - since_s), "limit": "10000"}
    for view in (await backend.list_decisions(query)).decisions:
        record = view.record
        own = record.source if record.direction is Direction.EGRESS else record.destination
        # A sidecar speaks for its own workload alone: what another one says of this one's programs proposes nothing.
        if record.namespace != workload.namespace or str(workload) not in (own.workload, own.listed):
            continue
        if own.approved or not own.program:
            continue
        program = parse_program(own.program)
        weakness = find_weakness(record.process.path) or (_INTERPRETER if program.main else "")
        found.setdefault(program, Candidate(program=program, source=record.process.path, weakness=weakness))
    return list(found.values())


def refuse_weakness(candidates: Sequence[Candidate], *, weak: bool) -> None:
    """Refuse interpreters and multi-call binaries that aren't approved as such.

    Passing this check doesn't prove that a program is strong: it knows common names and strings only.

    Raises:
        InputError: one of them is weak, and ``weak`` isn't given.
    """
    for candidate in candidates:
        if candidate.weakness and not weak:
            raise InputError(
                f"{candidate.source or candidate.program} is {candidate.weakness}: "
                "approving it approves any code that it runs",
                hint=advise_on_weakness(candidate.source or str(candidate.program))
                if not candidate.program.main
                else "repeat with --weak to approve it anyway, for this main script only",
            )


def make_request(
    workload: Workload, candidates: Sequence[Candidate], *, name: str, weak: bool, approved_by: str
) -> ProgramRequest:
    """Make the request that approves these programs in this user's name."""
    return ProgramRequest(
        namespace=workload.namespace,
        service_account=workload.service_account,
        programs=tuple(dict.fromkeys(candidate.program for candidate in candidates)),
        name=name,
        weak=weak,
        approved_by=approved_by,
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
