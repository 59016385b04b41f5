"""The threads in which SQLite works, one for each connection: known from their start, waited for at the end. I/O.

A transaction that is cancelled leaves its thread to finish by itself, and so does a connection that is cancelled while
it opens. The pool doesn't wait for those; a thread that delivers its answer to an event loop that is gone fails.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

import aiosqlite
from sqlalchemy import Engine, event

END_S: Final = 5.0


class SqliteThreads:
    """The threads of an engine's connections."""

    def __init__(self, engine: Engine) -> None:
        self._threads: set[threading.Thread] = set()

        @event.listens_for(engine, "do_connect")
        def connect_here(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
            options["async_creator_fn"] = self._connect

    async def join(self, *, timeout_s: float = END_S) -> int:
        """Wait for the threads of connections that end; return how many haven't ended in time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        for thread in list(self._threads):
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.to_thread(thread.join, left_s)
        self._forget_ended()
        return len(self._threads)

    async def _connect(self, *arguments: Any, **options: Any) -> aiosqlite.Connection:
        self._forget_ended()
        connection = aiosqlite.connect(*arguments, **options)
        # As SQLAlchemy does where it connects itself: a thread that hangs doesn't keep the process.
        connection._thread.daemon = True
        self._threads.add(connection._thread)
        return await connection

    def _forget_ended(self) -> None:
        # One that hasn't begun yet isn't alive either, and has no number.
        self._threads = {thread for thread in self._threads if thread.is_alive() or thread.ident is None}
