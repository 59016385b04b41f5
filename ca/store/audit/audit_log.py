"""The audit log: one line for each administrative act, in the transaction of the act. I/O through ``Database``.

Belongs here: appending, reading, explicit pruning. Doesn't: what a line holds and how a chain is checked
(``shared/model/wire/admin_audit.py``), or who acts (``acting.py``).

Nothing prunes it but an operator, who names the last line to go and its digest, and so has it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
from sqlalchemy import ColumnElement, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.acting import current_actor
from ca.store.audit.tables import audit_lines, audit_marks
from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared, prepare_insert, prepare_update, prepare_upsert
from ca.store.engine.pruning import PRUNED_AT_ONCE
from shared.model.errors import ConflictError, NotFoundError
from shared.model.wire.admin_audit import (
    MAX_AUDIT_PAGE,
    START,
    AuditEntry,
    AuditMark,
    AuditPage,
    digest_line,
    encode_entry,
)

HEAD: Final = "head"
ANCHOR: Final = "anchor"
# Two states and the rest of a line stay below MAX_AUDIT_LINE_BYTES, also where a name's characters take three bytes.
MAX_STATE_BYTES: Final = 6_000
MAX_SUBJECT_CHARACTERS: Final = 600
_log = structlog.get_logger("touchmark.audit")
_OF_NAME: Final = select(audit_marks).where(audit_marks.c.name == bindparam("name"))
_MARK: Final = Prepared(_OF_NAME)
_LOCK_MARK: Final = Prepared(_OF_NAME.with_for_update())
_BEGIN: Final = prepare_upsert(audit_marks, ("name", "sequence", "digest"), updated=())
_FIND_TIME: Final = Prepared(select(audit_lines.c.time).where(audit_lines.c.sequence == bindparam("sequence")))
_APPEND: Final = prepare_insert(audit_lines)
_MOVE: Final = prepare_update(audit_marks, ("sequence", "digest"), audit_marks.c.name == bindparam("of_name"))


async def append_audit(
    database: Database,
    connection: AsyncConnection,
    act: str,
    subject: str,
    *,
    before: object = None,
    after: object = None,
) -> None:
    """Append a line within the transaction of the act. Do it last: other acts wait for its row until the commit.

    Arguments:
        before, after: what msgspec can encode; no keys, secrets or tokens.
    """
    await _BEGIN.on(connection, name=HEAD, sequence=START.sequence, digest=START.digest)
    # Locked until the commit, so that the chain stays one line with several replicas on PostgreSQL.
    head = await _read_mark(connection, HEAD, lock=True)
    entry = AuditEntry(
        sequence=head.sequence + 1,
        previous=head.digest,
        time=await database.read_clock(connection),
        act=act,
        subject=subject[:MAX_SUBJECT_CHARACTERS],
        actor=current_actor(),
        before=_bound(before),
        after=_bound(after),
    )
    line = encode_entry(entry)
    digest = digest_line(line)
    await _APPEND.on(connection, sequence=entry.sequence, time=entry.time, digest=digest, line=line)
    await _MOVE.on(connection, of_name=HEAD, sequence=entry.sequence, digest=digest)
    # A copy of the chain's head outside the database. The transaction may still fail; the number is given again then.
    _log.info("audited", sequence=entry.sequence, digest=digest, act=act, subject=entry.subject)


class AuditLog:
    """What was done, by whom."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_lines(
        self,
        *,
        after: int = 0,
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
        newest: bool = False,
    ) -> AuditPage:
        """Return lines, oldest first: in the order of their numbers, those of a window of time in the order of time.

        The two differ only where the CA's clock was set back.

        Arguments:
            after: only lines behind the one of this number, in that order.
            since, until: seconds since the epoch.
            limit: 1 to ``MAX_AUDIT_PAGE``.
            newest: the last ``limit`` lines that match, instead of the first.
        """
        bound = min(limit, MAX_AUDIT_PAGE)
        columns = audit_lines.c
        order: list[ColumnElement[Any]] = [columns.sequence]
        query = select(columns.line).limit(bound + 1)
        if until is not None:
            query = query.where(columns.time <= until)
        async with self._database.reading() as connection:
            behind: ColumnElement[bool] = columns.sequence > after
            if since is not None or until is not None:
                order = [columns.time, columns.sequence]  # As their index has them.
                time = (await _FIND_TIME.on(connection, sequence=after)).scalar() if after else None
                if time is not None:
                    behind = (columns.time > time) | ((columns.time == time) & behind)
                    since = time if since is None else max(since, time)  # SQLite goes by one bound of the two.
            if since is not None:
                query = query.where(columns.time >= since)
            query = query.where(behind).order_by(*(each.desc() if newest else each for each in order))
            lines = list(await connection.scalars(query))
            anchor, head = await _read_mark(connection, ANCHOR), await _read_mark(connection, HEAD)
        kept = tuple(lines[:bound])
        return AuditPage(
            lines=kept[::-1] if newest else kept, anchor=anchor, head=head, is_last=newest or len(lines) <= bound
        )

    async def note(self, act: str, subject: str, *, after: object) -> None:
        """Append the line of an act that changes nothing in the store. Raises ``UnavailableError`` when it fails."""
        async with self._database.writing() as connection:
            await append_audit(self._database, connection, act, subject, before=None, after=after)

    async def prune(self, through: AuditMark) -> None:
        """Remove every line up to this one, which becomes the chain's anchor, and record that.

        In transactions of a bounded number of lines, so that no writer waits long: the first records what is meant, and
        each leaves a chain that is whole from its anchor on. What one that was interrupted has left goes when it is
        repeated.

        Raises:
            NotFoundError: there is no line of this number.
            ConflictError: the line has another digest: what the operator has isn't what is here.
        """
        async with self._database.writing() as connection:
            await connection.execute(
                self._database.upsert(
                    audit_marks, {"name": ANCHOR, "sequence": START.sequence, "digest": START.digest}, update=()
                )
            )
            digest = await connection.scalar(
                select(audit_lines.c.digest).where(audit_lines.c.sequence == through.sequence)
            )
            if digest is None:
                raise NotFoundError(f"the audit log has no line {through.sequence}")
            if digest != through.digest:
                raise ConflictError(
                    f"line {through.sequence} of the audit log isn't the exported one",
                    hint="nothing was removed; `touchmark audit verify` checks the log",
                )
            # The row is locked as an append does, so that the two take turns.
            before = await _read_mark(connection, ANCHOR, lock=True)
            anchor = await _remove_some(connection, before, through)
            await append_audit(
                self._database, connection, "audit.prune", str(through.sequence), before=before, after=through
            )
        while anchor.sequence < through.sequence:
            async with self._database.writing() as connection:
                before = await _read_mark(connection, ANCHOR, lock=True)
                anchor = await _remove_some(connection, before, through)


