"""What the page may ask: a fixed list of questions, each of which only reads. I/O: through the CA's admin API.

Belongs here: a handler for each question. Doesn't: who may ask (``guard.py``), bounds and encoding (``server.py``).
Whatever a peer, process or record chose leaves as text with its control characters escaped: ``write`` does it to every
string of every answer.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cli.admin.client import AdminClient
from cli.cluster.observation.cron_jobs import add_gaps
from cli.text.decision import describe_answer, describe_fully
from cli.text.duration import parse_duration
from cli.text.printable import escape
from cli.ui.connection import Connection
from cli.ui.drafts import show_draft
from cli.ui.picture import Show, show_edges
from cli.ui.rules import digest_rule
from cli.ui.shapes import (
    AuditRow,
    AuditRows,
    NamespaceRow,
    NamespaceRows,
    ReasonWords,
    ShownCause,
    ShownCoverage,
    ShownDecision,
    ShownDecisions,
    ShownDraft,
    ShownEdge,
    ShownEdges,
    ShownFix,
    ShownLine,
    ShownReadiness,
    ShownTimeline,
    Start,
)
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.adoption.seen import name_end
from shared.model.errors import InputError, NotAllowedError, NotFoundError, TouchmarkError
from shared.model.identity.identity import check_namespace, parse_workload
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.modes import name_modes
from shared.model.policy.reasons import EXPLANATIONS, Reason
from shared.model.policy.rules import Direction, NamespaceState
from shared.model.version import VERSION
from shared.model.wire.admin import (
    MAX_EDGES_LISTED,
    AuditEntry,
    CAStatus,
    Cause,
    DecisionList,
    DecisionView,
    DraftView,
    EdgeList,
    SidecarList,
)

MAX_EDGES: Final = 2 * MAX_EDGES_LISTED
MAX_DECISIONS_READ: Final = 2_000
MAX_DECISIONS_SHOWN: Final = 20
MAX_DECISIONS_LIVE: Final = 100
MAX_ACTS: Final = 200
MAX_QUERY_CHARACTERS: Final = 2_048
_DAY: Final = "24h"
_DRAFT: Final = "draft"

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How the commands write what they print: the page shows the same.

    Attributes:
        cause: who connected to what.
        fix: the lines of what lets a connection pass that was refused for this reason, of a program at this path.
        notes: what sidecars can't tell of a draft.
        gaps: what can't have been seen of a namespace since then.
        fixes: what would let these decisions' connections pass by these rules: fix, reason, path.
    """

    cause: Callable[[Cause], str]
    fix: Callable[[Fix | None, Reason, str], list[str]]
    notes: Callable[[DraftView], list[str]]
    gaps: Callable[[str, float], Awaitable[tuple[str, ...]]]
    fixes: Callable[[Iterable[DecisionView], dict[str, NamespaceState]], list[tuple[Fix, Reason, str]]]


