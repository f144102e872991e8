"""Alembic's migrations of the label store; `Store` runs them when it opens a database."""
