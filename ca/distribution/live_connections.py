"""Ask every session for its live connections and gather what comes in time. No I/O of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ca.distribution.hub import Hub
from ca.distribution.session import Session
from shared.model.wire.messages import ConnectionsQuery, ConnectionsReport, LiveConnection

# Queries of one stream that haven't been answered; more are refused to the operator, not queued.
MAX_OPEN_REPORTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyResult:
    """What the sessions said.

    Attributes:
        connections: with the session that reported them.
        silent: instances that didn't answer in time.
    """

    connections: tuple[tuple[Session, LiveConnection], ...]
    silent: tuple[str, ...]
    truncated: bool


class Survey:
    """The fan-out of ``ConnectionsQuery``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._request = 0

    async def ask_connections(self, *, limit: int, timeout_s: float) -> SurveyResult:
        """Ask all sessions at once; sessions that haven't answered after ``timeout_s`` are named as silent.

        Arguments:
            limit: connections in all; each session reports at most as many.
        """
        self._request += 1
        request = self._request
        loop = asyncio.get_running_loop()
        asked: dict[Session, asyncio.Future[ConnectionsReport]] = {}
        silent: list[str] = []
        for session in self._hub:
            if len(session.reports) >= MAX_OPEN_REPORTS:
                silent.append(session.instance)
                continue
            session.reports[request] = asked[session] = loop.create_future()
            session.send(ConnectionsQuery(request=request, limit=limit))
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=timeout_s)
        finally:
            for session in asked:
                session.reports.pop(request, None)
        found: list[tuple[Session, LiveConnection]] = []
        truncated = False
        for session, future in asked.items():
            if not future.done() or future.cancelled():
                future.cancel()
                silent.append(session.instance)
                continue
            report = future.result()
            truncated |= report.truncated
            found += [(session, connection) for connection in report.connections]
        return SurveyResult(
            connections=tuple(found[:limit]), silent=tuple(sorted(silent)), truncated=truncated or len(found) > limit
        )

    async def is_answering(self, session: Session, *, timeout_s: float) -> bool:
        """Return whether the sidecar behind a session answers in time. False as soon as its stream has ended.

        Its answer may wait unread while the CA works on what came before: that isn't silence.
        One that hasn't answered ``MAX_OPEN_REPORTS`` others yet isn't asked, and counts as answering.
        """
        if session.ended.done():
            return False
        if len(session.reports) >= MAX_OPEN_REPORTS:
            return True
        self._request += 1
        request = self._request
        report = session.reports[request] = asyncio.get_running_loop().create_future()
        session.send(ConnectionsQuery(request=request, limit=1))
        try:
            await asyncio.wait({report, session.ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if session.ended.done() or report.cancelled():  # Cancelled: the hub has forgotten the session.
                return False
            return report.done() or not session.is_read
        finally:
            session.reports.pop(request, None)
            report.cancel()

    @staticmethod
    def take_report(session: Session, report: ConnectionsReport) -> None:
        """Hand a session's answer to the survey that asked; one that comes too late is dropped."""
        future = session.reports.pop(report.request, None)
        if future is not None and not future.done():
            future.set_result(report)
