"""Tables keep no secrets in the clear. (``engine/test_database.py`` compares them with the migrations.)"""

from __future__ import annotations

from ca.store.tables import metadata


def test_nothing_is_called_a_secret_but_its_digest_and_no_key_but_a_sealed_one() -> None:
    columns = {column.name for table in metadata.tables.values() for column in table.columns}
    assert {name for name in columns if "secret" in name} == {"secret_digest"}
    assert {name for name in columns if name.endswith("_key")} == {"sealed_key"}
