"""Alembic's entry: runs the revisions on the connection that `longhaul.schema` hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
# Runs in the transaction of each revision.
note = context.config.attributes["on_version_apply"]
context.configure(connection=connection, transaction_per_migration=True, on_version_apply=note)
with context.begin_transaction():
    context.run_migrations()
