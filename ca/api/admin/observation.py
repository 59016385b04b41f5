"""Admin endpoints that only look: decisions, identities, live connections. I/O through the store and the streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

import msgspec
import structlog
from aiohttp import web

from ca.api.access.guard import CALLER, RECHECK
from ca.api.admin.answers import answer, check_query, read_flag, read_number, read_time
from ca.distribution.hub import Hub
from ca.distribution.live_connections import Survey
from ca.observation.decisions import Decisions
from ca.store.records import DEFAULT_DECISIONS_LIMIT, DecisionFilter, LedgerFilter, StoredDecision
from ca.store.store import Store
from shared.model.errors import InputError, RefusedError, TooManyRequestsError, UnavailableError
from shared.model.identity.identity import check_namespace, parse_workload
from shared.model.policy.reasons import Reason
from shared.model.wire import admin

SEND_DEADLINE_S: Final = 30.0
MAX_FOLLOWERS: Final = 32
MAX_FOLLOWERS_OF_ONE: Final = 8
# How long somebody whose right was taken away still follows, at most.
RECHECK_INTERVAL_S: Final = 30.0
_HEXADECIMAL: Final = frozenset("0123456789abcdef")
_MAX_SERIAL: Final = 40
_MAX_NAME: Final = 200
_FILTERS: Final = (
    "namespace", "workload", "program", "reason", "denied", "would_deny", "draft_differs", "since", "until",
    "limit",
)  # fmt: skip
_log = structlog.get_logger("touchmark.ca")


class ObservationAdmin:
    """The handlers."""

    def __init__(
        self, *, store: Store, decisions: Decisions, hub: Hub, survey: Survey, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._decisions = decisions
        self._hub = hub
        self._survey = survey
        self._clock = clock
        self._followers: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/decisions", self.decisions),
            web.get("/v1/decisions/follow", self.follow),
            web.get("/v1/identities", self.identities),
            web.get("/v1/connections", self.connections),
        ]

    async def decisions(self, request: web.Request) -> web.Response:
        """Answer the decisions that match, newest first."""
        found = await self._decisions.query(_read_filter(request))
        return answer(admin.DecisionList(decisions=tuple(_view(one) for one in found), lost=self._decisions.lost))

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Send the decisions that match as they come, one JSON object a line; an empty line shows that it lives."""
        wanted = _read_filter(request)
        who = request[CALLER]
        if self._followers[who] >= MAX_FOLLOWERS_OF_ONE:
            raise TooManyRequestsError(
                f"at most {MAX_FOLLOWERS_OF_ONE} followers of one caller at once", hint="end one of them first"
            )
        if self._followers.total() >= MAX_FOLLOWERS:
            raise TooManyRequestsError(f"at most {MAX_FOLLOWERS} followers at once", hint="end one of them first")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._followers[who] += 1
        try:
            # Before the answer begins: what is decided after it has begun is never missed.
            pages = await self._decisions.follow(wanted)
            await self._send_pages(request, response, pages)
        finally:
            self._followers[who] -= 1
            self._followers += Counter()  # Forgets who has none.
        return response

    async def _send_pages(
        self, request: web.Request, response: web.StreamResponse, pages: AsyncIterator[list[StoredDecision]]
    ) -> None:
        loop = asyncio.get_running_loop()
        checked = loop.time()
        try:
            await response.prepare(request)
            async for page in pages:
                if loop.time() - checked >= RECHECK_INTERVAL_S:
                    await request[RECHECK].check()
                    checked = loop.time()
                await _send(response, b"".join(msgspec.json.encode(_view(one)) + b"\n" for one in page) or b"\n")
        except RefusedError as error:
            _log.info("follower_ended", reason=error.reason, caller=request[CALLER])
            ended = admin.FollowEnd(ended=admin.ErrorAnswer(code=error.code, message=error.message, hint=error.hint))
            with contextlib.suppress(ConnectionError, TimeoutError):
                await _send(response, msgspec.json.encode(ended) + b"\n")
        except (ConnectionError, TimeoutError, UnavailableError) as error:
            # The reader has gone or doesn't read, or the store or the API server fails. The answer has begun: only
            # breaking it off tells the reader that it isn't complete.
            _log.info("follower_dropped", error=repr(error))
            if request.transport is not None:
                request.transport.abort()

    async def identities(self, request: web.Request) -> web.Response:
        """Answer the ledger."""
        now = self._clock()
        wanted = _read_ledger_filter(request, now)
        limit = wanted.limit
        records = await self._store.ledger.list_lines(replace(wanted, limit=limit + 1))
        subjects = {one.authority_id: one.subject for one in await self._store.authorities.list_all()}
        return answer(
            admin.IdentityList(
                identities=tuple(
                    admin.IdentityView(
                        serial=f"{record.serial:x}",
                        identity=str(record.identity),
                        workload=str(record.identity.workload),
                        program=str(record.identity.program or ""),
                        kind=record.identity.kind.value,
                        issuer=subjects.get(record.authority_id, record.authority_id),
                        instance=record.instance,
                        issued=record.issued,
                        not_after=record.not_after,
                        alive=record.not_after > now,
                        path=record.path,
                        pid=record.pid,
                        uid=record.uid,
                        approved_by=record.approved_by,
                    )
                    for record in records[:limit]
                ),
                truncated=len(records) > limit,
            )
        )

    async def connections(self, request: web.Request) -> web.Response:
        """Ask all sidecars for their live connections and answer what comes in time."""
        check_query(request, "timeout_s", "limit")
        timeout_s = read_number(request, "timeout_s", default=2.0, low=0.05, high=30.0)
        limit = int(read_number(request, "limit", default=1000, low=1, high=10_000))
        result = await self._survey.ask_connections(limit=limit, timeout_s=timeout_s)
        # Whose stream is with another replica wasn't asked: that replica's answer has it.
        elsewhere = {
            sidecar.instance
            for sidecar in await self._store.sidecars.list_all()
            if sidecar.connected and self._hub.get(sidecar.instance) is None
        }
        return answer(
            admin.ConnectionList(
                connections=tuple(
                    admin.ConnectionView(
                        sidecar=session.instance, workload=str(session.workload), connection=connection
                    )
                    for session, connection in result.connections
                ),
                silent=tuple(sorted({*result.silent, *elsewhere})),
                truncated=result.truncated,
            )
        )


