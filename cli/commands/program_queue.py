"""``touchmark program queue`` and ``refuse``, and approving what waits in the queue.

Belongs here: these verbs. Doesn't: which entries a command line means (``cli/backends/program_choice.py``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from cli.text.printable import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.backends.base import PolicyBackend
    from cli.backends.program_choice import CodeWish
    from cli.backends.target import Target
    from shared.model.adoption.program_queue import ProgramQueue, ProgramRefusal, QueuedProgram
    from shared.model.identity.identity import Workload
    from shared.model.identity.program import Program
    from shared.model.wire.admin import ProgramView

_QUEUE: JsonResult[ProgramQueue] = JsonResult()
_REFUSED: JsonResult[Sequence[ProgramRefusal]] = JsonResult(note="all that is refused in these namespaces now")
_MAX_SHOWN: Final = 3
_MAX_LOADED_SHOWN: Final = 5
_USUAL: Final = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/usr/libexec/")  # Of libraries.

Image = Annotated[
    str, typer.Option("--image", metavar="IMAGE", help="All that was seen in this image, with or without its digest.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@prints(_QUEUE)
def queue(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="Only this namespace.")] = "",
    image: Image = "",
    loaded: Annotated[
        bool, typer.Option("--loaded", help="List all that they had loaded, not only the first objects.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the programs that were seen and are neither approved nor refused, and those that were refused.

    All but the digest is the word of the workload's own sidecar: where the program's file is, its package, its image,
    what started it, what it had loaded. NEW SINCE is the image that ran before, and didn't have it. Programs of all
    namespaces take the right to read all of them: name yours otherwise.

    Examples: touchmark program queue shop · touchmark program queue --image registry.example/shop/web:1.4
    """
    import msgspec

    from cli.backends.session import work_on_policies
    from cli.commands.unknown_namespace import refuse_unknown
    from cli.text.output import print_note
    from shared.model.adoption.program_queue import is_of_image

    target = options.get_target(context)
    found = work_on_policies(target, lambda backend: backend.get_queue(namespace))
    if not (found.waiting or found.refused):
        refuse_unknown(target, namespace)
    if image:
        found = msgspec.structs.replace(
            found, waiting=tuple(each for each in found.waiting if is_of_image(each.seen, image)), refused=()
        )
    if as_json:
        _QUEUE.print(found)
        return
    show_waiting(found.waiting)
    show_loaded(found.waiting, most=None if loaded else _MAX_LOADED_SHOWN)
    show_refused(found.refused)
    if found.is_truncated:
        print_note("a workload has run more programs than are remembered: those seen last are here")


def show_waiting(waiting: Sequence[QueuedProgram]) -> None:
    """Print what waits, and what each entry takes."""
    from cli.backends.program_choice import describe_weakness
    from cli.text.duration import format_time
    from cli.text.output import name_some, print_table, shorten

    print_table(
        (
            "WORKLOAD",
            "PROGRAM",
            "PATH",
            "PACKAGE",
            "IMAGE",
            "NEW SINCE",
            "STARTED BY",
            "PODS",
            "SEEN",
            "LOADED",
            "APPROVAL",
        ),
        (
            (
                each.seen.workload,
                shorten(str(each.seen.program)),
                each.seen.path or "-",
                each.seen.package or "-",
                name_some([shorten_image(one.image) for one in each.seen.images], most=_MAX_SHOWN) or "-",
                shorten_image(each.new_since) or "-",
                each.seen.parents[0] if each.seen.parents else "-",
                name_some(each.seen.pods, most=_MAX_SHOWN),
                f"{format_time(each.seen.first)} to {format_time(each.seen.last)}",
                _count_loaded(each),
                f"--weak: {weakness}" if (weakness := describe_weakness(each)) else "plain",
            )
            for each in waiting
        ),
        empty="no program waits for an approval",
    )


def _count_loaded(entry: QueuedProgram) -> str:
    from cli.backends.program_choice import list_loaded, note_loaded

    if entry.seen.code is None:
        return "-"
    count = len(list_loaded(entry))
    return f"{count} object{'' if count == 1 else 's'}" + (f"; {note}" if (note := note_loaded(entry)) else "")


