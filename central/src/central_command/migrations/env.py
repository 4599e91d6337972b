"""Alembic's entry point; the connection comes from `central_command.migrate`, never from a configuration file."""

from __future__ import annotations

from alembic import context

from central_command.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
