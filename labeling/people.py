"""Accounts: groups, users, passwords, sessions, and the throttling of guesses.

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
from labeling.schema import ROLES, groups, logins, sessions, users
from rlhf.data.errors import DataError

SESSION_IDLE = 12 * 3600.0  # seconds without a request after which a session ends
SESSION_WHOLE = 14 * 24 * 3600.0  # seconds after which it ends anyway
SEEN_EVERY = 60.0  # seconds between two notes of when a session was last used
WINDOW = 15 * 60.0  # seconds for which a failure counts
TRIES, TRIES_ADDRESS = 5, 50  # failures allowed to a name and to an address within the window
SHORTEST_PASSWORD = 10

# The costs are those of OWASP's password storage cheat sheet for argon2id.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_DUMMY = _hasher.hash(secrets.token_hex(16))  # checked for unknown names, so that both answers take as long
_few = threading.Semaphore(4)  # hashes at once, because each takes 19 MiB


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


def throttled(tx: sa.Connection, name: str, address: str) -> float:
    """Seconds until this name may be tried again from this address; 0 when it may be now."""
    now, waits = time.time(), [0.0]
    for column, value, most in ((logins.c.name, name, TRIES), (logins.c.address, address, TRIES_ADDRESS)):
        recent = sa.select(logins.c.created).where(column == value, logins.c.created > now - WINDOW)
        times = tx.scalars(recent.order_by(logins.c.created.desc()).limit(most)).all()
        if len(times) == most:
            waits.append(times[-1] + WINDOW - now)
    return max(waits)


def note_attempt(tx: sa.Connection, name: str, address: str) -> int:
    """Count an attempt to sign in and return its id; old ones are forgotten."""
    now = time.time()
    tx.execute(logins.delete().where(logins.c.created < now - WINDOW))
    return insert(tx, logins, {"name": name, "address": address, "created": now})


def forget_attempt(tx: sa.Connection, attempt: int) -> None:
    """Forget an attempt that succeeded, so that it does not count."""
    tx.execute(logins.delete().where(logins.c.id == attempt))


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
