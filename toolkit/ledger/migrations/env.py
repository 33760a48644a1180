"""Alembic's environment: runs on the connection that `toolkit.ledger.migrate` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="alembic_version",
    version_table_schema="toolkit",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