class Answers:
    """The handlers, by path.

    Arguments:
        target: where the CA is, in words.
        options: what shown commands need to reach the same CA.
    """

    def __init__(self, connection: Connection, words: Words, *, target: str, options: str) -> None:
        self._connection = connection
        self._words = words
        self._target = target
        self._options = options

    def routes(self) -> Mapping[str, Callable[[Query], Awaitable[object]]]:
        """Return the handler of each path."""
        return {
            "/api/start": self.start,
            "/api/namespaces": self.namespaces,
            "/api/readiness": self.readiness,
            "/api/coverage": self.coverage,
            "/api/timeline": self.timeline,
            "/api/decisions": self.decisions,
            "/api/edges": self.edges,
            "/api/edge": self.edge,
            "/api/draft": self.draft,
            "/api/sidecars": self.sidecars,
            "/api/ca": self.ca,
            "/api/audit": self.audit,
        }

    async def start(self, query: Query) -> Start:
        """Answer what the page begins with."""
        check_query(query)
        try:
            status = await self._connection.ask(AdminClient.get_status)
        except NotAllowedError:  # A reader of one namespace.
            status = None
        return Start(
            version=VERSION,
            ca_version=status.version if status is not None else "",
            trust_domain=status.trust_domain if status is not None else "",
            target=self._target,
            options=self._options,
            reasons={reason: ReasonWords(cause=each.cause, fix=each.fix) for reason, each in EXPLANATIONS.items()},
        )

    async def namespaces(self, query: Query) -> NamespaceRows:
        """Answer all namespaces."""
        check_query(query)
        states = (await self._connection.ask(AdminClient.list_namespaces)).namespaces
        return NamespaceRows(
            namespaces=tuple(
                NamespaceRow(
                    name=state.namespace,
                    mode=f"{state.mode} ({own})" if (own := name_modes(state.workload_modes)) else state.mode,
                    version=state.version,
                    rules=len(state.rules),
                    programs=len(state.approvals),
                )
                for state in states
            )
        )

    async def readiness(self, query: Query) -> ShownReadiness:
        """Answer whether explicit mode is safe for a namespace, with what is missing."""
        check_query(query, "namespace", "since")
        namespace, since_s = check_namespace(query.get("namespace", "")), read_since_s(query)
        found = await self._connection.ask(lambda client: client.get_readiness(namespace, since_s=since_s))
        found = add_gaps(found, await self._words.gaps(namespace, found.since))
        return ShownReadiness(
            readiness=msgspec.structs.replace(found, causes=(), failures=(), refused=()),
            causes=tuple(self._show_cause(cause) for cause in found.causes),
            failures=tuple(self._show_cause(cause) for cause in found.failures),
            refused=tuple(self._show_cause(cause) for cause in found.refused),
        )

    async def coverage(self, query: Query) -> ShownCoverage:
        """Answer how much of each workload was observed."""
        check_query(query, "namespace", "since")
        namespace, since = check_namespace(query.get("namespace", "")), _read_since(query, "7d")
        found = await self._connection.ask(lambda client: client.get_coverage(namespace, {"since": since}))
        return ShownCoverage(
            namespace=namespace,
            now=time.time(),
            workloads=found.workloads,
            is_truncated=found.is_truncated,
            gaps=await self._words.gaps(namespace, found.since),
        )

    async def timeline(self, query: Query) -> ShownTimeline:
        """Answer what the namespace's own sidecars decided, by the hour."""
        check_query(query, "namespace", "since")
        namespace, since = check_namespace(query.get("namespace", "")), _read_since(query, _DAY)
        found = await self._connection.ask(lambda client: client.get_timeline(namespace, {"since": since}))
        return ShownTimeline(since=float(since), now=time.time(), hours=found.hours)

    async def decisions(self, query: Query) -> ShownDecisions:
        """Answer the newest decisions of the namespace's sidecars, newest first."""
        check_query(query, "namespace", "show")
        namespace, show = check_namespace(query.get("namespace", "")), query.get("show", Show.ALL)
        filters = {Show.ALL: {}, Show.DENIED: {"denied": "true"}, Show.WOULD_DENY: {"would_deny": "true"}}
        if show not in filters:
            raise InputError(f"unknown filter: {show[:40]!r}", hint=f"one of: {', '.join(filters)}")
        asked = {"namespace": namespace, "limit": str(MAX_DECISIONS_LIVE), **filters[Show(show)]}
        found = await self._connection.ask(lambda client: client.list_decisions(asked))
        return ShownDecisions(
            decisions=tuple(_show_line(view) for view in sorted(found.decisions, key=lambda each: -each.id))
        )

    async def edges(self, query: Query) -> ShownEdges:
        """Answer a namespace's edges, chosen and placed."""
        check_query(query, "namespace", "since", "show", "node", "hubs", "rules")
        namespace, since = check_namespace(query.get("namespace", "")), _read_since(query, _DAY)
        show = query.get("show", Show.OPEN)
        if show not in list(Show):
            raise InputError(f"unknown filter: {show[:40]!r}", hint=f"one of: {', '.join(Show)}")
        rules = query.get("rules", "")
        if rules not in ("", _DRAFT):
            raise InputError(f"unknown rules: {rules[:40]!r}", hint=f"leave it out, or {_DRAFT}")
        found = await self._connection.ask(lambda client: _list_edges(client, namespace, since))
        view = await self._get_draft(namespace) if rules == _DRAFT else None
        return show_edges(
            found,
            show=Show(show),
            node=query.get("node", ""),
            hides_hubs=query.get("hubs") == "hide",
            draft=view,
        )

    async def draft(self, query: Query) -> ShownDraft:
        """Answer a namespace's draft, and what it would decide otherwise."""
        check_query(query, "namespace")
        namespace = check_namespace(query.get("namespace", ""))
        return show_draft(
            await self._get_draft(namespace),
            namespace,
            fix=self._show_fix,
            notes=self._words.notes,
            options=self._options,
        )

    async def _get_draft(self, namespace: str) -> DraftView | None:
        try:
            return await self._connection.ask(lambda client: client.get_draft(namespace))
        except NotFoundError:
            return None

    async def edge(self, query: Query) -> ShownEdge:
        """Answer everything of one link."""
        check_query(query, "namespace", "since", "source", "destination", "port")
        namespace, since = check_namespace(query.get("namespace", "")), _read_since(query, _DAY)
        source, destination = query.get("source", ""), query.get("destination", "")
        port = _read_port(query.get("port", ""))
        workload = _find_workload(source, destination)

        async def ask(client: AdminClient) -> ShownEdge:
            edges = (await _list_edges(client, namespace, since, workload=workload)).edges
            listed, states = await _read_decisions(client, namespace, workload, since)
            views = [
                view
                for view in listed.decisions
                if view.record.port == port
                and _name(view.record.source) == source
                and _name(view.record.destination) == destination
            ]
            return ShownEdge(
                source=source,
                destination=destination,
                port=port,
                edges=tuple(
                    each
                    for each in edges
                    if (each.source.name, each.destination.name, each.port) == (source, destination, port)
                ),
                decisions=tuple(_show_decision(view) for view in views[:MAX_DECISIONS_SHOWN]),
                fixes=tuple(
                    (reason.value, self._show_fix(fix, reason, path))
                    for fix, reason, path in self._words.fixes(views, states)
                ),
                is_partial=len(listed.decisions) >= MAX_DECISIONS_READ,
            )

        return await self._connection.ask(ask)

    async def sidecars(self, query: Query) -> SidecarList:
        """Answer the sidecars that joined."""
        check_query(query)
        return await self._connection.ask(AdminClient.list_sidecars)

    async def ca(self, query: Query) -> CAStatus:
        """Answer the CA at a glance: authorities, rotation."""
        check_query(query)
        return await self._connection.ask(AdminClient.get_status)

    async def audit(self, query: Query) -> AuditRows:
        """Answer the newest administrative acts."""
        check_query(query)
        page = await self._connection.ask(lambda client: client.list_audit({"newest": "true", "limit": str(MAX_ACTS)}))
        entries = [msgspec.json.decode(line, type=AuditEntry) for line in page.lines]
        return AuditRows(
            acts=tuple(
                AuditRow(
                    sequence=entry.sequence,
                    time=entry.time,
                    act=entry.act,
                    subject=entry.subject,
                    actor=" ".join(part for part in (entry.actor.kind, entry.actor.name, entry.actor.origin) if part),
                )
                for entry in reversed(entries)
            )
        )

    def _show_cause(self, cause: Cause) -> ShownCause:
        is_own = cause.fix is not None and cause.fix.program == (
            cause.source_program if cause.side == "egress" else cause.destination_program
        )
        return ShownCause(
            reason=cause.reason,
            text=self._words.cause(cause) + (f": {cause.detail}" if cause.detail else ""),
            connections=cause.connections,
            last_seen=cause.last_seen,
            is_next=cause.is_next,
            source=cause.source_workload or _host(cause.source_address),
            destination=cause.destination_workload or _host(cause.destination_address),
            port=cause.port,
            fix=self._show_fix(cause.fix, cause.reason, cause.path if is_own else ""),
        )

    def _show_fix(self, fix: Fix | None, reason: Reason, path: str) -> ShownFix:
        lines = tuple(line for each in self._words.fix(fix, reason, path) for line in each.split("\n"))
        kind = FixKind.ADVICE if fix is None else fix.kind
        if kind is FixKind.APPROVE:
            copied = lines[:1]
        elif kind is FixKind.RULE and fix is not None and fix.rule is not None:
            copied = tuple(line.removeprefix("  ") for line in lines[1:])
        else:
            copied = ()
        rule = "" if fix is None or fix.rule is None else digest_rule(fix.namespace, fix.rule)
        return ShownFix(kind=kind, lines=lines, copied=copied, rule=rule)


