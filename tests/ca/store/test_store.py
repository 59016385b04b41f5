"""The store as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.store.store import Store
from shared.model.errors import UnavailableError
from tests.ca.founded import TRUST_DOMAIN


async def test_the_check_writes_and_a_store_whose_tables_are_gone_fails_it(tmp_path: Path) -> None:
    store = await Store.open(tmp_path, trust_domain=TRUST_DOMAIN)
    try:
        await store.check()
        async with store.database.writing() as connection:
            await connection.exec_driver_sql("DROP TABLE settings")
        with pytest.raises(UnavailableError, match="store"):
            await store.check()
    finally:
        await store.close()
