"""Generations of a namespace's mode, rules and approvals: appended in the transaction of each change. I/O.

Belongs here: what a generation holds, appending, reading, and how many are kept. Doesn't: reading the present state or
going back to an earlier one (``ca/store/namespace_history.py``).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Row, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.acting import current_actor
from ca.store.engine.database import Database
from ca.store.history.tables import namespace_generations
from shared.model.policy.rules import WorkloadMode
from shared.model.wire.admin_audit import AuditActor

MAX_GENERATIONS: Final = 100
MAX_BYTES: Final = 4 * 1024 * 1024  # Compressed, of one namespace; the two newest stay whatever they take.
BEFORE: Final = "before"


class StoredProgram(msgspec.Struct, frozen=True, kw_only=True):
    """One ``Program`` object, as its row has it; ``code``: JSON, ``null`` where the row has none."""

    name: str
    service_account: str
    programs: msgspec.Raw
    weak: bool
    approved_by: str
    approved: float
    code: msgspec.Raw


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace says; rules and programs as JSON, as their rows have it.

    Attributes:
        back_to: the mode to which ``mode``, which is on trial, goes back by itself; empty: it stays.
        workload_modes: the modes of workloads that have one of their own.
        workload_modes_back_to: those to which ``workload_modes``, which are on trial, go back; None: they stay.
    """

    mode: str
    has_policy: bool
    group_label: str
    rules: msgspec.Raw
    requires: msgspec.Raw
    programs: tuple[StoredProgram, ...] = ()
    back_to: str = ""
    workload_modes: tuple[WorkloadMode, ...] = ()
    workload_modes_back_to: tuple[WorkloadMode, ...] | None = None

    @property
    def settled_mode(self) -> str:
        """The mode that stays: what an undo gives back."""
        return self.back_to or self.mode

    @property
    def settled_workload_modes(self) -> tuple[WorkloadMode, ...]:
        """The workloads' modes that stay."""
        return self.workload_modes if self.workload_modes_back_to is None else self.workload_modes_back_to


_decoder: Final = msgspec.json.Decoder(Content)
_actor: Final = msgspec.json.Decoder(AuditActor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One state that a namespace had.

    Attributes:
        version: of the namespace, when it got this state.
        time: seconds since the epoch, by the database's clock.
        act: what made it, as in the audit log; ``before``: it is what the history began with.
        subject: what the act was about: the namespace, or ``namespace/program``.
        compressed: the content, as its row has it: a few kB that may be some MB decoded.
    """

    namespace: str
    generation: int
    version: int
    time: float
    act: str
    subject: str
    actor: AuditActor
    compressed: bytes

    @property
    def content(self) -> Content:
        """What the namespace said; decoded at each call, so that many generations don't lie decoded at once."""
        return _decoder.decode(zlib.decompress(self.compressed))


async def append_generation(
    database: Database,
    connection: AsyncConnection,
    namespace: str,
    *,
    version: int,
    act: str,
    subject: str,
    before: Content,
    after: Content,
) -> None:
    """Append a generation within the change's transaction, unless nothing differs.

    The caller has locked the namespace's row.

    Arguments:
        before: what the history begins with, where there is none yet.
    """
    columns = namespace_generations.c
    query = select(namespace_generations).where(columns.namespace == namespace).order_by(columns.generation.desc())
    newest = (await connection.execute(query.limit(1))).first()
    number = 1 if newest is None else newest.generation
    now = await database.read_clock(connection)
    actor = msgspec.json.encode(current_actor()).decode()
    known = _encode(before) if newest is None else zlib.decompress(newest.content)
    values = {"namespace": namespace, "time": now}
    if newest is None:
        first = {"generation": 1, "version": version - 1, "act": BEFORE, "subject": namespace, "actor": '{"kind":""}'}
        await connection.execute(insert(namespace_generations).values(**values, **first, content=zlib.compress(known)))
    data = _encode(after)
    # A content that an earlier release has written lacks fields that this one writes.
    if data == known or data == _encode(_decoder.decode(known)):
        return
    added = {"generation": number + 1, "version": version, "act": act, "subject": subject, "actor": actor}
    await connection.execute(insert(namespace_generations).values(**values, **added, content=zlib.compress(data)))
    await _prune(connection, namespace)


async def list_generations(connection: AsyncConnection, namespace: str, *, limit: int) -> list[Generation]:
    """Return the newest generations, newest first."""
    columns = namespace_generations.c
    query = select(namespace_generations).where(columns.namespace == namespace)
    rows = await connection.execute(query.order_by(columns.generation.desc()).limit(limit))
    return [_read(row) for row in rows]


async def find_generation(connection: AsyncConnection, namespace: str, generation: int) -> Generation | None:
    """Return one generation."""
    columns = namespace_generations.c
    query = select(namespace_generations).where(columns.namespace == namespace, columns.generation == generation)
    row = (await connection.execute(query)).first()
    return None if row is None else _read(row)


async def _prune(connection: AsyncConnection, namespace: str) -> None:
    columns = namespace_generations.c
    sizes = (
        select(columns.generation, func.length(columns.content).label("size"))
        .where(columns.namespace == namespace)
        .order_by(columns.generation.desc())
    )
    total = 0
    for position, row in enumerate(list(await connection.execute(sizes))):
        total += row.size
        if position >= MAX_GENERATIONS or (position >= 2 and total > MAX_BYTES):
            old = (columns.namespace == namespace) & (columns.generation <= row.generation)
            await connection.execute(delete(namespace_generations).where(old))
            return


def _encode(content: Content) -> bytes:
    return msgspec.json.encode(content)


def _read(row: Row[Any]) -> Generation:
    return Generation(
        namespace=row.namespace,
        generation=row.generation,
        version=row.version,
        time=row.time,
        act=row.act,
        subject=row.subject,
        actor=_actor.decode(row.actor),
        compressed=row.content,
    )
