"""Accounts: groups, users, passwords, sessions. How often one may guess is in `labeling.throttling`.

Passwords are argon2id hashes. A browser holds a random token, the database only the token's SHA-256. Every
function takes a transaction of `Store`.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from labeling.prepared import Prepared
from labeling.rows import clean, insert, record
from labeling.schema import ROLES, groups, sessions, users
from labeling.throttling import forget_attempts, forget_browsers
from rlhf.data.errors import DataError

SESSION_IDLE = 12 * 3600.0  # seconds without a request after which a session ends
SESSION_WHOLE = 14 * 24 * 3600.0  # seconds after which it ends anyway
SEEN_EVERY = 60.0  # seconds between two notes of when a session was last used
SHORTEST_PASSWORD = 10
HASHES = 4  # at once, because each takes 19 MiB

# The costs are those of OWASP's password storage cheat sheet for argon2id.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_DUMMY = _hasher.hash(secrets.token_hex(16))  # checked for unknown names, so that both answers take as long
_few = threading.Semaphore(HASHES)


@dataclass(frozen=True)
class User:
    """Who is signed in."""

    id: int
    name: str
    role: str
    group_id: int
    group: str

    @property
    def operator(self) -> bool:
        return self.role == "operator"


def group_id(tx: sa.Connection, name: str) -> int:
    """The id of a group, made if it is new."""
    name = clean(name.strip(), "the group's name", 60)
    number = tx.scalar(sa.select(groups.c.id).where(groups.c.name == name))
    return number or insert(tx, groups, {"name": name})


def add_user(
    tx: sa.Connection, name: str, password: str | None, role: str, group: str, who: str = "command line"
) -> int:
    """Add a user. One without a password cannot sign in; imported labels belong to such users.

    Raises:
        DataError: the name is taken, the role unknown, or the password too short.
    """
    name = clean(name.strip(), "the user's name", 60)
    if role not in ROLES:
        raise DataError(f"unknown role {role!r}; it is one of {', '.join(ROLES)}")
    if tx.scalar(sa.select(users.c.id).where(users.c.name == name)):
        raise DataError(f"there is a user {name!r} already; choose another name")
    values = {"name": name, "role": role, "group_id": group_id(tx, group), "active": True}
    hashed = None if password is None else hash_password(password)
    number = insert(tx, users, values | {"password": hashed, "created": time.time()})
    record(tx, who, "add user", name=name, role=role, group=group)
    return number


def hash_password(password: str) -> str:
    """Argon2id hash of a password.

    Raises:
        DataError: shorter than `SHORTEST_PASSWORD`.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise DataError(f"a password needs at least {SHORTEST_PASSWORD} characters")
    with _few:
        return _hasher.hash(clean(password, "the password", 1000))


def change_user(
    tx: sa.Connection,
    name: str,
    who: str,
    *,
    role: str | None = None,
    group: str | None = None,
    active: bool | None = None,
    password: str | None = None,
) -> None:
    """Change what is not None of a user; a new password, or being switched off, ends the user's sessions.
    With a new password no browser is known any more, and no failure counts.

    Raises:
        DataError: no such user, an unknown role, a short password, or nobody left who may operate.
    """
    user = tx.execute(sa.select(users).where(users.c.name == name)).first()
    if user is None:
        raise DataError(f"there is no user {name!r}")
    if role is not None and role not in ROLES:
        raise DataError(f"unknown role {role!r}; it is one of {', '.join(ROLES)}")
    if user.role == "operator" and (role == "labeler" or active is False):
        others = sa.select(users.c.id).where(
            users.c.role == "operator", users.c.active, users.c.password.is_not(None), users.c.id != user.id
        )
        if not tx.scalar(others):
            raise DataError(f"{name!r} is the last operator; make another one first")
    values: dict[str, object] = {}
    if role is not None:
        values["role"] = role
    if group is not None:
        values["group_id"] = group_id(tx, group)
    if active is not None:
        values["active"] = active
    shown = dict(values)
    if password is not None:
        values["password"] = hash_password(password)
        shown["password"] = "changed"
    if not values:
        return
    tx.execute(users.update().where(users.c.id == user.id).values(**values))
    if password is not None or active is False:
        tx.execute(sessions.delete().where(sessions.c.user_id == user.id))
    if password is not None:
        forget_browsers(tx, user.id)
        forget_attempts(tx, name)
    record(tx, who, "change user", name=name, **shown)


def check_password(tx: sa.Connection, name: str, password: str) -> int | None:
    """The id of the active user with this name and password, or None."""
    user = tx.execute(
        sa.select(users.c.id, users.c.password).where(users.c.name == name, users.c.active)
    ).first()
    try:
        with _few:
            _hasher.verify(user.password if user and user.password else _DUMMY, password)
    except (VerifyMismatchError, UnicodeEncodeError):
        return None
    return user.id if user and user.password else None


def open_session(tx: sa.Connection, user_id: int, lasts: float = SESSION_WHOLE) -> str:
    """Start a session and return its token, which is stored nowhere; sessions that ended are removed."""
    now, token = time.time(), secrets.token_urlsafe(32)
    tx.execute(sessions.delete().where(sessions.c.expires < now))
    values = {"user_id": user_id, "created": now, "seen": now, "expires": now + lasts}
    tx.execute(sessions.insert().values(token=_digest(token), **values))
    return token


def close_session(tx: sa.Connection, token: str) -> None:
    """End a session."""
    tx.execute(sessions.delete().where(sessions.c.token == _digest(token)))


def user_of(tx: sa.Connection, token: str, idle: float = SESSION_IDLE) -> tuple[User, float] | None:
    """Who a session's token belongs to, and when it was last noted as used; None if it has ended.

    A session longer than a browser's (an API token) has no idle limit.
    """
    rows, now = _WHO(tx, token=_digest(token)), time.time()
    if not rows or rows[0].expires < now:
        return None
    [row] = rows
    if row.seen < now - idle and row.expires - row.created <= SESSION_WHOLE:
        return None
    return User(row.id, row.name, row.role, row.group_id, row.group), row.seen


def note_seen(tx: sa.Connection, token: str) -> None:
    """Note that a session is in use."""
    tx.execute(sessions.update().where(sessions.c.token == _digest(token)).values(seen=time.time()))


_WHO = Prepared(
    sa.select(
        users.c.id,
        users.c.name,
        users.c.role,
        users.c.group_id,
        groups.c.name.label("group"),
        sessions.c.seen,
        sessions.c.created,
        sessions.c.expires,
    )
    .join_from(sessions, users)
    .join(groups)
    .where(sessions.c.token == sa.bindparam("token"), users.c.active)
)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def id_of(tx: sa.Connection, name: str) -> int:
    """The id of an active user.

    Raises:
        DataError: there is none of this name.
    """
    number = tx.scalar(sa.select(users.c.id).where(users.c.name == name, users.c.active))
    if number is None:
        raise DataError(f"there is no active user {name!r}")
    return number


def all_users(tx: sa.Connection) -> list[sa.Row[Any]]:
    """All users with the name of their `group`, by name."""
    chosen = sa.select(users, groups.c.name.label("group")).join(groups).order_by(users.c.name)
    return list(tx.execute(chosen))


def has_operator(tx: sa.Connection) -> bool:
    """Whether anybody can sign in as operator."""
    operators = users.c.role == "operator", users.c.active, users.c.password.is_not(None)
    return tx.scalar(sa.select(users.c.id).where(*operators).limit(1)) is not None
