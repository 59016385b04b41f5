"""Rows that are sums: each addition is one statement, whatever was there before. Pure.

Belongs here: the statement, for SQLite and PostgreSQL. Doesn't: what is added (``tally.py``).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Executable, Table, case
from sqlalchemy.dialects import postgresql, sqlite

from ca.store.engine.database import Database

_HIGHEST: Final = 2**62


def bound_sum(number: int) -> int:
    """Return the number, or the highest that a sum becomes."""
    return min(number, _HIGHEST)


def upsert_sums(
    database: Database, table: Table, keys: tuple[str, ...], *, added: tuple[str, ...], kept: tuple[str, ...] = ()
) -> Executable:
    """Return the statement that adds to a row, or makes it.

    Arguments:
        keys: which row it is.
        added: columns whose numbers are added, up to a highest one.
        kept: columns that are as the newest addition says. ``first`` and ``last`` become the earliest and the latest.
    """
    statement: Any = sqlite.insert(table) if database.is_sqlite else postgresql.insert(table)
    old, new = table.c, statement.excluded

    def choose(smaller: bool, one: Any, other: Any) -> Any:
        return case((one < other if smaller else one > other, one), else_=other)

    values = {name: choose(True, old[name] + new[name], _HIGHEST) for name in added}
    values |= {name: new[name] for name in kept}
    values |= {"first": choose(True, old["first"], new["first"]), "last": choose(False, old["last"], new["last"])}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=values)  # type: ignore[no-any-return]
