"""What a machine lacks, in one line in place of a traceback: room on a disk, memory, a tracking database.

Libraries say each of these in a way of their own, so errors are told by what they carry, and by their words
where that is all there is.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rlhf.data.disk import disk_fault, free_bytes
from rlhf.data.errors import DataError
from rlhf.settings import Scratch, Settings
from tasks.runtime.places import state_dir

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|cannot allocate memory|ALLOC_FAILED",
    re.I,
)
_AWAY = re.compile(r"API request to (\S+) failed")  # MLflow's client
TRACKING = "the tracking database"
LOCKED_SECONDS = 20.0  # how long another program may keep a database locked, the same as for MLflow
_SQLITE = re.compile(r"\(sqlite3\.\w+\) ([^\n]*)")
# What to halve where a stage lacks memory: the parameter that decides most of what it needs.
_HALVE = {
    "base": "base.batch_size",
    "sft": "sft.batch_size",
    "collect": "evaluate.response_length",
    "reward": "reward.batch_size",
    "ppo": "ppo.micro_batch_tokens",
    "evaluate": "evaluate.response_length",
}
RATES = {
    "base": "base.learning_rate and base.muon_learning_rate",
    "sft": "sft.learning_rate",
    "reward": "reward.learning_rate",
    "ppo": "ppo.learning_rate",
}


def machine_fault(error: BaseException) -> str | None:
    """What the machine lacks, in one line that says what to do; None for any other error."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and (told := disk_fault(cause, _place(cause))):
            return told
        if _is_of_tracking(cause) and (told := tracking_fault(cause)):
            return told
        if away := _AWAY.search(str(cause)):
            return f"MLflow's server does not answer at {away[1]}; start it (make up), and run again"
    if out_of_memory(error):
        return f"out of memory ({first_words(error)}): end what else runs on this machine, and run again"
    return None


def tracking_fault(error: BaseException) -> str | None:
    """What is wrong with MLflow's SQLite database, in one line; None for any other error."""
    why = next(filter(None, map(_sqlite_words, _causes(error))), None)
    if why is None:
        return None
    return sqlite_fault(why, _store(), TRACKING) or (
        f"{_store()}: {TRACKING} cannot be used: {why}; `mlflow db upgrade` or a copy of it may help"
    )


def sqlite_fault(said: str, place: str, database: str) -> str | None:
    """What SQLite's words mean, in one line; None for words that are not known.

    Args:
        said: the words, which other text may surround.
        place: where the database is; `database`: which one it is.
    """
    if re.search(r"database (table )?is locked", said):
        return f"{place}: another program keeps {database} locked; end it or wait, and run again"
    if "disk is full" in said:
        return f"{place}: the disk of {database} is full; make room on it, and run again"
    if why := re.search(r"readonly database|unable to open database file", said):
        return f"{place}: {database} cannot be written ({why[0]}); let this user write it and its folder"
    if why := re.search(r"file is not a database|malformed", said):
        return (
            f"{place}: {database} is damaged ({why[0]}); put a copy of it back, or move it away: the next "
            "start makes a new one, without what was in the old"
        )
    return None


def refuse_bad_sqlite(path: Path, database: str) -> None:
    """Refuse a SQLite file that is locked, damaged or closed; one that is not there will be made.

    A program that uses it would say so with a traceback; MLflow would first try for a minute and a half.

    Raises:
        DataError: what is wrong, and how to mend it.
    """
    if not path.exists():
        return
    try:
        # It may write: what a killed program left half done is taken back first.
        address = f"{path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, LOCKED_SECONDS, uri=True)) as opened:
            opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        said = str(error)
        raise DataError(sqlite_fault(said, str(path), database) or f"{path}: {database}: {said}") from None


def full_disk(said: str, *places: Path) -> str | None:
    """The line for a full disk where a program's words say so; None where they do not.

    Args:
        said: the words; a file that they name is the one that found no room.
        places: folders that it may have been otherwise; the one with the least room is named.
    """
    full = os.strerror(errno.ENOSPC)
    if full not in said:
        return None
    named = re.search(rf"{re.escape(full)}: '(/[^'\n]+)'", said)
    place = Path(named[1]) if named else min(places, key=free_bytes)
    return disk_fault(OSError(errno.ENOSPC, full), place)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in Python, Arrow or torch, in memory or on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch.OutOfMemoryError is a RuntimeError, too
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))
    )


def memory_advice(stage: str, settings: Settings) -> str:
    """What to do where a stage lacks memory: the setting to halve, and from where the next run goes on."""
    key = _HALVE.get(stage)
    if key is None or (stage == "base" and not isinstance(settings.base, Scratch)):
        return "end what else runs on this machine, or take one with more memory, and run again"
    value: Any = settings.model_dump(by_alias=True)
    for part in key.split("."):
        value = value[part]
    halve, goes_on = f"halve {key}, {value} now", "the next run goes on from the last checkpoint"
    if stage not in RATES:
        return f"{halve}, or end what else runs on this machine, and run again"
    if stage == "ppo":  # parts of a step change no result but by rounding, and so no key of a stage
        return f"{halve}; {goes_on}"
    if getattr(settings.base, "gradient_checkpointing", True):
        return f"end what else runs on this machine, and {goes_on}; or {halve}, and it starts over"
    return f"set base.gradient_checkpointing to true, and {goes_on}; or {halve}, and it starts over"


def memory_line(stage: str, settings: Settings, error: BaseException) -> str:
    """The line for a stage that could not get the memory it asked for."""
    return f"{stage}: out of memory ({first_words(error)}): {memory_advice(stage, settings)}"


def killed_line(stage: str, settings: Settings) -> str:
    """The line for a stage whose process was killed, as a system does that has no memory left."""
    return (
        f"{stage}: its process was killed (signal 9), by hand or because the machine had no memory left: "
        f"{memory_advice(stage, settings)}"
    )


def first_words(error: BaseException) -> str:
    """The first line of an error, at most 120 characters; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised for or while."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _place(error: OSError) -> Path:
    """The file of an error; where it names none, the folder that a stage writes to with the least room."""
    name = error.filename2 or error.filename
    if isinstance(name, str | Path):
        return Path(name)
    return min((Path.cwd(), state_dir(), Path(tempfile.gettempdir())), key=free_bytes)


def _is_of_tracking(error: BaseException) -> bool:
    return type(error).__module__.startswith("mlflow.")


def _sqlite_words(error: BaseException) -> str | None:
    """What SQLite said, through whatever wrapped it."""
    if isinstance(error, sqlite3.Error):
        return str(error)
    told = _SQLITE.search(str(error))
    return told[1] if told else None


def _store() -> str:
    """The file of the tracking database, as far as MLflow says."""
    mlflow = sys.modules.get("mlflow")
    uri = str(mlflow.get_tracking_uri()) if mlflow else ""
    return uri.removeprefix("sqlite:///") if uri.startswith("sqlite:") else "MLflow"
