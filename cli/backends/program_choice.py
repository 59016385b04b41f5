"""Which programs of the queue a command line means, and what approving them takes. Pure.

Belongs here: digests (also their first digits), images, workloads → entries; entries → requests. Doesn't: reading the
queue, asking, printing (``cli/commands/program_queue.py``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cli.backends.approval import Candidate, decide_code, make_request
from cli.machine.allowance import describe_allowance
from shared.model.adoption.program_queue import ProgramQueue, QueuedProgram, is_of_image
from shared.model.errors import InputError, NotFoundError
from shared.model.identity.identity import Workload, parse_workload
from shared.model.identity.loaded_code import CodeCheck
from shared.model.identity.program import Program, parse_program
from shared.model.wire.admin import ProgramRequest

# Eight digits are one program among the thousands of a mesh; what is ambiguous is refused.
_DIGITS: Final = re.compile(r"(sha256:)?[0-9a-fA-F]{8,64}(/main:(none|(sha256:)?[0-9a-fA-F]{8,64}))?")
_WHOLE: Final = re.compile(r"(sha256:)?[0-9a-fA-F]{64}(/main:(none|(sha256:)?[0-9a-fA-F]{64}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeWish:
    """What is to be approved of what programs were seen to load.

    Attributes:
        is_listed: False: what is loaded isn't looked at.
        check: what follows from other code; None: as ``decide_code`` says.
        is_jit: they make code at run time.
    """

    is_listed: bool = True
    check: CodeCheck | None = None
    is_jit: bool = False


AS_SEEN: Final = CodeWish()


def is_digest(text: str) -> bool:
    """Tell whether a word is a program's digest, or its first digits."""
    return bool(_DIGITS.fullmatch(text))


def read_words(words: Sequence[str]) -> tuple[Workload | None, tuple[str, ...]]:
    """Read ``[WORKLOAD] DIGEST…``.

    Raises:
        InputError: a word is neither. (IdentityError: the first one is no workload.)
    """
    workload = None
    if words and not is_digest(words[0]):
        workload, words = parse_workload(words[0]), words[1:]
    for word in words:
        if not is_digest(word):
            raise InputError(f"not a digest: {word[:80]!r}", hint="at least its first eight digits")
    return workload, tuple(words)


def choose(
    waiting: Sequence[QueuedProgram], *, workload: Workload | None, names: Sequence[str], image: str
) -> tuple[QueuedProgram, ...]:
    """Return the entries that are meant: by digest, or all of an image; narrowed to a workload.

    Raises:
        NotFoundError: nothing of that waits.
        InputError: neither digests nor an image are given, or digits that begin several digests.
    """
    if bool(names) == bool(image):
        raise InputError("give digests, or --image", hint="`touchmark program queue` lists what waits")
    own = [each for each in waiting if workload is None or each.seen.workload == str(workload)]
    if image:
        found = [each for each in own if is_of_image(each.seen, image)]
        if not found:
            raise NotFoundError(f"no program of {image} waits", hint="`touchmark program queue` lists what does")
        return tuple(found)
    chosen: list[QueuedProgram] = []
    for name in names:
        found = [each for each in own if _is_named(each.seen.program, name)]
        if not found:
            raise NotFoundError(f"no program {name} waits", hint="`touchmark program queue` lists what does")
        programs = sorted({str(each.seen.program) for each in found})
        if len(programs) > 1:
            raise InputError(f"{name} may be any of {', '.join(programs)[:300]}", hint="write more of it")
        chosen += [each for each in found if each not in chosen]
    return tuple(chosen)


def name_whole(names: Sequence[str]) -> tuple[Program, ...] | None:
    """Return the programs if all of them are named in full; else None."""
    if not all(_WHOLE.fullmatch(name) for name in names):
        return None
    return tuple(parse_program(name) for name in names)


def find_refused(
    queue: ProgramQueue, *, workload: Workload | None, names: Sequence[str]
) -> dict[Workload, list[Program]]:
    """Return the refused programs that are meant, by workload.

    Raises:
        NotFoundError: one of them isn't refused.
    """
    found: dict[Workload, list[Program]] = {}
    for name in names:
        matching = [
            each
            for each in queue.refused
            if _is_named(each.program, name) and (workload is None or each.workload == str(workload))
        ]
        if not matching:
            raise NotFoundError(f"no program {name} is refused", hint="`touchmark program queue` lists what is")
        for each in matching:
            found.setdefault(parse_workload(each.workload), []).append(each.program)
    return found


def describe_weakness(entry: QueuedProgram) -> str:
    """Say what approving an entry allows beyond the program itself; empty: it needs no --weak."""
    return describe_allowance(entry.seen.program, entry.seen.path)


def has_loaded(entry: QueuedProgram) -> bool:
    """Tell whether an approval says something of loaded code, as it was seen."""
    code = entry.seen.code
    return code is not None and bool(code.objects or code.anonymous or code.omitted)


def list_loaded(entry: QueuedProgram) -> list[str]:
    """Return what a program had loaded, as lines; the digests' first 12 digits."""
    objects = entry.seen.code.objects if entry.seen.code is not None else ()
    return [f"{each.path} ({f'sha256:{each.digest[:12]}' if each.digest else 'not measured'})" for each in objects]


def note_loaded(entry: QueuedProgram) -> str:
    """Say what else is to be known of the loaded code; empty: nothing."""
    code = entry.seen.code
    if code is None:
        return ""
    notes = [f"{code.omitted} more files"] if code.omitted else []
    if code.anonymous:
        notes.append("anonymous executable memory: other code is only reported, unless --jit says that it makes code")
    return "; ".join(notes)


def digest_code(entry: QueuedProgram) -> str:
    """Return a digest of what a program had loaded; empty: not known."""
    return hashlib.sha256(msgspec.json.encode(entry.seen.code)).hexdigest() if entry.seen.code is not None else ""


def make_requests(
    entries: Sequence[QueuedProgram], *, approved_by: str, wish: CodeWish = AS_SEEN
) -> list[ProgramRequest]:
    """Return what approves entries: for each workload one ``Program``, and one apart for its weak programs.

    So nothing is approved as weak because something else is.
    """
    groups: dict[tuple[str, bool], list[QueuedProgram]] = {}
    for entry in entries:
        groups.setdefault((entry.seen.workload, bool(describe_weakness(entry))), []).append(entry)
    requests = []
    for (workload, weak), group in groups.items():
        candidates = [
            Candidate(program=each.seen.program, source=each.seen.path, weakness="", code=each.seen.code)
            for each in group
        ]
        code = None
        if wish.is_listed:
            code = decide_code(candidates, (), check=wish.check, is_jit=wish.is_jit, weak=weak)
        requests.append(
            make_request(parse_workload(workload), candidates, name="", weak=weak, approved_by=approved_by, code=code)
        )
    return requests


def _is_named(program: Program, name: str) -> bool:
    digest, _, main = name.removeprefix("sha256:").lower().partition("/main:")
    if not program.digest.startswith(digest):
        return False
    main = main.removeprefix("sha256:")
    if not main:
        # A whole digest means exactly that program, as everywhere else; its first digits also its scripts.
        return not program.main or len(digest) < 64
    return program.main == main or (main != "none" and program.main.startswith(main))
