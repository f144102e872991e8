"""The index of a person's labels in a queue is enough to see the newest one and what was taken back."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("ix_labels_user", "labels")
    op.create_index("ix_labels_user", "labels", ["user_id", "queue_id", "id", "status"], unique=False)
