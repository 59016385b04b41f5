"""Edges that the tests of commands and pictures begin with."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.model.policy.decision import Answer, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.admin_edges import EdgeEnd, EdgeList, EdgeOutcome, EdgeView

ALLOW = EdgeOutcome(
    side=Direction.EGRESS,
    answer=Answer.ALLOW,
    would_deny=False,
    reason=Reason.ALLOW_RULE,
    rule="web-to-db",
    mode=Mode.PERMISSIVE,
    transport=Transport.TUNNEL,
    service="shop/db:5432",
    connections=7,
    first=1_790_000_000.0,
    last=1_790_000_060.0,
)
TAKEN = msgspec.structs.replace(ALLOW, side=Direction.INGRESS, service="")
WOULD_DENY = msgspec.structs.replace(ALLOW, would_deny=True, reason=Reason.NO_RULE, rule="")
DENY = msgspec.structs.replace(ALLOW, answer=Answer.DENY, reason=Reason.DENY_RULE, rule="no")
WEB = EdgeEnd(workload="shop/web", program="sha256:" + "ab" * 32, path="/usr/bin/web")
DB = EdgeEnd(workload="shop/db", program="sha256:" + "cd" * 32)


def make_edge(source: EdgeEnd = WEB, destination: EdgeEnd = DB, *outcomes: EdgeOutcome, **changes: Any) -> EdgeView:
    """Return an edge that both sides allowed, with these changes."""
    edge = EdgeView(
        source=source,
        destination=destination,
        port=5432,
        connections=7,
        bytes_sent=1,
        bytes_received=2,
        first=ALLOW.first,
        last=ALLOW.last,
        reported_by=(Direction.EGRESS, Direction.INGRESS),
        outcomes=outcomes or (ALLOW, TAKEN),
    )
    return msgspec.structs.replace(edge, **changes)


def list_edges(*edges: EdgeView, total: int | None = None, is_truncated: bool = False) -> EdgeList:
    """Return the CA's answer."""
    return EdgeList(
        namespace="shop",
        edges=edges,
        since=0.0,
        until=1.0,
        total=len(edges) if total is None else total,
        is_truncated=is_truncated,
    )
