"""The one edge that tests begin with; each changes what it is about."""

from __future__ import annotations

from typing import Any

import msgspec

from ca.store.edges.edge import EdgeEvidence, EdgeKey, StoredEdge
from shared.model.policy.decision import Answer, PartyRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
_KEY = EdgeKey(
    side=Direction.EGRESS,
    namespace="shop",
    source=PartyRecord(workload="shop/web", program=A),
    destination=PartyRecord(workload="shop/db", program=B),
    port=5432,
    service="",
    transport=Transport.TUNNEL,
    answer=Answer.ALLOW,
    would_deny=False,
    reason=Reason.ALLOW_RULE,
    rule="web",
    mode=Mode.EXPLICIT,
)
_EDGE = StoredEdge(
    edge_id=1,
    key=_KEY,
    evidence=EdgeEvidence(pods=("web-1",), path="/usr/bin/web", time=1.0),
    opened=1,
    ended=1,
    bytes_sent=2,
    bytes_received=3,
    first=10.0,
    last=20.0,
    is_lossy=False,
)


def make_edge(
    *, opened: int = 1, ended: int = 1, is_lossy: bool = False, path: str = "/bin/x", **key: Any
) -> StoredEdge:
    """Return one side's view of shop/web's connection to shop/db, with these changes of its key."""
    return msgspec.structs.replace(
        _EDGE,
        key=msgspec.structs.replace(_KEY, **key),
        opened=opened,
        ended=ended,
        is_lossy=is_lossy,
        evidence=msgspec.structs.replace(_EDGE.evidence, path=path),
    )
