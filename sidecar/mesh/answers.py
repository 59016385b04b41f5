"""Answers that several waiters share: one question to the CA, bounded in number and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from shared.model.errors import UnavailableError

MAX_QUESTIONS = 1024
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Answers(Generic[_K, _V]):
    """Open questions by key. Who asks what is being asked already only waits."""

    def __init__(self) -> None:
        self._open: dict[_K, asyncio.Future[_V]] = {}

    async def wait(
        self, key: _K, ask: Callable[[], Awaitable[None]], *, timeout_s: float, most: int = MAX_QUESTIONS
    ) -> _V:
        """Return the answer to ``key``; ``ask`` is awaited when it wasn't asked yet.

        Arguments:
            most: open questions of all kinds beyond which this one isn't asked.

        Raises:
            UnavailableError: ``ask`` failed, no answer in time, or too many questions are open.
        """
        future = self._open.get(key)
        if future is None:
            if len(self._open) >= most:
                raise UnavailableError("too many questions to the CA are open")
            future = asyncio.get_running_loop().create_future()
            self._open[key] = future
            try:
                await ask()
            except BaseException:
                if self._open.get(key) is future:
                    del self._open[key]
                    future.cancel()
                raise
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            if self._open.get(key) is future:
                del self._open[key]
                future.cancel()
            raise UnavailableError("the CA didn't answer in time", hint="`touchmark ca status`") from error
        except asyncio.CancelledError:
            if future.cancelled():  # Another waiter gave the question up.
                raise UnavailableError("the CA didn't answer in time", hint="`touchmark ca status`") from None
            raise

    def give(self, key: _K, value: _V) -> bool:
        """Answer a question; return whether it was open."""
        future = self._open.pop(key, None)
        if future is None or future.done():
            return False
        future.set_result(value)
        return True

    def keys(self) -> list[_K]:
        """Return the open questions: to ask them again on a new stream."""
        return list(self._open)
