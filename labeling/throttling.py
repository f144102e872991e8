"""How often a password may be guessed, and how its owner gets in while others guess.

Failures are counted by name and place together. A place is a browser that has signed in under this name
before, or else an address. So nobody's guesses keep others out who sign in elsewhere, in a browser that is
known, or under another name. Guesses from many addresses are limited by name; known browsers are exempt from
that, and `forget_attempts` (`python -m labeling user unlock NAME`) lets everybody try again. An address alone
has no limit: one person's guesses would lock out all who share it.

Every function takes a transaction of `Store`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import time

import sqlalchemy as sa

from labeling.rows import insert
from labeling.schema import browsers, logins, users

WINDOW = 15 * 60.0  # seconds for which a failure counts
TRIES = 5  # failures allowed to a name at one place within the window
TRIES_NAME = 50  # failures allowed to a name at all addresses together
KNOWN = 180 * 24 * 3600.0  # seconds for which a browser is known
_BROWSER = "browser "  # begins the places that are browsers


def place_of(tx: sa.Connection, name: str, address: str, browser: str | None) -> str:
    """Where an attempt to sign in comes from.

    Args:
        tx: a transaction.
        name: as whom somebody wants to sign in.
        address: the IP address that the request comes from. Of IPv6 the first 64 bits count, because one
            machine has all addresses that begin with them.
        browser: the token that the browser holds.
    """
    known = (
        sa.select(browsers.c.token)
        .join(users)
        .where(
            browsers.c.token == _digest(browser or ""),
            browsers.c.created > time.time() - KNOWN,
            users.c.name == name,
        )
    )
    if browser and tx.scalar(known):
        return _BROWSER + _digest(browser)
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(parsed), 64), strict=False))


def throttled(tx: sa.Connection, name: str, place: str) -> float:
    """Seconds until this name may be tried again at this place; 0 when it may be now."""
    mine = logins.c.name == name
    limits = [(mine & (logins.c.address == place), TRIES)]
    if not place.startswith(_BROWSER):
        limits.append((mine & ~logins.c.address.startswith(_BROWSER), TRIES_NAME))
    now, waits = time.time(), [0.0]
    for chosen, most in limits:
        recent = sa.select(logins.c.created).where(chosen, logins.c.created > now - WINDOW)
        times = tx.scalars(recent.order_by(logins.c.created.desc()).limit(most)).all()
        if len(times) == most:
            waits.append(times[-1] + WINDOW - now)
    return max(waits)


def note_attempt(tx: sa.Connection, name: str, place: str) -> int:
    """Count an attempt to sign in and return its id; old ones are forgotten."""
    now = time.time()
    tx.execute(logins.delete().where(logins.c.created < now - WINDOW))
    return insert(tx, logins, {"name": name, "address": place, "created": now})


def forget_attempt(tx: sa.Connection, attempt: int) -> None:
    """Forget an attempt that succeeded, so that it does not count."""
    tx.execute(logins.delete().where(logins.c.id == attempt))


def forget_attempts(tx: sa.Connection, name: str) -> None:
    """Forget all failures under a name, so that it may be tried again everywhere."""
    tx.execute(logins.delete().where(logins.c.name == name))


def remember_browser(tx: sa.Connection, user_id: int, browser: str | None) -> str:
    """Make a browser known for a user who has signed in with it.

    Args:
        tx: a transaction that writes.
        user_id: who has signed in.
        browser: the token that it holds already; one browser may be known for several users.

    Returns:
        The token that it is to hold, of which only the hash is stored.
    """
    now, token = time.time(), browser or secrets.token_urlsafe(32)
    mine = (browsers.c.token == _digest(token)) & (browsers.c.user_id == user_id)
    tx.execute(browsers.delete().where(mine | (browsers.c.created < now - KNOWN)))
    tx.execute(browsers.insert().values(token=_digest(token), user_id=user_id, created=now))
    return token


def forget_browsers(tx: sa.Connection, user_id: int) -> None:
    """Forget the browsers that are known for a user."""
    tx.execute(browsers.delete().where(browsers.c.user_id == user_id))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
