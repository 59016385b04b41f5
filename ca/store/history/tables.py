"""The tables of a namespace's history, as the newest migration leaves them. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, LargeBinary, Table, Text

from ca.store.engine.schema import metadata

# ``content``: JSON of ``generations.Content``, compressed (zlib); ``actor``: JSON of an ``AuditActor``.
namespace_generations: Final = Table(
    "namespace_generations",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    Column("act", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

# A mode that goes back by itself, unless it is confirmed.
mode_trials: Final = Table(
    "mode_trials",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("mode", Text, nullable=False),
    Column("back_to", Text, nullable=False),
    Column("started", Double, nullable=False),
    Column("until", Double, nullable=False),
    # The workloads' own modes to go back to; NULL: they stay.
    Column("workload_modes", Text),
)
