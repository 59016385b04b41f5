"""Alembic's entry: runs on the connection that ``ca.store.engine.database`` hands over. I/O."""

from __future__ import annotations

from alembic import context

from ca.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
