"""The table of draft policies, as the newest migration leaves it. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Table, Text, false

from ca.store.engine.schema import metadata

# At most one of each namespace; ``number`` is given once in this store. ``workload_modes`` is null where the draft
# leaves them; ``is_object``: a cluster's object says it.
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
    Column("workload_modes", Text),
    Column("is_object", Boolean, nullable=False, server_default=false()),
)
