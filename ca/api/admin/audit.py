"""Admin endpoints of the audit log: read it, and remove what was exported. I/O through the store."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ca.api.admin.answers import answer, check_query, read_flag, read_number, read_time
from ca.store.store import Store
from shared.model.errors import InputError
from shared.model.wire.admin_audit import MAX_AUDIT_PAGE, parse_mark

_FAR: Final = 1e15


class AuditAdmin:
    """The handlers."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/v1/audit", self.list_lines), web.delete("/v1/audit", self.prune)]

    async def list_lines(self, request: web.Request) -> web.Response:
        """Answer a part of the log."""
        check_query(request, "after", "since", "until", "limit", "newest")
        page = await self._store.audit.list_lines(
            after=int(read_number(request, "after", default=0, low=0, high=_FAR)),
            since=read_time(request, "since"),
            until=read_time(request, "until"),
            limit=int(read_number(request, "limit", default=100, low=1, high=MAX_AUDIT_PAGE)),
            newest=bool(read_flag(request, "newest")),
        )
        return answer(page)

    async def prune(self, request: web.Request) -> web.Response:
        """Remove the lines up to one, by its number and digest: of a line that the caller has read."""
        check_query(request, "through")
        if "through" not in request.query:
            raise InputError("name the last line to remove", hint="through=NUMBER:SHA256")
        await self._store.audit.prune(parse_mark(request.query["through"]))
        return answer(await self._store.audit.list_lines(limit=1, newest=True))
