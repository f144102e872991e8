"""How Alembic runs here: on the connection that `Store` hands over."""

from alembic import context

from labeling.schema import metadata
from labeling.store import VERSION_TABLE

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":  # two servers that start at once take turns
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7238341)")
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
