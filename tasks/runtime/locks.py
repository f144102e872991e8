"""One process of this machine at a time: locks by name in the state folder."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.runtime.places import state_folder


@contextmanager
def alone(what: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock of this machine's state folder; the lock of a process that dies is free at once.

    Args:
        what: the lock's name.
        waiting: called once if somebody else holds it.
    """
    path = state_folder("locks") / what
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
