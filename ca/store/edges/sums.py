"""Rows that are sums: each addition is one statement, whatever was there before. Pure.

Belongs here: the statement, for SQLite and PostgreSQL. Doesn't: what is added (``tally.py``).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Executable, Table, bindparam, case
from sqlalchemy.dialects import postgresql, sqlite

from ca.store.engine.prepared import Prepared

_HIGHEST: Final = 2**62


def bound_sum(number: int) -> int:
    """Return the number, or the highest that a sum becomes."""
    return min(number, _HIGHEST)


def prepare_sums(
    table: Table, keys: tuple[str, ...], *, added: tuple[str, ...], kept: tuple[str, ...] = ()
) -> Prepared:
    """Prepare the statement that adds to a row, or makes it; its parameters are the columns' names.

    Arguments:
        keys: which row it is.
        added: columns whose numbers are added, up to a highest one.
        kept: columns that are as the newest addition says. ``first`` and ``last`` become the earliest and the latest.
    """
    return Prepared(*(_make_statement(make(table), keys, added, kept) for make in (sqlite.insert, postgresql.insert)))


def _make_statement(statement: Any, keys: tuple[str, ...], added: tuple[str, ...], kept: tuple[str, ...]) -> Executable:
    table = statement.table
    statement = statement.values({column.name: bindparam(column.name) for column in table.c})
    old, new = table.c, statement.excluded

    def choose(smaller: bool, one: Any, other: Any) -> Any:
        return case((one < other if smaller else one > other, one), else_=other)

    values = {name: choose(True, old[name] + new[name], _HIGHEST) for name in added}
    values |= {name: new[name] for name in kept}
    values |= {"first": choose(True, old["first"], new["first"]), "last": choose(False, old["last"], new["last"])}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=values)  # type: ignore[no-any-return]
