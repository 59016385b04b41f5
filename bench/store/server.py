"""What PostgreSQL's processes compute for a CA's connections, on the same machine. I/O.

Belongs here: the server's side of a question. Doesn't: what the CA's own process takes (``__main__.py``).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg


class Server:
    """A database's server, looked at by a connection beside the CA's."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def vacuum(self) -> None:
        """Have it count what it has, and note which pages are whole, as it does by itself in the end."""
        await self._connection.execute("VACUUM ANALYZE")

    async def measure_cpu_ms(self) -> float:
        """Return what the processes of the CA's connections have computed so far; parallel workers' part isn't in it.

        0 where they aren't on this machine.
        """
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'touchmark-ca'"
        total = 0
        for row in await self._connection.fetch(query):
            with contextlib.suppress(FileNotFoundError):
                total += int(Path(f"/proc/{row['pid']}/schedstat").read_text().split()[0])
        return total / 1e6


@contextlib.asynccontextmanager
async def looking_at(url: str) -> AsyncIterator[Server]:
    """Look at a database's server."""
    connection = await asyncpg.connect(url)
    try:
        yield Server(connection)
    finally:
        await connection.close()
