"""The table of draft policies, as the newest migration leaves it. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, Table, Text

from ca.store.engine.schema import metadata

# At most one of each namespace; ``number`` is given once in this store.
policy_drafts: Final = Table(
    "policy_drafts",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("mode", Text),
    Column("group_label", Text, nullable=False),
    Column("rules", Text, nullable=False),
    Column("requires", Text, nullable=False),
    Column("written", Double, nullable=False),
)
