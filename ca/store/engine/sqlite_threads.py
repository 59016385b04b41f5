"""The threads in which SQLite works, one for each connection: known from their start, waited for at the end. I/O.

A transaction that is cancelled leaves its thread to finish by itself, and so does a connection that is cancelled while
it opens. The pool doesn't wait for those; a thread that delivers its answer to an event loop that is gone fails. Nobody
wants the answer of such a query: it is interrupted, since on a busy machine it may take longer than the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import aiosqlite
from sqlalchemy import Engine, event

from ca.store.engine.whole_statements import WholeStatements

END_S: Final = 5.0
_INTERRUPT_S: Final = 0.1
_ITERATED: Final = 64  # Rows at once, where a cursor is iterated over.


class RollingBack(sqlite3.Connection):
    """Gives its lock back when it is closed.

    SQLite keeps a closed connection, with its transaction and its lock, until its last statement is finalised
    (https://sqlite.org/c3ref/close.html), and a cancelled query's cursor lives for as long as its traceback does.
    """

    def close(self) -> None:
        """Roll back, and close."""
        with contextlib.suppress(sqlite3.Error):
            if self.in_transaction:
                self.rollback()
        super().close()


class SqliteThreads:
    """The threads of an engine's connections."""

    def __init__(self, engine: Engine) -> None:
        self._threads: dict[threading.Thread, aiosqlite.Connection] = {}

        @event.listens_for(engine, "do_connect")
        def connect_here(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
            options["async_creator_fn"] = self._connect

    async def connect(self, path: str, configure: Callable[[sqlite3.Connection], None]) -> aiosqlite.Connection:
        """Open a connection beside the pool's; who asks for it stops it before ``join``.

        Arguments:
            configure: is run in the connection's thread.
        """
        connection = await self._connect(path)
        try:
            await connection._execute(configure, connection._conn)  # type: ignore[no-untyped-call]
        except BaseException:
            connection.stop()
            raise
        return connection

    async def join(self, *, timeout_s: float = END_S) -> int:
        """Interrupt what still runs, and wait for its threads; return how many haven't ended in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for thread, connection in list(self._threads.items()):
            while thread.is_alive() and (left_s := deadline - loop.time()) > 0:
                # Again and again: it may not have begun yet.
                with contextlib.suppress(ValueError, sqlite3.Error):  # It has been closed, or isn't open yet.
                    await connection.interrupt()
                await asyncio.to_thread(thread.join, min(left_s, _INTERRUPT_S))
        self._forget_ended()
        return len(self._threads)

    async def _connect(self, *arguments: Any, **options: Any) -> aiosqlite.Connection:
        self._forget_ended()
        connection = WholeStatements(partial(sqlite3.connect, *arguments, factory=RollingBack, **options), _ITERATED)
        # As SQLAlchemy does where it connects itself: a thread that hangs doesn't keep the process.
        connection._thread.daemon = True
        self._threads[connection._thread] = connection
        return await connection

    def _forget_ended(self) -> None:
        # One that hasn't begun yet isn't alive either, and has no number.
        for thread in [each for each in self._threads if not each.is_alive() and each.ident is not None]:
            del self._threads[thread]
