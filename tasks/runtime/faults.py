"""What a machine lacks, in one line in place of a traceback: room on a disk, memory, a tracking database.

Libraries say each of these in a way of their own, so errors are told by what they carry, and by their words
where that is all there is.
"""

from __future__ import annotations

import errno
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.data.disk import disk_fault, free_bytes
from rlhf.settings import Scratch, Settings
from tasks.runtime.places import state_dir

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|cannot allocate memory", re.I
)
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
    if out_of_memory(error):
        return f"out of memory ({first_words(error)}): end what else runs on this machine, and run again"
    return None


def tracking_fault(error: BaseException) -> str | None:
    """What is wrong with MLflow's SQLite database, in one line; None for any other error."""
    why = next(filter(None, map(_sqlite_words, _causes(error))), None)
    if why is None:
        return None
    store = _store()
    if "locked" in why:
        return f"{store}: another program keeps the tracking database locked; end it or wait, and run again"
    if "full" in why:
        return f"{store}: the disk of the tracking database is full; make room on it, and run again"
    if "readonly" in why or "unable to open" in why:
        return (
            f"{store}: the tracking database cannot be written ({why}); let this user write it and its folder"
        )
    if "not a database" in why or "malformed" in why:
        return (
            f"{store}: the tracking database is damaged ({why}); put a copy of it back, or move it away: the "
            "next run begins a new one, without the runs and the registry of the old"
        )
    return (
        f"{store}: the tracking database cannot be used: {why}; `mlflow db upgrade` or a copy of it may help"
    )


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
