"""Inserting a row or, where its key exists, updating it: both databases say it alike, and neither as SQL does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite


def make_upsert(
    insert: Callable[[Table], sqlite.Insert] | Callable[[Table], postgresql.Insert],
    table: Table,
    values: Mapping[str, Any],
    *,
    update: Sequence[str] | None,
) -> sqlite.Insert | postgresql.Insert:
    """Return the statement.

    Arguments:
        insert: the dialect's.
        update: the columns to update; None: all but the key; none: leave the row as it is.
    """
    keys = [column.name for column in table.primary_key]
    names = [name for name in values if name not in keys] if update is None else list(update)
    statement = insert(table).values(**values)
    if not names:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_={name: statement.excluded[name] for name in names})