async def _send(response: web.StreamResponse, lines: bytes) -> None:
    async with asyncio.timeout(SEND_DEADLINE_S):
        await response.write(lines)


def _read_ledger_filter(request: web.Request, now: float) -> LedgerFilter:
    check_query(request, "alive", "workload", "limit", "serial", "digest", "authority", "sidecar", "since", "until")
    query = request.query
    serial, digest = (query.get(name, "").lower() for name in ("serial", "digest"))
    if not set(serial + digest) <= _HEXADECIMAL or len(serial) > _MAX_SERIAL or len(digest) not in (0, 64):
        raise InputError("serial and digest are hexadecimal, a digest has 64 digits")
    return LedgerFilter(
        serial=serial,
        digest=digest,
        authority_id=query.get("authority", "")[:_MAX_NAME],
        instance=query.get("sidecar", "")[:_MAX_NAME],
        workload=parse_workload(query["workload"]) if query.get("workload") else None,
        alive_at=now if read_flag(request, "alive") else None,
        since=read_time(request, "since"),
        until=read_time(request, "until"),
        limit=int(read_number(request, "limit", default=1000, low=1, high=10_000)),
    )


def _read_filter(request: web.Request) -> DecisionFilter:
    check_query(request, *_FILTERS)
    query = request.query
    namespace, workload = query.get("namespace", ""), query.get("workload", "")
    try:
        reason = Reason(query["reason"]) if query.get("reason") else None
    except ValueError as error:
        raise InputError(
            f"no such reason: {query['reason'][:60]!r}", hint="docs/reference/reasons.md lists them"
        ) from error
    far = 1e12
    return DecisionFilter(
        namespace=check_namespace(namespace) if namespace else "",
        workload=str(parse_workload(workload)) if workload else "",
        program=query.get("program", "")[:160],
        reason=reason,
        denied=read_flag(request, "denied"),
        would_deny=read_flag(request, "would_deny"),
        draft_differs=read_flag(request, "draft_differs"),
        since=read_number(request, "since", default=0, low=0, high=far) if "since" in query else None,
        until=read_number(request, "until", default=0, low=0, high=far) if "until" in query else None,
        limit=int(
            read_number(request, "limit", default=DEFAULT_DECISIONS_LIMIT, low=1, high=admin.MAX_DECISIONS_LIMIT)
        ),
    )


def _view(decision: StoredDecision) -> admin.DecisionView:
    return admin.DecisionView(id=decision.decision_id, record=decision.record)
