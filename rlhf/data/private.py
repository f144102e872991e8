"""Files and folders that no other user of the machine can look into.

Databases hold labels and hashes of passwords, logs hold what was trained on. By the usual umask everybody on
the machine could read them.
"""

from __future__ import annotations

import os
from pathlib import Path

OTHERS = 0o077  # the bits of everybody but the owner
PARTS = ("", "-wal", "-shm", "-journal")  # SQLite's files beside a database, which are made with its mode


def private_folder(path: Path) -> Path:
    """A folder for its owner alone: made where it is missing, closed where it is open."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close(path)
    return path


def private_file(path: Path) -> Path:
    """A file for its owner alone: made empty where it is missing, closed where it is open.

    An empty file is an empty database to SQLite.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))
    for part in PARTS:
        _close(path.with_name(path.name + part))
    return path


def _close(path: Path) -> None:
    """Take from others what they may do with a path, where that is for us to decide."""
    try:
        about = path.stat()
        if about.st_mode & OTHERS and about.st_uid == os.geteuid():
            path.chmod(about.st_mode & ~OTHERS & 0o7777)
    except OSError:  # it is not there, or it is on a disk that nobody can write to
        pass
