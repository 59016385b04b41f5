"""``touchmark audit list|verify|export``: who did what, and that nothing of it was removed or changed."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from cli.commands.shapes import AuditChain, AuditExport
    from shared.model.wire.admin import AuditPage
    from shared.model.wire.admin_audit import AuditEntry, AuditMark

_LISTED: JsonResult[tuple[AuditEntry, ...]] = JsonResult(note="newest last")
_CHAIN: JsonResult[AuditChain] = JsonResult()
_EXPORTED: JsonResult[AuditExport] = JsonResult()
_PAGE = "1000"
_MAX_STATE = 200  # Characters of a state in the table: an approval with what it loads has thousands.

app = typer.Typer(no_args_is_help=True, help="Show who changed what in the mesh, and check the log of it.")


@app.command("list", cls=options.TargetCommand)
@prints(_LISTED)
def list_entries(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="Only acts of the last 30m, 24h or 7d.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most that many, the newest.")] = 50,
    as_json: options.Json = False,
) -> None:
    """List administrative acts: when, who, what, and the state before and after (its beginning; --json has all of it).

    Examples: touchmark audit list · touchmark audit list --since 7d --json
    """
    import time

    from cli.backends.session import ask_admin
    from cli.text.duration import format_time, parse_duration
    from cli.text.output import print_table
    from shared.model.wire.admin_audit import read_entry

    query = {
        "newest": "true",
        "limit": str(limit),
        "since": str(time.time() - parse_duration(since, "--since")) if since else "",
    }
    page = ask_admin(options.get_target(context), lambda client: client.list_audit(query))
    entries = tuple(read_entry(line) for line in page.lines)
    if as_json:
        _LISTED.print(entries)
        return
    print_table(
        ("LINE", "TIME", "ACT", "SUBJECT", "WHO", "BEFORE", "AFTER"),
        (
            (
                str(entry.sequence),
                format_time(entry.time),
                entry.act,
                entry.subject,
                describe_actor(entry),
                *(_write_state(state) for state in _differ(entry)),
            )
            for entry in entries
        ),
        empty="no administrative acts",
    )


@app.command(cls=options.TargetCommand)
@prints(_CHAIN)
def verify(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A file of `touchmark audit export`; by default the CA.")] = None,
    head: Annotated[
        str, typer.Option(help="NUMBER:SHA256 of a line that was noted earlier and must still be there.")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Check the audit log: no line was removed, changed or reordered. Exit code 3 if one was.

    The last line's NUMBER:SHA256 is printed. Keep it away from the CA: whoever can write the CA's database can write
    another whole log, which only `--head` with such a note shows.

    Examples: touchmark audit verify · touchmark audit verify audit.jsonl
    """
    from cli.backends.session import ask_admin
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line
    from shared.model.wire.admin_audit import parse_mark

    noted = parse_mark(head) if head else None
    check = _Check(noted)
    if file is not None:
        check.read_file(_read_lines(file))
    else:
        ask_admin(options.get_target(context), check.read_ca)
    chain = check.finish()
    if as_json:
        _CHAIN.print(chain)
    else:
        for fault in chain.faults:
            print_line(f"✗ at line {fault.sequence}: {fault.problem}")
        print_line(f"{'✓' if chain.is_whole else '✗'} {chain.lines} lines, after {chain.anchor}, to {chain.head}")
    if not chain.is_whole:
        raise typer.Exit(ExitCode.CHECK_FAILED)


