"""An item may be a conversation: its turns before the outputs, null where the prompt is plain text."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("items", sa.Column("messages", sa.JSON(none_as_null=True), nullable=True))
