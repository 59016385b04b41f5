"""The connection to the CA that the page's requests share: opened when it is needed, anew after it broke. I/O.

A page stays open for hours, and a CA's pod doesn't: a port-forward ends with it. A user's token doesn't live as long
either: the next connection reads the kubeconfig anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar

from cli.admin.client import AdminClient
from shared.model.errors import NotAuthenticatedError, UnavailableError

T = TypeVar("T")


class Connection:
    """Use it as an asynchronous context manager.

    Arguments:
        open_client: opens the admin API, as ``cli.backends.session.open_admin``.
    """

    def __init__(self, open_client: Callable[[], AbstractAsyncContextManager[AdminClient]]) -> None:
        self._open_client = open_client
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: AdminClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        async with self._turn:
            self._client = None
            await self._stack.aclose()

    async def ask(self, work: Callable[[AdminClient], Awaitable[T]]) -> T:
        """Run work on the admin API. After a failed one the next opens a new connection; nothing is asked twice.

        Raises:
            TouchmarkError: the CA's own error, or that it can't be reached.
        """
        client = await self._get_client()
        try:
            return await work(client)
        except (UnavailableError, NotAuthenticatedError):
            await self._close(client)
            raise

    async def _get_client(self) -> AdminClient:
        async with self._turn:
            if self._client is None:
                self._client = await self._stack.enter_async_context(self._open_client())
            return self._client

    async def _close(self, client: AdminClient) -> None:
        async with self._turn:
            if self._client is client:
                self._client = None
                await self._stack.aclose()
