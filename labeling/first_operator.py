"""The first operator's account, whose password is shown once."""

from __future__ import annotations

import secrets

from labeling import people
from labeling.store import Store


def ensure_operator(store: Store, name: str = "operator") -> None:
    """Where nobody can sign in as operator, make an account with a random password and print that."""
    with store.write() as tx:
        if people.has_operator(tx):
            return
        password = secrets.token_urlsafe(12)
        people.add_user(tx, name, password, "operator", "operators")
    print_login(name, password)


def print_login(name: str, password: str) -> None:
    """Print a new password, the only time it is shown."""
    print(f"sign in as {name!r} with the password {password}  (shown once; change it under 'My account')")
