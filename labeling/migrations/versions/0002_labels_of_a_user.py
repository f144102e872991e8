"""The index of a person's labels in a queue tells the newest, and what was taken back, by itself."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("ix_labels_user", "labels")
    op.create_index("ix_labels_user", "labels", ["user_id", "queue_id", "id", "status"], unique=False)
