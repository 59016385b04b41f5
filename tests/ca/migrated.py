"""Stores whose tables are there already: the migrations run once for a process, then their result is copied.

What the migrations do has tests of its own (``tests/ca/store/engine``, ``tests/ca/store/migrations``), which open
databases that nobody prepared. A copy is all that a first opening would have made: nothing else has touched it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ca.store.engine.database import DATABASE_NAME, Database


def provide_sqlite(directory: Path) -> None:
    """Put a migrated SQLite file into a data directory, unless there is one. Nothing awaits in between."""
    content = _make_sqlite()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / DATABASE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # A store is there; or none can be, which the opening that follows says in the product's words.
    with open(descriptor, "wb") as file:
        file.write(content)


def migrate(where: str | Path) -> None:
    """Run the migrations on a database, and leave it: in a thread of its own, for the caller's may run a loop."""

    async def run() -> None:
        await (await Database.open(where)).close()

    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(lambda: asyncio.run(run())).result()


@functools.cache
def _make_sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        migrate(Path(place))
        path = Path(place) / DATABASE_NAME
        assert not path.with_name(f"{DATABASE_NAME}-wal").exists(), "closing it moves the log into the file"
        return path.read_bytes()
