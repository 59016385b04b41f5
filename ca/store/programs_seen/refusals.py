"""Programs that somebody refused, in the store: remembered until it is taken back or they are approved. I/O.

In a cluster as well, where approvals are objects. A ``Program`` with a field that says "refused" would be an approval
to every reader that doesn't know the field: to a CA of an older release, after a rollback or during an upgrade. And a
refusal is no policy: nothing is enforced by it, so it has no place in what a namespace's generations restore.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import and_, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.engine.database import Database
from ca.store.engine.pages import paging
from ca.store.programs_seen.tables import program_refusals
from shared.model.adoption.program_queue import ProgramRefusal
from shared.model.errors import InputError, NotFoundError
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program, parse_program

MAX_PER_NAMESPACE: Final = 10_000
MAX_AT_ONCE: Final = 256
_MANY: Final = 500
_PAGE: Final = 1_000
_AUDIT_REFUSE: Final = "program.refuse"
_AUDIT_TAKE_BACK: Final = "program.refusal.delete"


class Refusals:
    """Who refused what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_all(self, namespace: str = "") -> list[ProgramRefusal]:
        """Return the refusals of a namespace, or of all, by workload and program."""
        table = program_refusals
        query = select(*table.c).order_by(table.c.namespace, table.c.service_account, table.c.program)
        if namespace:
            query = query.where(table.c.namespace == namespace)
        found: list[ProgramRefusal] = []
        async with self._database.reading() as connection, paging(connection, query, at_once=_PAGE) as pages:
            async for page in pages:
                found += map(_read, page)
        return found

    async def add(self, refusals: Sequence[ProgramRefusal]) -> None:
        """Remember refusals of one workload; one that is there already stays as it is.

        Raises:
            InputError: there are none, too many at once, or too many in the namespace.
        """
        if not 0 < len(refusals) <= MAX_AT_ONCE:
            raise InputError(f"1 to {MAX_AT_ONCE} programs are refused at once")
        table, workload = program_refusals, refusals[0].workload
        async with self._database.writing() as connection:
            for each in refusals:
                values = {
                    "namespace": each.namespace,
                    "service_account": each.service_account,
                    "program": str(each.program),
                    "refused_by": each.refused_by,
                    "refused": each.refused,
                    "path": each.path,
                }
                await connection.execute(self._database.upsert(table, values, update=()))
            namespaces = {each.namespace for each in refusals}
            count = select(func.count()).select_from(table).where(table.c.namespace.in_(namespaces))
            if int(await connection.scalar(count) or 0) > MAX_PER_NAMESPACE:
                raise InputError(
                    f"a namespace has at most {MAX_PER_NAMESPACE} refused programs",
                    hint="`touchmark program refuse --take-back` makes room",
                )
            after = {"programs": [str(each.program) for each in refusals]}
            await append_audit(self._database, connection, _AUDIT_REFUSE, workload, after=after)

    async def take_back(self, workload: Workload, programs: Sequence[Program]) -> None:
        """Forget refusals of a workload's programs.

        Raises:
            NotFoundError: none of them is refused.
        """
        async with self._database.writing() as connection:
            gone = await forget_refusals(connection, workload, programs)
            if not gone:
                raise NotFoundError(
                    f"none of these programs of {workload} is refused",
                    hint=f"`touchmark program queue {workload.namespace}` lists what is",
                )
            before = {"programs": [str(each) for each in gone]}
            await append_audit(self._database, connection, _AUDIT_TAKE_BACK, str(workload), before=before)


async def forget_refusals(
    connection: AsyncConnection, workload: Workload, programs: Iterable[Program]
) -> tuple[Program, ...]:
    """Forget refusals within a greater transaction; return which there were. An approval takes a refusal back.

    Many in one statement: an object may name ten thousand programs, and nobody else writes meanwhile.
    """
    named = {str(program): program for program in programs}
    names, columns = list(named), program_refusals.c
    gone: list[Program] = []
    for begin in range(0, len(names), _MANY):
        some = and_(
            columns.namespace == workload.namespace,
            columns.service_account == workload.service_account,
            columns.program.in_(names[begin : begin + _MANY]),
        )
        if found := list(await connection.scalars(select(columns.program).where(some))):
            await connection.execute(delete(program_refusals).where(some))
            gone += [named[name] for name in found]
    return tuple(gone)


def _read(row: Any) -> ProgramRefusal:
    namespace, service_account, program, refused_by, refused, path = row  # There may be ten thousand: by position.
    return ProgramRefusal(
        namespace=namespace,
        service_account=service_account,
        program=parse_program(program),
        refused_by=refused_by,
        refused=refused,
        path=path,
    )