async def _remove_some(connection: AsyncConnection, anchor: AuditMark, through: AuditMark) -> AuditMark:
    """Remove lines behind the anchor, up to ``through`` at most; return the anchor that there is then."""
    lines = audit_lines.c
    if anchor.sequence >= through.sequence:
        return anchor
    # The numbers have no gaps, but where there was a backup: by the lines that are there.
    ahead = (
        select(lines.sequence, lines.digest)
        .where(lines.sequence > anchor.sequence, lines.sequence <= through.sequence)
        .order_by(lines.sequence)
        .limit(PRUNED_AT_ONCE)
        .subquery()
    )
    last = (await connection.execute(select(ahead).order_by(ahead.c.sequence.desc()).limit(1))).one()
    await connection.execute(delete(audit_lines).where(lines.sequence <= last.sequence))
    moved = {"sequence": last.sequence, "digest": last.digest}
    await connection.execute(update(audit_marks).where(audit_marks.c.name == ANCHOR).values(**moved))
    return AuditMark(**moved)


async def _read_mark(connection: AsyncConnection, name: str, *, lock: bool = False) -> AuditMark:
    row = (await (_LOCK_MARK if lock else _MARK).on(connection, name=name)).first()
    return START if row is None else AuditMark(sequence=row.sequence, digest=row.digest)


def _bound(state: object) -> Any:
    """Return a state as plain values; in the place of one that is too long its length and SHA-256."""
    if state is None:
        return None
    text = msgspec.json.encode(state)
    if len(text) > MAX_STATE_BYTES:
        return {"bytes": len(text), "sha256": digest_line(text.decode())}
    return msgspec.json.decode(text)
