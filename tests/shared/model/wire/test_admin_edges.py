"""Answers about edges: the best name of an end, a verdict in words, and what a newer CA adds is passed over."""

from __future__ import annotations

import msgspec

from shared.model.wire import admin
from shared.model.wire.admin_edges import EdgeEnd, EdgeList
from tests.cli.edges import ALLOW, DENY, WOULD_DENY, list_edges, make_edge


def test_the_best_name_that_there_is() -> None:
    everything = EdgeEnd(workload="shop/web", identity="spiffe://a/b", listed="shop/x", address="192.0.2.1")
    names = []
    for field in ("workload", "identity", "listed", "address"):
        names.append(everything.name)
        everything = msgspec.structs.replace(everything, **{field: ""})
    assert names == ["shop/web", "spiffe://a/b", "shop/x", "192.0.2.1"]
    assert everything.name == "several addresses"
    assert [one.verdict for one in (ALLOW, WOULD_DENY, DENY)] == ["allow", "would deny", "deny"]


def test_answers_are_read_back_and_new_fields_are_passed_over() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(list_edges(make_edge())))
    assert msgspec.json.decode(msgspec.json.encode({**plain, "more": 1}), type=EdgeList) == list_edges(make_edge())
    assert admin.EdgeList is EdgeList