def show_loaded(waiting: Sequence[QueuedProgram], *, most: int | None = None) -> None:
    """Print what programs had loaded, which is approved with them.

    First comes what the fewest of them had, of this what doesn't lie where libraries do.

    Arguments:
        most: so many objects alone; None: all, as who is asked to approve them must see.
    """
    from cli.backends.program_choice import has_loaded
    from cli.text.output import name_some, print_line, print_table, shorten

    users: dict[tuple[str, str], list[str]] = {}
    for entry in waiting:
        for each in entry.seen.code.objects if entry.seen.code is not None else ():
            users.setdefault((each.path, each.digest), []).append(shorten(str(entry.seen.program)))
    if not any(map(has_loaded, waiting)):
        return
    objects = sorted(users.items(), key=lambda item: (len(item[1]), item[0][0].startswith(_USUAL), item[0]))
    print_line()
    print_table(
        ("LOADED OBJECT", "DIGEST", "BY"),
        (
            (path, f"sha256:{digest}" if digest else "not measured", name_some(by, most=_MAX_SHOWN))
            for (path, digest), by in objects[:most]
        ),
        empty="no object is known",
    )
    if most is not None and len(objects) > most:
        print_line(f"and {len(objects) - most} more: --loaded lists them, --json by program")


def show_refused(refused: Sequence[ProgramRefusal]) -> None:
    """Print what was refused; nothing where nothing was."""
    from cli.text.duration import format_time
    from cli.text.output import print_line, print_table, shorten

    if not refused:
        return
    print_line()
    print_table(
        ("REFUSED FOR", "PROGRAM", "PATH", "BY", "AT"),
        (
            (
                each.workload,
                shorten(str(each.program)),
                each.path or "-",
                each.refused_by or "-",
                format_time(each.refused),
            )
            for each in refused
        ),
        empty="",
    )


def shorten_image(image: str) -> str:
    """Shorten an image's digest to its first 12 digits."""
    name, at, digest = image.partition("@sha256:")
    return f"{name}{at}{digest[:12]}"


@prints(_REFUSED)
def refuse(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORKLOAD] DIGEST…", help="Digests, or their first eight digits or more, as listed."),
    ] = None,
    image: Image = "",
    take_back: Annotated[
        bool, typer.Option("--take-back", help="They were refused, and are proposed again from now on.")
    ] = False,
    yes: Yes = False,
    as_json: options.Json = False,
) -> None:
    """Refuse programs: nothing proposes them again, and `program queue` shows who refused them.

    A refusal closes nothing: a program without an approval has no identity in explicit mode anyway. It is remembered by
    the CA, also in a cluster, and ends with an approval or with --take-back. A digest alone means every workload that
    it was seen in, which takes the right to read all namespaces: otherwise put yours in front, such as shop/web.

    Examples: touchmark program refuse 3f9a81c2 · touchmark program refuse shop/web sha256:… · touchmark program refuse
    --image registry.example/shop/web:1.4
    """
    from cli.backends.program_choice import read_words
    from cli.backends.session import work_on_policies
    from cli.text.output import print_line, shorten
    from shared.model.errors import InputError

    workload, names = read_words(words or ())
    if take_back and image:
        raise InputError("--take-back names digests")

    async def converse(backend: PolicyBackend) -> Sequence[ProgramRefusal]:
        from shared.model.adoption.program_queue import RefusalRequest

        known = await backend.get_queue(workload.namespace if workload else "")
        meant = _find_meant(known, workload, names, image, take_back=take_back, yes=yes, as_json=as_json)
        user = await backend.name_user()
        refused: list[ProgramRefusal] = []
        for subject, programs in meant.items():
            request = RefusalRequest(
                service_account=subject.service_account, programs=tuple(programs), refused_by=user, takes_back=take_back
            )
            left = await backend.refuse_programs(subject.namespace, request)
            refused = [each for each in refused if each.namespace != subject.namespace] + list(left.refused)
            if not as_json:
                for program in programs:
                    done = "may be proposed again" if take_back else "refused"
                    print_line(f"{done} for {subject}: {program}  ({shorten(str(program))})")
        return refused

    refused = work_on_policies(options.get_target(context), converse)
    if as_json:
        _REFUSED.print(refused)


