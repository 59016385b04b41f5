"""The table of renewal keys, as the newest migration leaves it. Pure."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Double, Index, Table, Text

from ca.store.engine.schema import metadata

# By the SHA-256 of the public key. One of a sidecar's can be used; the others were, so that another use is noticed.
renewal_keys: Final = Table(
    "renewal_keys",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("made", Double, nullable=False),
    Column("spent", Double),
    Column("following", Text, nullable=False),
    Index("ix_renewal_keys_instance", "instance"),
    Index("ix_renewal_keys_spent", "spent", "instance"),
)
