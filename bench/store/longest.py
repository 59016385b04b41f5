"""Notes how long a question's longest statement takes, or page of one that is read in pages.

By the clock, from where it is given to the driver until its rows are there. Doesn't hear what goes to the drivers past
SQLAlchemy: short transactions by keys, of which the whole question is measured.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncResult

from ca.store.engine.database import Database


class Longest:
    """How long the longest has taken since it was asked last, in ms, and which it was."""

    def __init__(self) -> None:
        self._took_ms = 0.0
        self._statement = ""

    def note(self, began: float, statement: str) -> None:
        took_ms = (time.perf_counter() - began) * 1000
        if took_ms > self._took_ms:
            self._took_ms, self._statement = took_ms, statement

    def take(self) -> tuple[float, str]:
        """Return it, and begin anew."""
        took_ms, statement = self._took_ms, self._statement
        self._took_ms, self._statement = 0.0, ""
        return took_ms, statement


@contextmanager
def hearing(database: Database) -> Iterator[Longest]:
    """Hear all that this database is asked."""
    longest, engine = Longest(), database._engine.sync_engine
    partitions = AsyncResult.partitions

    def begin(
        _connection: object, _cursor: object, _statement: str, _values: object, context: Any, _many: bool
    ) -> None:
        context.began = time.perf_counter()

    def end(_connection: object, _cursor: object, statement: str, _values: object, context: Any, _many: bool) -> None:
        longest.note(context.began, statement)

    async def list_pages(self: AsyncResult[Any], size: int | None = None) -> AsyncIterator[Sequence[Any]]:
        pages = partitions(self, size)
        while True:
            began = time.perf_counter()
            page = await anext(pages, None)
            longest.note(began, "a page")
            if page is None:
                return
            yield page

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    AsyncResult.partitions = list_pages  # type: ignore[method-assign, assignment]  # Until the block ends.
    try:
        yield longest
    finally:
        AsyncResult.partitions = partitions  # type: ignore[method-assign]
        event.remove(engine, "before_cursor_execute", begin)
        event.remove(engine, "after_cursor_execute", end)