def _find_meant(
    known: ProgramQueue,
    workload: Workload | None,
    names: Sequence[str],
    image: str,
    *,
    take_back: bool,
    yes: bool,
    as_json: bool,
) -> dict[Workload, list[Program]]:
    from cli.backends.program_choice import choose, find_refused, name_whole
    from shared.model.errors import InputError
    from shared.model.identity.identity import parse_workload

    if take_back:
        if not names:
            raise InputError("name the programs", hint="`touchmark program queue` lists what is refused")
        return find_refused(known, workload=workload, names=names)
    whole = name_whole(names)
    if workload is not None and names and whole is not None and not image:
        return {workload: list(whole)}  # Also one that was never seen.
    entries = choose(known.waiting, workload=workload, names=names, image=image)
    confirm(entries, "Refuse", is_confirmed=yes or (whole is not None and len(entries) == 1), as_json=as_json)
    meant: dict[Workload, list[Program]] = {}
    for each in entries:
        meant.setdefault(parse_workload(each.seen.workload), []).append(each.seen.program)
    return meant


def confirm(entries: Sequence[QueuedProgram], verb: str, *, is_confirmed: bool, as_json: bool) -> None:
    """Show what is meant, and ask once.

    Raises:
        RefusedError: the answer is no, or this isn't a terminal.
    """
    from shared.model.errors import RefusedError

    if is_confirmed:
        return
    if not as_json:
        show_waiting(entries)
        show_loaded(entries)
    if as_json or not sys.stdin.isatty():
        count = len(entries)
        raise RefusedError(
            f"{count} program{'s need' if count != 1 else ' needs'} a review",
            hint="review them, then repeat with --yes",
        )
    what = escape(entries[0].seen.path) or str(entries[0].seen.program) if len(entries) == 1 else "these programs"
    if not typer.confirm(f"{verb} {what}?", err=True):
        raise RefusedError("nothing was changed")


def approve_waiting(
    target: Target,
    words: Sequence[str],
    *,
    image: str,
    weak: bool,
    yes: bool,
    as_json: bool,
    is_forced: bool,
    wish: CodeWish,
) -> list[tuple[ProgramView, bool]]:
    """Approve programs of the queue, with what was seen of them; those that need --weak only with it.

    A whole digest isn't asked about, unless something is approved with it that the command line doesn't name.

    Raises:
        InputError: all that is meant needs --weak.
        RefusedError: it wasn't confirmed.
    """
    from cli.backends.program_choice import (
        choose,
        describe_weakness,
        has_loaded,
        make_requests,
        name_whole,
        read_words,
    )
    from cli.backends.session import work_on_policies
    from cli.text.output import print_note, shorten
    from shared.model.errors import InputError

    workload, names = read_words(words)

    async def converse(backend: PolicyBackend) -> list[tuple[ProgramView, bool]]:
        known = await backend.get_queue(workload.namespace if workload else "")
        entries = choose(known.waiting, workload=workload, names=names, image=image)
        left = [each for each in entries if describe_weakness(each) and not weak]
        if left and (len(left) == len(entries) or not image):
            raise InputError(
                f"{escape(left[0].seen.path) or left[0].seen.program} needs --weak: its approval allows"
                f" {describe_weakness(left[0])}",
                hint="repeat with --weak if that is meant",
            )
        entries = tuple(each for each in entries if each not in left)
        is_plain = name_whole(names) is not None and len(entries) == 1 and not image
        is_plain = is_plain and not (wish.is_listed and any(map(has_loaded, entries)))
        confirm(entries, "Approve", is_confirmed=yes or is_plain, as_json=as_json)
        for each in left:
            name = f"{shorten(str(each.seen.program))} {each.seen.path}"
            print_note(f"left: {name} needs --weak: it allows {describe_weakness(each)}")
        requests = make_requests(entries, approved_by=await backend.name_user(), wish=wish)
        return [await backend.approve_programs(request) for request in requests]

    return work_on_policies(target, converse, is_forced=is_forced)
