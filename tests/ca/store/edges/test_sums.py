"""Rows that are sums, whatever was there before; on both databases (``ca.store.edges.sums``)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from ca.store.edges.sums import bound_sum, prepare_sums
from ca.store.edges.tables import edge_hours
from tests.ca.founded import opened

pytestmark = pytest.mark.usefixtures("backend")


async def test_additions_end_at_the_highest_number(tmp_path: Path) -> None:
    """It is what the databases' 64 bits hold with one more addition."""
    row = {"edge_id": 1, "hour": 500_000, "opened": 2**61, "ended": 1, "bytes_sent": 0, "bytes_received": 0}
    async with opened(tmp_path) as core:
        await core.store.edges.prepare(now=500_000 * 3600.0)
        statement = prepare_sums(
            edge_hours, ("edge_id", "hour"), added=("opened", "ended", "bytes_sent", "bytes_received")
        )
        async with core.store.database.writing() as connection:
            for first, last in ((5.0, 6.0), (4.0, 5.0), (7.0, 8.0)):
                await statement.on_each(connection, [{**row, "first": first, "last": last}])
            (found,) = (await connection.execute(select(edge_hours))).all()
    assert (found.opened, found.ended, found.first, found.last) == (2**62, 3, 4.0, 8.0)
    assert bound_sum(2**63) == 2**62
