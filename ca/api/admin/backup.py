"""The admin endpoint that sends a backup of the store. I/O: reads the store, writes the response.

Belongs here: the HTTP side and its bounds. Doesn't: content and encryption (``ca/backup``). What leaves is encrypted to
the caller's key. In it the authorities' keys are sealed as in the store: who opens the backup lacks the key-encryption
key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from ca.api.admin.answers import read_body
from ca.backup.export import export
from ca.backup.sealing import Sealer
from ca.store.store import Store
from shared.model.errors import ConflictError, TouchmarkError
from shared.model.version import VERSION
from shared.model.wire.backup import BACKUP_PATH, BackupHeader, BackupRequest, parse_recipient

# The snapshot keeps SQLite from emptying its log: who doesn't read is left.
WRITE_DEADLINE_S: Final = 30.0
TOTAL_DEADLINE_S: Final = 3600.0

_log = structlog.get_logger("touchmark.ca")


class BackupAdmin:
    """The handler. One backup at a time."""

    def __init__(self, *, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """Return the route."""
        return [web.post(BACKUP_PATH, self.send)]

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Send a backup. One that fails is broken off: its reader sees that it isn't whole."""
        body = await read_body(request, BackupRequest)
        if self._turn.locked():
            raise ConflictError("a backup is being made", hint="wait for it")
        async with self._turn:
            header = BackupHeader(
                recipient=parse_recipient(body.recipient).public_bytes_raw(),
                passphrase=body.passphrase,
                trust_domain=self._store.trust_domain,
                taken=self._clock(),
                ca_version=VERSION,
            )
            # Whoever has a backup and the key-encryption key has the mesh: who took one is recorded before it leaves.
            await self._store.audit.note("store.backup", body.recipient, after={"decisions": body.decisions})
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            await response.prepare(request)
            try:
                async with asyncio.timeout(TOTAL_DEADLINE_S):
                    size = await self._write(response, header, with_decisions=body.decisions)
            except (TouchmarkError, TimeoutError, ConnectionError) as error:
                _log.warning("backup_failed", error=repr(error))
                if request.transport is not None:
                    request.transport.abort()
                return response
        _log.info("backup_sent", bytes=size, decisions=body.decisions)
        return response

    async def _write(self, response: web.StreamResponse, header: BackupHeader, *, with_decisions: bool) -> int:
        sealer = Sealer(header)
        size = await _send(response, sealer.opening)
        async for data in export(self._store, taken=header.taken, with_decisions=with_decisions):
            size += await _send(response, sealer.write(data))
        size += await _send(response, sealer.finish())
        async with asyncio.timeout(WRITE_DEADLINE_S):
            await response.write_eof()
        return size


async def _send(response: web.StreamResponse, data: bytes) -> int:
    if data:
        async with asyncio.timeout(WRITE_DEADLINE_S):
            await response.write(data)
    return len(data)
