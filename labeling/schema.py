"""The tables of the label store, for SQLite and PostgreSQL alike.

Times are seconds since 1970 (UTC). Rows of the tables in `APPEND_ONLY` stay: triggers of the migration refuse
UPDATE and DELETE in the database itself, so a correction is a new row that supersedes an old one. Everything
else (leases, sessions, counters) is working state.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

KINDS = ("compare", "rank", "vote", "edit", "judge")  # what a labeler can be asked
ASK = "ask"  # the kind of the queue that holds what people asked the served model
ROLES = ("labeler", "operator")
APPEND_ONLY = ("labels", "flags", "guidelines", "versions", "version_labels", "audit")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _key() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _of(table: str, index: bool = False) -> Column[int]:
    return Column(f"{table.removesuffix('s')}_id", ForeignKey(f"{table}.id"), nullable=False, index=index)


def _created() -> Column[float]:
    return Column("created", Float, nullable=False)


groups = Table("groups", metadata, _key(), Column("name", String, nullable=False, unique=True))

users = Table(
    "users",
    metadata,
    _key(),
    Column("name", String, nullable=False, unique=True),
    Column("password", String),  # argon2id; null: known from an import, cannot sign in
    Column("role", String, nullable=False),
    _of("groups"),
    Column("active", Boolean, nullable=False),
    _created(),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", String, primary_key=True),  # SHA-256 of what the browser holds
    _of("users", index=True),
    _created(),
    Column("seen", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

logins = Table(  # failed ones, see `labeling.throttling`
    "logins",
    metadata,
    _key(),
    Column("name", String, nullable=False),
    Column("address", String, nullable=False),  # the place, which may be a known browser
    _created(),
    Index("ix_logins_name", "name", "created"),
)

browsers = Table(  # that have signed in as a user, see `labeling.throttling`
    "browsers",
    metadata,
    Column("token", String, primary_key=True),  # SHA-256 of what the browser holds
    Column("user_id", ForeignKey("users.id"), primary_key=True, index=True),
    _created(),
)

projects = Table(
    "projects",
    metadata,
    _key(),
    Column("name", String, nullable=False, unique=True),
    _created(),
)

guidelines = Table(
    "guidelines",
    metadata,
    _key(),
    _of("projects"),
    Column("version", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("author", String, nullable=False),
    _created(),
    UniqueConstraint("project_id", "version"),
)

queues = Table(
    "queues",
    metadata,
    _key(),
    _of("projects"),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("overlap", Integer, nullable=False),  # labels wanted for each item
    Column("lease_seconds", Integer, nullable=False),
    Column("group_id", ForeignKey("groups.id")),  # only this group may work here; null: everybody
    Column("active", Boolean, nullable=False),
    _created(),
    UniqueConstraint("project_id", "name"),
)

# role: work | shared (the pool that more people label) | repeat (the same again, hidden)
# | gold (known answer, not told) | onboarding (known answer, told at once)
items = Table(
    "items",
    metadata,
    _key(),
    _of("queues"),
    Column("role", String, nullable=False),
    Column("position", Float, nullable=False),  # the order in which items are handed out
    Column("prompt", Text, nullable=False),
    Column("messages", JSON(none_as_null=True)),  # turns of a conversation; null: a plain prompt
    Column("outputs", JSON, nullable=False),
    Column("policies", JSON, nullable=False),
    Column("reference", Text),
    Column("split", String),
    Column("source", String, nullable=False),
    Column("content_hash", String, nullable=False),  # of what is shown, see `rows.content_hash`
    Column("expected", JSON(none_as_null=True)),  # the answer of a gold or onboarding item
    Column("explanation", Text),  # shown after an onboarding item
    Column("repeat_of", ForeignKey("items.id")),
    Column("sampling", String, nullable=False),
    Column("propensity", Float, nullable=False),  # chance that this item was drawn from its file
    Column("target", Integer, nullable=False),  # labels wanted
    Column("taken", Integer, nullable=False),  # labels given and leases open
    _created(),
    Index(
        "ix_items_open",
        "queue_id",
        "position",
        postgresql_where=text("taken < target"),
        sqlite_where=text("taken < target"),
    ),
    UniqueConstraint("queue_id", "content_hash", "role"),
)

leases = Table(
    "leases",
    metadata,
    _key(),
    _of("items"),
    _of("queues"),
    _of("users"),
    Column("key", String, nullable=False, unique=True),  # the idempotency key of the rendered form
    Column("shown_order", JSON, nullable=False),
    Column("state", String, nullable=False),  # open | done | expired
    Column("taken", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Index("ix_leases_user", "user_id", "queue_id", "state"),
    Index("ix_leases_item", "item_id", "user_id"),
    Index(
        "ix_leases_open",
        "expires",
        postgresql_where=text("state = 'open'"),
        sqlite_where=text("state = 'open'"),
    ),
)

labels = Table(
    "labels",
    metadata,
    _key(),
    _of("items"),
    _of("queues"),
    _of("users"),
    Column("revision", Integer, nullable=False),  # 1, 2, ... of this person's label of this item
    Column("supersedes", ForeignKey("labels.id"), unique=True),
    Column("key", String, nullable=False, unique=True),  # the same form twice is one label
    Column("kind", String, nullable=False),
    Column("status", String, nullable=False),  # given | skipped | undone
    Column("answer", JSON(none_as_null=True)),
    Column("strength", Integer),
    Column("seconds", Float),
    Column("shown_order", JSON, nullable=False),
    Column("labeler_group", String, nullable=False),
    Column("guideline_version", String),
    Column("content_hash", String, nullable=False),
    Column("note", Text, nullable=False),  # why skipped; any remark
    Column("correct", Float),  # share right of a gold, onboarding or repeated item
    _created(),
    UniqueConstraint("item_id", "user_id", "revision"),
    Index("ix_labels_user", "user_id", "queue_id", "id", "status"),
)

flags = Table(
    "flags",
    metadata,
    _key(),
    _of("items"),
    _of("users"),
    Column("note", Text, nullable=False),
    _created(),
)

# A version of the labels is what one training round uses; no label is in two versions.
versions = Table(
    "versions",
    metadata,
    _key(),
    _of("projects"),
    Column("number", Integer, nullable=False),
    Column("author", String, nullable=False),
    _created(),
    UniqueConstraint("project_id", "number"),
)

version_labels = Table(
    "version_labels",
    metadata,
    Column("label_id", ForeignKey("labels.id"), primary_key=True),
    _of("versions", index=True),
)

audit = Table(
    "audit",
    metadata,
    _key(),
    Column("who", String, nullable=False),
    Column("action", String, nullable=False),
    Column("detail", JSON, nullable=False),
    _created(),
)
