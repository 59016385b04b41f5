"""All tables are in one collection: what the migrations are compared with."""

from __future__ import annotations

from ca.store import tables
from ca.store.engine.schema import metadata


def test_every_package_of_the_store_adds_its_tables() -> None:
    assert tables.metadata is metadata
    assert {"decisions", "edges", "edge_hours", "edge_reports"} <= set(metadata.tables)