@app.command(cls=options.TargetCommand)
@prints(_EXPORTED)
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A new file, one line of JSON for each act.")],
    prune: Annotated[bool, typer.Option("--prune", help="Remove the exported lines from the CA.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --prune: don't ask for confirmation.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the whole audit log to a new file. Exit code 3, and nothing pruned, if its chain is broken.

    With --prune the exported lines are removed afterwards. The CA keeps the last one's digest, so that the next export
    continues this one. Nothing else ever removes lines.

    Examples: touchmark audit export audit.jsonl · touchmark audit export audit.jsonl --prune
    """
    from cli.backends.session import ask_admin
    from cli.commands.shapes import AuditExport
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note
    from shared.model.errors import RefusedError

    if prune and not yes and (as_json or not sys.stdin.isatty()):
        raise RefusedError(
            "not a terminal, so there is no confirmation", hint="use --yes to prune without confirmation"
        )
    target = options.get_target(context)
    check = _Check(None)
    ask_admin(target, lambda client: _write_export(client, file, check))
    chain = check.finish()
    pruned = False
    if chain.is_whole and prune and chain.lines and (yes or typer.confirm(f"Remove {chain.lines} lines?", err=True)):
        ask_admin(target, lambda client: client.prune_audit(chain.head))
        pruned = True
    if as_json:
        _EXPORTED.print(AuditExport(file=str(file), chain=chain, is_pruned=pruned))
    else:
        for fault in chain.faults:
            print_note(f"✗ at line {fault.sequence}: {fault.problem}")
        print_line(f"{chain.lines} lines in {file}, after {chain.anchor}, to {chain.head}")
        if pruned:
            print_note("they were removed from the CA; keep the file")
    if not chain.is_whole:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def describe_actor(entry: AuditEntry) -> str:
    """Write who acted in a table's cell."""
    actor = entry.actor
    match actor.kind:
        case "socket":
            return f"{actor.name or '?'} (uid {actor.uid}, pid {actor.pid})"
        case "process":
            return f"{actor.name or '?'} (uid {actor.uid}, pid {actor.pid}), by {actor.origin} without a CA"
        case "user":
            return f"{actor.name}, by the admin port"
        case "port":
            return f"unknown, by the admin port from {actor.origin}"
        case "object":
            return f"{actor.origin}, by {actor.name or 'unknown'}"
        case "ca":
            return "the CA"
    return actor.kind


def _write_state(state: object) -> str:
    import msgspec

    text = "-" if state is None else msgspec.json.encode(state).decode()
    return text if len(text) <= _MAX_STATE else f"{text[:_MAX_STATE]}…"


def _differ(entry: AuditEntry) -> tuple[object, object]:
    """Return both states without what they have in common; as they are where one isn't an object."""
    before, after = entry.before, entry.after
    if not isinstance(before, dict) or not isinstance(after, dict):
        return before, after
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {n: before[n] for n in names if n in before}, {n: after[n] for n in names if n in after}


class _Check:
    """Follows a chain line by line.

    Arguments:
        noted: a line that must be among them, or be the one before the first; None: none.
    """

    def __init__(self, noted: AuditMark | None) -> None:
        from shared.model.wire.admin_audit import START, ChainFault

        self._noted = noted
        self._faults: list[ChainFault] = []
        self._anchor = self._last = START
        self._head: AuditMark | None = None
        self._lines = 0
        self._is_found = noted is None

    async def read_ca(self, client: AdminClient) -> None:
        """Check all lines of the CA's log, up to its head."""
        async for _page in self.read_pages(client):
            pass

    async def read_pages(self, client: AdminClient) -> AsyncIterator[AuditPage]:
        """Check the CA's log page by page, and yield each page. Lines that are added in the meantime come last."""
        is_first = True
        while True:
            after = str(self._last.sequence) if not is_first else ""
            page = await client.list_audit({"after": after, "limit": _PAGE})
            if is_first:
                self._begin(page.anchor)
                is_first = False
            for line in page.lines:
                self._follow(line)
            yield page
            if page.is_last or not page.lines:
                self._head = page.head
                return

    def read_file(self, lines: Iterable[str]) -> None:
        """Check the lines of a file. It begins where its first line says, and ends with its last."""
        from shared.model.errors import InputError
        from shared.model.wire.admin_audit import AuditMark, read_entry

        for number, line in enumerate(lines):
            if number == 0:
                try:
                    first = read_entry(line)
                except InputError:
                    pass
                else:
                    self._begin(AuditMark(sequence=max(first.sequence - 1, 0), digest=first.previous))
            self._follow(line)

    def finish(self) -> AuditChain:
        """Return what was found."""
        from cli.commands.shapes import AuditChain
        from shared.model.wire.admin_audit import ChainFault

        faults = self._faults
        if self._head is not None and self._head != self._last:
            problem = f"the log ends at line {self._head.sequence} ({self._head.digest}): its last lines were removed "
            faults.append(ChainFault(sequence=self._last.sequence, problem=problem + "or changed"))
        if self._noted is not None and not self._is_found:
            problem = f"the log doesn't hold this line with the digest {self._noted.digest}"
            faults.append(ChainFault(sequence=self._noted.sequence, problem=problem))
        return AuditChain(
            is_whole=not faults,
            lines=self._lines,
            anchor=str(self._anchor),
            head=str(self._last),
            faults=tuple(faults[:100]),
        )

    def _begin(self, anchor: AuditMark) -> None:
        self._anchor = self._last = anchor
        self._note(anchor)

    def _follow(self, line: str) -> None:
        from shared.model.wire.admin_audit import check_line

        self._last, fault = check_line(line, after=self._last)
        if fault is not None:
            self._faults.append(fault)
        self._lines += 1
        self._note(self._last)

    def _note(self, mark: AuditMark) -> None:
        if mark == self._noted:
            self._is_found = True


async def _write_export(client: AdminClient, file: Path, check: _Check) -> None:
    opened = _open_new(file)
    with opened:
        async for page in check.read_pages(client):
            opened.writelines(f"{line}\n" for line in page.lines)
        opened.flush()
        os.fsync(opened.fileno())


def _open_new(file: Path) -> TextIO:
    from shared.model.errors import InputError

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return open(descriptor, "w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"can't write {file}: {error.strerror}", hint="name a file that doesn't exist yet") from error


def _read_lines(file: Path) -> Iterable[str]:
    from shared.model.errors import InputError

    try:
        with file.open(encoding="utf-8", newline="\n") as opened:
            for line in opened:
                yield line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can't read {file}: {error}", hint="name a file of `touchmark audit export`") from error
