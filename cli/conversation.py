"""Running a verb's conversation with the CA: event loop, client, end. Does I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from cli.admin_client import AdminClient

T = TypeVar("T")


def talk(socket_path: Path | None, conversation: Callable[[AdminClient], Awaitable[T]]) -> T:
    """Run one conversation with the CA to its end and return what it returns."""
    from cli.admin_client import AdminClient

    async def run() -> T:
        async with AdminClient(socket_path) as client:
            return await conversation(client)

    return asyncio.run(run())
