"""dot and mermaid: names are quoted, verdicts told by shape and word."""

from __future__ import annotations

from cli.graph.graph import make_graph
from cli.graph.words import write_dot, write_mermaid
from shared.model.wire.admin_edges import EdgeEnd
from tests.cli.edges import DB, DENY, WEB, WOULD_DENY, make_edge

GRAPH = make_graph(
    "shop",
    [
        make_edge(), make_edge(WEB, DB, WOULD_DENY, port=2, is_lossy=True),
        make_edge(EdgeEnd(identity='x"]; evil \\" [<b>\x1b'), DB, DENY, port=3),
    ],
    since=0.0,
    until=1.0,
)  # fmt: skip


def test_dot() -> None:
    assert (
        write_dot(GRAPH)
        == r"""digraph "shop" {
  rankdir=LR;
  node [shape=box];
  n0 [label="shop/db", style=rounded];
  n1 [label="shop/web", style=rounded];
  n2 [label="x\"]; evil \\\" [<b>\\x1b", style=rounded];
  n1 -> n0 [label=":2 would deny ×7+", style=dashed, color="#b26a00"];
  n1 -> n0 [label=":5432 allow ×7", style=solid, color="#2e7d32"];
  n2 -> n0 [label=":3 deny ×7", style=dotted, color="#c62828"];
}
"""
    )


def test_mermaid() -> None:
    assert (
        write_mermaid(GRAPH)
        == """flowchart LR
  n0["shop/db"]
  n1["shop/web"]
  n2["x#34;#93;#59; evil #92;#34; #91;#60;b#62;#92;x1b"]
  n1 -.->|":2 would deny ×7+"| n0
  n1 -->|":5432 allow ×7"| n0
  n2 --x|":3 deny ×7"| n0
"""
    )
