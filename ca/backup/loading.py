"""A backup's content into an empty database, in one transaction: loaded, counted, brought up to date, verified. I/O.

Belongs here: what is the same for SQLite and PostgreSQL. Doesn't: what takes whose place (``restore.py``).

The state is older than what sidecars and operators know, so it is made safe before anybody sees it:

- sequences and versions go on above everything that was ever given out: they become the present time in seconds;
- no sidecar counts as having installed anything: each acknowledges anew what it is sent;
- open join tokens are void: one may have been spent after the backup;
- it is noted since when the ledger lacks certificates: until the last of them has ended, no authority retires
  (``ca/store/authority_records.py``) and sidecars may resume with a certificate that isn't in it
  (``ca/authenticate/sidecar_certificate.py``).

What nobody can bring back: a taint, a withdrawn approval or a stricter policy since the backup. They must be repeated;
where the store that is replaced can be read, they are named (``lost_acts.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    MetaData,
    Table,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.authority.chains import check_authorities
from ca.authority.kek import KeyEncryptionKey, name_sealing_key
from ca.backup.content import End, Manifest, Message, Rows, decode_all
from ca.backup.export import count_rows
from ca.backup.lost_acts import Line, find_lost, find_undone_evictions, read_last
from ca.backup.sealing import Opened
from ca.store.authority_records import note_restoration, read_authorities
from ca.store.edges.edge_log import find_day, make_partitions
from ca.store.edges.tables import edge_hours
from ca.store.engine.database import Database
from ca.store.engine.revisions import list_revisions, upgrade
from ca.store.tables import (
    BUNDLE_SEQUENCE,
    counters,
    installed_namespaces,
    join_tokens,
    namespaces,
    renewal_keys,
    sidecars,
)
from shared.model.errors import ConflictError, InputError
from shared.model.wire.admin_audit import AuditEntry

# A backup from later than that is one of another time, or the clock is wrong.
_MAX_AHEAD_S: Final = 300.0
_VERSION_TABLE: Final = "alembic_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a backup held.

    Attributes:
        taken: seconds since the epoch.
        counts: rows by table.
        voided_tokens: join tokens that were open.
        lost: acts that the replaced store has and the backup lacks.
    """

    trust_domain: str
    taken: float
    counts: dict[str, int]
    voided_tokens: int
    lost: tuple[AuditEntry, ...] = ()


async def load(
    database: Database,
    connection: AsyncConnection,
    opened: Opened,
    *,
    find_kek: Callable[[str], KeyEncryptionKey],
    now: float,
    former: Sequence[Line] = (),
) -> Loaded:
    """Load a backup into a database without tables, within the connection's transaction.

    Arguments:
        find_kek: returns the CA's key-encryption key, given the ID of the one that the backup needs.
        former: the newest lines of the audit log of the store that is replaced.

    Raises:
        InputError: the backup is damaged, incomplete, or its authorities don't belong together.
        ConflictError: it was made by a newer version, or is from the future.
        KeyEncryptionError: the key-encryption key is missing, or another one.
        UnavailableError: the database fails.
    """
    messages = decode_all(opened.read_all())
    manifest = next(messages, None)
    if not isinstance(manifest, Manifest):
        raise InputError("the backup's content doesn't begin with its manifest")
    if manifest.revision not in list_revisions():
        raise ConflictError(
            f"this backup was made by a newer version of Touchmark ({opened.header.ca_version[:40]})",
            hint="restore it with that version",
        )
    if manifest.taken > now + _MAX_AHEAD_S:
        raise ConflictError("this backup is from the future", hint="see whether this machine's clock is right")
    await connection.run_sync(upgrade, manifest.revision)
    tables = await connection.run_sync(_reflect)
    for table in tables.values():
        await connection.execute(delete(table))  # What a migration has put there is in the backup.
    end = await _fill(connection, tables, messages)
    for name, table in tables.items():
        if (found := await count_rows(connection, table)) != end.counts.get(name, 0):
            raise InputError(f"the backup is incomplete: {found} rows of {name}, not {end.counts.get(name, 0)}")
    if database.url.get_backend_name() == "postgresql":
        await _continue_numbering(connection, tables)
    await connection.run_sync(upgrade, "head")
    records = await read_authorities(connection)
    check_authorities(records, find_kek(next((name_sealing_key(r.sealed_key) for r in records if r.sealed_key), "")))
    last = await read_last(connection)
    lost, undone = find_lost(former, last), find_undone_evictions(former, last)
    voided = await _make_safe(database, connection, manifest, now=now, undone_evictions=undone)
    return Loaded(
        trust_domain=manifest.trust_domain, taken=manifest.taken, counts=end.counts, voided_tokens=voided, lost=lost
    )


async def _fill(connection: AsyncConnection, tables: dict[str, Table], messages: Iterator[Message]) -> End:
    for message in messages:
        if isinstance(message, End):
            if next(messages, None) is not None or not set(message.counts) <= set(tables):
                break
            return message
        if not isinstance(message, Rows) or (table := tables.get(message.table)) is None:
            break
        names = set(message.columns)
        if len(names) != len(message.columns) or not names <= set(table.columns.keys()):
            raise InputError(f"the backup's table {message.table[:80]} has other columns than its version")
        if not message.rows or any(len(row) != len(names) for row in message.rows):
            raise InputError(f"the backup's table {message.table[:80]} has a damaged row")
        rows = [dict(zip(message.columns, row, strict=True)) for row in message.rows]
        if message.table == edge_hours.name and connection.dialect.name == "postgresql":
            await make_partitions(connection, sorted({find_day(row["hour"]) for row in rows}))
        await connection.execute(insert(table), rows)
    raise InputError("the backup's content has no proper end")


async def _make_safe(
    database: Database,
    connection: AsyncConnection,
    manifest: Manifest,
    *,
    now: float,
    undone_evictions: tuple[str, ...],
) -> int:
    floor = int(now)
    await connection.execute(database.upsert(counters, {"name": BUNDLE_SEQUENCE, "value": 0}, update=()))
    await connection.execute(
        update(counters).where(counters.c.name == BUNDLE_SEQUENCE).values(value=_above(counters.c.value, floor))
    )
    await connection.execute(update(namespaces).values(version=_above(namespaces.c.version, floor)))
    await connection.execute(update(sidecars).values(connected=False, installed_sequence=0, replica=""))
    await connection.execute(update(installed_namespaces).values(version=0))
    voided = await connection.execute(update(join_tokens).where(join_tokens.c.spent.is_(None)).values(spent=now))
    # One may have been used since, by a sidecar or by a thief: the store couldn't tell.
    await connection.execute(delete(renewal_keys))
    await note_restoration(database, connection, taken=manifest.taken, now=now, undone_evictions=undone_evictions)
    return voided.rowcount


def _above(column: ColumnElement[int], floor: int) -> ColumnElement[int]:
    return case((column >= floor, column + 1), else_=literal(floor))


async def _continue_numbering(connection: AsyncConnection, tables: dict[str, Table]) -> None:
    """Let PostgreSQL's sequences go on behind the rows that brought their numbers along."""
    for name, table in tables.items():
        keys = list(table.primary_key)
        if len(keys) != 1:
            continue
        sequence = await connection.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": name, "column": keys[0].name}
        )
        if sequence is not None:
            last = await connection.scalar(select(func.max(keys[0])))
            await connection.execute(select(func.setval(sequence, (last or 0) + 1, False)))


def _reflect(connection: Connection) -> dict[str, Table]:
    found = MetaData()
    found.reflect(connection)
    return {str(name): table for name, table in found.tables.items() if name != _VERSION_TABLE}
