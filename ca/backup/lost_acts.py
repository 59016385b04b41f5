"""What was done in a store after a backup that now takes its place: read before it goes, to be repeated. I/O.

Nobody else knows these acts: an eviction, a taint or a withdrawn approval would be undone without a word. A store is
compared with the backup by the audit log's chain, so that the acts of another CA aren't taken for this one's.

Belongs here: which acts, and which evictions among them the CA reminds of until somebody decides. Doesn't: undoing or
repeating any of them, which is for whoever restores to decide; the old store may be what an intruder has written.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.tables import audit_lines
from shared.model.errors import IdentityError, InputError
from shared.model.identity.identity import parse_workload
from shared.model.wire.admin_audit import AuditEntry, read_entry
from shared.model.wire.registration import check_instance

MAX_READ: Final = 1_000
# The newest ones; the line of the restore in the audit log has room for them.
MAX_REMINDED: Final = 50
# What nobody has to repeat.
_OF_ITSELF: Final = frozenset({"audit.prune", "sidecar.second", "store.backup", "store.restore"})
_READ: Final = f"SELECT sequence, digest, line FROM audit_lines ORDER BY sequence DESC LIMIT {MAX_READ}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of an audit log, as its store has it."""

    sequence: int
    digest: str
    text: str


def read_file(path: Path) -> list[Line]:
    """Return the newest lines of SQLite's file, newest first; nothing where it can't be read, or has none."""
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(_READ).fetchall()
            return [Line(sequence=sequence, digest=digest, text=line) for sequence, digest, line in rows]
    except sqlite3.Error:  # Damaged, which is why it is replaced, or from before there was an audit log.
        return []


async def read_database(connection: AsyncConnection) -> list[Line]:
    """Return the newest lines of PostgreSQL's store, newest first, within a greater transaction."""
    if await connection.scalar(text("SELECT to_regclass('audit_lines')")) is None:
        return []
    columns = audit_lines.c
    query = select(columns.sequence, columns.digest, columns.line).order_by(columns.sequence.desc()).limit(MAX_READ)
    return [Line(sequence=row.sequence, digest=row.digest, text=row.line) for row in await connection.execute(query)]


async def read_last(connection: AsyncConnection) -> Line | None:
    """Return the last line of the store that was loaded."""
    columns = audit_lines.c
    query = select(columns.sequence, columns.digest, columns.line).order_by(columns.sequence.desc()).limit(1)
    row = (await connection.execute(query)).first()
    return None if row is None else Line(sequence=row.sequence, digest=row.digest, text=row.line)


def find_lost(former: Sequence[Line], last: Line | None) -> tuple[AuditEntry, ...]:
    """Return the acts of the former store after the backup's last one, oldest first.

    Arguments:
        former: as it was read, newest first, at most ``MAX_READ``.
        last: the backup's last line.
    """
    return tuple(entry for entry in _follow(former, last) if entry.act not in _OF_ITSELF)


def _follow(former: Sequence[Line], last: Line | None) -> Iterable[AuditEntry]:
    if last is None or not any((each.sequence, each.digest) == (last.sequence, last.digest) for each in former):
        return ()  # Another CA's store, or one in which more was done than is read.
    return _read(each.text for each in reversed(former) if each.sequence > last.sequence)


def find_undone_evictions(former: Sequence[Line], last: Line | None) -> tuple[str, ...]:
    """Return whom the former store had evicted after the backup's last act, and hadn't let in again.

    Those of whom the former store still reminded, as it had been restored itself, are among them.

    Arguments:
        former, last: as ``find_lost`` has them.
    """
    undone: dict[str, None] = {}
    for entry in _follow(former, last):
        match entry.act:
            case "sidecar.evict":
                undone.pop(entry.subject, None)
                undone[entry.subject] = None
            case "sidecar.readmit" | "eviction.dismiss":
                undone.pop(entry.subject, None)
            case "store.restore":
                names = entry.after.get("undone_evictions") if isinstance(entry.after, dict) else None
                undone.update(dict.fromkeys(map(str, names if isinstance(names, list) else ())))
    return tuple(filter(_is_evictable, undone))[-MAX_REMINDED:]


def _is_evictable(name: str) -> bool:
    """Tell whether it names a sidecar or a workload, as what an intruder wrote may not."""
    try:
        parse_workload(name) if "/" in name else check_instance(name)
    except (InputError, IdentityError):
        return False
    return True


def _read(lines: Iterable[str]) -> Iterable[AuditEntry]:
    for line in lines:
        with contextlib.suppress(InputError):
            yield read_entry(line)
