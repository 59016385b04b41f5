"""The tables of programs that were seen and refused, as the newest migration leaves them. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Double, Index, Table, Text

from ca.store.engine.schema import metadata

# ``record``: JSON of a ``Sighting``. The program's text is part of the key, as commands show it.
program_sightings: Final = Table(
    "program_sightings",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("service_account", Text, primary_key=True),
    Column("program", Text, primary_key=True),
    Column("last", Double, nullable=False),
    Column("record", Text, nullable=False),
    Index("ix_program_sightings_last", "last"),
    Index("ix_program_sightings_namespace", "namespace", "last"),
)

program_refusals: Final = Table(
    "program_refusals",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("service_account", Text, primary_key=True),
    Column("program", Text, primary_key=True),
    Column("refused_by", Text, nullable=False),
    Column("refused", Double, nullable=False),
    Column("path", Text, nullable=False),
)
