"""Generations are stored as they are read, with who made them (``ca.store.history.tables``)."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from sqlalchemy import update

from ca.store.audit.acting import acting_as
from ca.store.history.generations import BEFORE, find_generation
from ca.store.history.tables import mode_trials, namespace_generations
from ca.store.tables import metadata
from shared.model.policy.rules import Mode
from shared.model.wire.admin_audit import AuditActor
from tests.ca.founded import opened

ANN = AuditActor(kind="socket", name="ann", uid=1000, gid=1000, pid=7)


async def test_a_generation_names_who_made_it_and_the_first_one_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        with acting_as(ANN):
            state = await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        newest, first = await core.store.history.list_generations("shop", limit=9)
        assert (newest.actor, newest.version, newest.subject) == (ANN, state.version, "shop")
        assert (first.act, first.actor.kind, first.generation, newest.generation) == (BEFORE, "", 1, 2)
        async with core.store.database.reading() as connection:
            assert await find_generation(connection, "shop", 2) == newest
            assert await find_generation(connection, "shop", 3) is None


async def test_listed_generations_are_decoded_when_they_are_looked_at(tmp_path: Path) -> None:
    """A few kB may be some MB decoded, and a hundred of them are listed."""
    async with opened(tmp_path / "d") as core:
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        async with core.store.database.writing() as connection:
            await connection.execute(update(namespace_generations).values(content=b"-"))
        newest, _ = await core.store.history.list_generations("shop", limit=9)
        with pytest.raises(zlib.error):
            _ = newest.content


def test_both_tables_are_the_stores() -> None:
    assert {mode_trials, namespace_generations} <= set(metadata.tables.values())
