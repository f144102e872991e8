"""Where a result stands in the registry, without loading MLflow while nothing can have changed.

To ask the registry takes longer than everything else that a run with nothing to do has to find out. Its
answer depends on the database and on the result's record, so the last answer is kept with the state of both,
and holds for as long as that is the same. Only a database in a file has such a state; a server is asked.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.settings import load_settings
from tasks.runtime.places import state_dir
from tasks.runtime.registry import RECORD, Standing, standing
from tasks.runtime.tracking import store_uri

KEPT = "standing.json"  # in the state folder
SETTLED = 2.0  # seconds: a file that changed as recently could change again and show the same time
_SQLITE = "sqlite:///"


def known_standing(folder: Path | str = ".") -> Standing | None:
    """Where the result in a folder stands in the registry; None where nothing was registered.

    Raises:
        StageError: the registry cannot be asked.
    """
    state, kept = _state(Path(folder)), state_dir() / KEPT
    if state is None:
        return standing(folder)
    try:
        known = read_json(kept)
        if known["state"] == state:
            return Standing(**known["standing"])
    except (DataError, ValueError, KeyError, TypeError):  # there is none, or another version wrote it
        pass
    answer = standing(folder)
    if answer:
        with suppress(OSError):  # it is asked again then
            write_json(kept, {"state": state, "standing": asdict(answer)})
    return answer


def _state(folder: Path) -> str | None:
    """A hash of what the registry's answer depends on; None where that cannot be told."""
    uri = store_uri()
    if not uri.startswith(_SQLITE) or "?" in uri or os.environ.get("MLFLOW_REGISTRY_URI"):
        return None
    database = Path(uri.removeprefix(_SQLITE)).resolve()
    try:
        parts: list[object] = [str(database), (folder / RECORD).read_text()]
        for path in (database, *(Path(f"{database}{end}") for end in ("-wal", "-journal"))):
            if path == database or path.exists():
                file = path.stat()
                if time.time() - file.st_mtime < SETTLED:
                    return None
                parts += [path.name, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns]
    except OSError:
        return None
    parts.append(load_settings(folder / "params.yaml").register_.model_name)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
