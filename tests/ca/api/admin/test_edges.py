"""Edges and coverage, asked over the real socket."""

from __future__ import annotations

import time

from ca.runtime.compose import RunningCA
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire import admin as api
from shared.model.wire.admin_edges import Timeline
from tests.ca.running import Admin, make_decision

A, B = ("sha256:" + letter * 64 for letter in "ab")


ENDS = {
    "source": PartyRecord(workload="shop/web", program=A),
    "destination": PartyRecord(workload="shop/db", program=B),
}


async def test_edges_and_coverage_are_asked_by_namespace(services: RunningCA, admin: Admin) -> None:
    common = {"time": time.time(), "namespace": "shop", "answer": Answer.ALLOW, "reason": Reason.ALLOW_RULE, **ENDS}
    egress = {"direction": Direction.EGRESS, "sidecar": "web-1"}
    await services.store.decisions.insert(
        [
            make_decision("c0", **{**common, **egress, "service": "shop/db:5432"}),
            make_decision("c0", **{**common, "sidecar": "db-1"}),
            make_decision("c1", **{**common, **egress, "port": 9, "answer": Answer.DENY, "reason": Reason.NO_RULE}),
            make_decision("c2", **{**common, **egress, "port": 10, "would_deny": True, "reason": Reason.NO_RULE}),
        ]
    )
    path = "/v1/namespaces/shop/edges"
    found = await admin.get(path, api.EdgeList)
    names = [(edge.source.workload, edge.source.program, edge.destination.workload, edge.port) for edge in found.edges]
    assert names == [("shop/web", A, "shop/db", port) for port in (9, 10, 5432)]
    both = found.edges[2]
    assert (both.connections, len(both.reported_by), both.outcomes[0].service) == (1, 2, "shop/db:5432")
    assert (found.total, found.is_truncated, both.source.pods) == (3, False, ("web-1",))
    page = await admin.get(path, api.EdgeList, offset="1", limit="1")
    assert ([edge.port for edge in page.edges], page.total) == ([10], 3)
    for query, ports in (
        ({"denied": "true"}, [9]),
        ({"would_deny": "true"}, [10]),
        ({"denied": "false", "would_deny": "false"}, [5432]),
        ({"workload": "shop/db"}, [9, 10, 5432]),
        ({"workload": "shop/other"}, []),
        ({"until": "1"}, []),
        ({"since": "999999999999"}, []),
    ):
        assert [edge.port for edge in (await admin.get(path, api.EdgeList, **query)).edges] == ports
    covered = await admin.get("/v1/namespaces/shop/coverage", api.CoverageList)
    assert [(one.workload, one.pods, one.records) for one in covered.workloads] == [
        ("shop/db", 1, 1),
        ("shop/web", 1, 3),
    ]
    assert all(one.gaps for one in covered.workloads)
    assert (await admin.get("/v1/namespaces/none/coverage", api.CoverageList)).workloads == ()
    (hour,) = (await admin.get("/v1/namespaces/shop/timeline", Timeline)).hours
    assert (hour.allowed, hour.would_deny, hour.denied, hour.sidecars, hour.lost) == (2, 1, 1, 2, 0), (
        "both ends decided c0"
    )
    assert 0 <= time.time() - hour.start < 7200
    assert (await admin.get("/v1/namespaces/shop/timeline", Timeline, until="1")).hours == ()
    assert (await admin.get("/v1/namespaces/none/timeline", Timeline)).hours == ()
    for wrong in (
        "timeline?x=1",
        "timeline?since=x",
        "edges?limit=0",
        "edges?limit=5001",
        "edges?who=me",
        "edges?workload=x",
        "coverage?x=1",
    ):
        await admin.fail("GET", f"/v1/namespaces/shop/{wrong}", 400)
