"""Many small writes, one transaction: each caller waits until its own line is durable.

Under load a commit (and its fsync) is shared by everything that arrived during the one before; alone, a line is written
at once. Starts a task, does no I/O of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from shared.model.errors import TouchmarkError, UnavailableError

MAX_BATCH: Final = 500
MAX_WAITING: Final = 10_000

Line = TypeVar("Line")


class GroupCommit(Generic[Line]):
    """A bounded queue in front of a function that writes many lines in one transaction.

    Arguments:
        write: writes the lines and returns, for each, None or the error that it alone deserves.
    """

    def __init__(self, write: Callable[[Sequence[Line]], Awaitable[Sequence[TouchmarkError | None]]]) -> None:
        self._write = write
        self._waiting: deque[tuple[Line, asyncio.Future[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many lines wait."""
        return len(self._waiting)

    async def add(self, line: Line) -> None:
        """Return when the line is durable.

        Raises:
            UnavailableError: the queue is full, closed, or the transaction failed: the line isn't stored.
            TouchmarkError: what ``write`` said of this line.
        """
        if self._is_closed or len(self._waiting) >= MAX_WAITING:
            raise UnavailableError("the ledger can't take more now", hint="try again in a moment")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, written))
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="ledger-group-commit")
        await written

    async def close(self) -> None:
        """Write what waits; take nothing more."""
        self._is_closed = True
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                # A caller that gave up may not know of its line: it isn't written.
                batch = [(line, written) for line, written in batch if not written.done()]
                if batch:
                    await self._write_batch(batch)
        finally:
            self._task = None
            for _, written in self._waiting:
                written.cancel()
            self._waiting.clear()

    async def _write_batch(self, batch: Sequence[tuple[Line, asyncio.Future[None]]]) -> None:
        try:
            results: Sequence[BaseException | None] = await self._write([line for line, _ in batch])
        except asyncio.CancelledError:
            for _, written in batch:
                written.cancel()
            raise
        except Exception as error:
            results = [error] * len(batch)
        for (_, written), result in zip(batch, results, strict=True):
            if written.done():
                continue
            if result is None:
                written.set_result(None)
            else:
                written.set_exception(result)
