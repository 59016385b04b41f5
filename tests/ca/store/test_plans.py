"""No statement of the CA reads a growing table as a whole: the plan of each, in both databases, as with a million rows.

A store is filled with a few thousand rows a table, and PostgreSQL is told that they are a million: of its plans' costs
the number of rows is what it believes, and that of pages what it sees, which makes reading a whole table look cheaper
than it would be. SQLite isn't told anything, since the CA never has it count: it takes each table for large.
How long each question takes among a million rows: ``python -m bench.store``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

from bench.store.rows import analyse, fill
from ca.store import decision_log, sidecars
from ca.store.edges import forgetting
from ca.store.engine.database import Database
from ca.store.history import generations
from ca.store.programs_seen import sightings
from ca.store.store import Store
from ca.store.tables import metadata
from tests.ca import founded
from tests.ca.founded import NOW, TRUST_DOMAIN
from tests.ca.store.statements import find_scans, hear, list_modules, list_places, list_prepared
from tests.ca.store.tour import take_tour

_ROWS: Final = 3_000
_SAID: Final = 1_000_000
# Tables that don't grow with time or with what others do, and by what they are bounded.
BOUNDED: Final = {
    "settings": "a few names",
    "counters": "a few names",
    "audit_marks": "two rows",
    "alembic_version": "one row",
    "replicas": "those that work",
    "authorities": "a few for each rotation, by hand or once in months",
    "rotations": "one for each rotation, by hand or once in months",
    "journal": "a few lines for each rotation",
    "foreign_domains": "MAX_DOMAINS",
    "namespaces": "the cluster's namespaces",
    "mode_trials": "one for each namespace",
    "policy_drafts": "one for each namespace",
    "workload_labels": "one for each workload",
    "programs": "what a namespace's state may hold",
    "sidecars": "those that are there, or were a month ago",
    "evicted_sidecars": "of sidecars, or evicted by hand",
    "evicted_certificates": "MAX_DISTRUSTED_LEAVES",
    "join_tokens": "made for each sidecar that joins by one, forgotten a month after they end; listed whole",
    "program_refusals": "MAX_PER_NAMESPACE, by hand; listed whole",
}
# What reads a growing table, or an index of it, from one end: a piece of its plan or words, and why that is all right.
READ_WHOLE: Final = {
    r" ix_decisions_(denied|would_deny|differs)\b": "an index of the rows that are asked for alone",
    r"LIMIT .* OFFSET": "how far back LOOKED_AT_ONCE of an index's lines reach",
    r"^edge_hours: Seq Scan.*hour >= ": "PostgreSQL's partitions of the days that are asked for alone",
    r"^edge_drafts: .*edge_drafts\.digest\s+LIMIT": "a portion in the order of the key, up to the limit",
    r"SELECT count\(\*\) AS \w+ \nFROM (edges|edge_hours)$": "every ten minutes, the pages of the smallest index",
}
# On a CA that doesn't run.
_OFFLINE: Final = (
    "ca.backup.restore",
    "ca.backup.loading",
    "ca.backup.lost_acts",
    "ca.runtime.offline",
    "ca.store.migrations",
)
# Functions whose statements are heard otherwise: made at import, run before anybody hears, or by a restore.
_ELSEWHERE: Final = {"prepare_update", "open", "count_rows"}
_POSTGRESQL: Final = {"take_turn", "read_clock", "check_unused"}
_SQLITE: Final = {"_delete_hours", "_count_hours"}


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
async def test_every_statement_has_a_plan_that_reads_no_growing_table_whole(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    founded.provide(tmp_path)
    store = await Store.open(founded.locate(tmp_path), trust_domain=TRUST_DOMAIN, replica="one")
    try:
        assert store.database.is_sqlite == (backend == "sqlite")
        await fill(store.database, _ROWS, now=NOW)
        if not store.database.is_sqlite:
            await _say_that_there_are_many(store.database)
        heard = hear(store.database, monkeypatch)
        # Fewer than there are, as among a million.
        monkeypatch.setattr(decision_log, "LOOKED_AT_ONCE", 100)
        monkeypatch.setattr(forgetting, "_COUNTED_AT_ONCE", 1_000)
        monkeypatch.setattr(sidecars, "_LOOKED_AT_ONCE", 10)
        monkeypatch.setattr(generations, "MAX_GENERATIONS", 2)
        monkeypatch.setattr(sightings, "MAX_PER_WORKLOAD", 1)
        await take_tour(store, now=NOW)
        assert len(heard.statements) > 150
        modules = [module for module in list_modules() if not module.__name__.startswith(_OFFLINE)]
        prepared = {name: number for module in modules for name, number in list_prepared(module).items()}
        unheard = [name for name, number in prepared.items() if number not in heard.prepared]
        elsewhere = _ELSEWHERE | (_POSTGRESQL if backend == "sqlite" else _SQLITE)
        unheard += [
            f"{name} in {Path(path).name}:{line}"
            for module in modules
            for name, path, line in list_places(module)
            if name not in elsewhere and (path, line) not in heard.places
        ]
        faults = []
        for statement, parameters in list(heard.statements.values()):
            for table, how in await find_scans(store.database, statement, parameters):
                if table in BOUNDED or table not in metadata.tables:
                    continue
                read = f"{table}: {how}: {statement}"
                if not any(re.search(piece, read, re.DOTALL) for piece in READ_WHOLE):
                    faults.append(read)
        assert not faults and not unheard, "\n".join([*faults, *unheard])
    finally:
        await store.close()


async def _say_that_there_are_many(database: Database) -> None:
    await analyse(database)
    async with database.writing() as connection:
        await connection.execute(
            text(
                "UPDATE pg_class SET reltuples = reltuples * :times WHERE reltuples > 0"
                " AND relnamespace = 'public'::regnamespace"
            ),
            {"times": _SAID / _ROWS},
        )


def test_each_table_is_said_to_be_bounded_or_is_looked_at() -> None:
    growing = set(metadata.tables) - set(BOUNDED)
    assert growing == {
        "audit_lines", "certificates", "decisions", "edge_drafts", "edge_hours", "edge_reports", "edges",
        "installed_namespaces", "namespace_generations", "program_sightings", "renewal_keys", "sidecar_addresses",
    }  # fmt: skip