def write(value: object) -> bytes:
    """Write an answer as JSON; what isn't printable in any of its strings is written as its escape."""
    return msgspec.json.encode(_escape(msgspec.to_builtins(value)))


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {escape(str(key)): _escape(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(each) for each in value]
    return value


def check_query(query: Query, *known: str) -> None:
    """Refuse what this question doesn't know: a misspelled filter must not show everything.

    Raises:
        InputError: there is something unknown, or too long.
    """
    unknown = sorted(set(query) - set(known))
    if unknown:
        raise InputError(f"unknown parameter {unknown[0][:40]!r}")
    if any(len(each) > MAX_QUERY_CHARACTERS for each in query.values()):
        raise InputError("a parameter is too long")


def read_since_s(query: Query) -> float:
    """Return how far back a question goes, in seconds; a day where it doesn't say.

    Raises:
        InputError: that isn't a duration.
    """
    return parse_duration(query.get("since") or _DAY)


def _read_since(query: Query, default: str) -> str:
    return str(max(0.0, time.time() - parse_duration(query.get("since", default))))


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise InputError(f"not a port: {text[:40]!r}")
    return int(text)


async def _list_edges(client: AdminClient, namespace: str, since: str, *, workload: str = "") -> EdgeList:
    """Read a namespace's edges, ``MAX_EDGES`` at most."""
    query = {"since": since, "workload": workload, "limit": str(MAX_EDGES_LISTED)}
    found = await client.list_edges(namespace, query)
    while len(found.edges) < min(found.total, MAX_EDGES):
        page = await client.list_edges(namespace, {**query, "offset": str(len(found.edges))})
        if not page.edges:
            break
        found = msgspec.structs.replace(found, edges=found.edges + page.edges)
    return found


async def _read_decisions(
    client: AdminClient, namespace: str, workload: str, since: str
) -> tuple[DecisionList, dict[str, NamespaceState]]:
    """Read decisions and rules of both ends' namespaces; those of the one alone, where the user may see no more."""
    bounds = {"since": since, "limit": str(MAX_DECISIONS_READ)}
    filters = {"workload": workload} if workload else {"namespace": namespace}
    try:
        listed = await client.list_decisions({**filters, **bounds})
        states = (await client.list_namespaces()).namespaces
    except NotAllowedError:
        listed = await client.list_decisions({"namespace": namespace, **bounds})
        states = (await client.get_namespace(namespace),)
    return listed, {state.namespace: state for state in states}


def _find_workload(*names: str) -> str:
    for name in names:
        try:
            return str(parse_workload(name))
        except TouchmarkError:
            continue
    return ""


def _name(party: PartyRecord) -> str:
    """Name an end as edges do: by who it is, else by its address without the port."""
    return name_end(party) or _host(party.address)


def _host(address: str) -> str:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _show_line(view: DecisionView) -> ShownLine:
    record = view.record
    return ShownLine(
        id=view.id,
        time=record.time,
        verdict="deny" if record.answer is Answer.DENY else "would deny" if record.would_deny else "allow",
        reason=record.reason,
        rule=record.rule,
        side=record.direction,
        source=_name(record.source),
        source_path=record.process.path if record.direction is Direction.EGRESS else "",
        destination=_name(record.destination),
        port=record.port,
        service=record.service or "",
        count=record.count,
    )


def _show_decision(view: DecisionView) -> ShownDecision:
    return ShownDecision(
        id=view.id,
        time=view.record.time,
        verdict=describe_answer(view.record),
        reason=view.record.reason,
        lines=tuple(describe_fully(view)),
    )
