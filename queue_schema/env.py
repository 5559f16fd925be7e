"""Alembic's entry: runs migrations on the connection that ``deliveryagent.queue.upgrade`` hands over.

Guarantees: all migrations of one call run in the caller's transaction, on SQLite too, so that a kill in the
middle leaves the schema as it was. Never opens a database itself.
"""

from alembic import context

from queue_schema.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
