"""Files that stages write, each beside its place and then renamed; JSON that holds no NaN."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.data.disk import faults_of, put_in_place
from rlhf.data.errors import DataError


@contextmanager
def written_beside(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; renamed into place when all went well.

    Raises:
        DataError: the disk is full, read-only or broken; `path` is then as it was, and nothing beside it.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with faults_of(path, beside):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            if path.is_dir():
                _remove(path)
            put_in_place(beside, path)
    finally:
        _remove(beside)


def _remove(path: Path) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):  # a read-only disk refuses to remove also what is not there
        path.unlink()


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON with sorted keys and a final newline, beside then renamed.

    Raises:
        DataError: a number is NaN or infinite: JSON has none of these, and a figure that does not exist is
            null.
    """
    with written_beside(path) as beside:
        try:
            text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise DataError(f"{path}: {_no_number(value) or 'a figure'} is NaN or infinite") from None
        beside.write_text(text + "\n", encoding="utf-8")


def _no_number(value: Any, place: str = "") -> str | None:
    """Where the first NaN or infinity stands: `policies.ppo.kl`."""
    if isinstance(value, float) and not math.isfinite(value):
        return place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    places = (_no_number(inner, f"{place}.{key}".lstrip(".")) for key, inner in inside)
    return next(filter(None, places), None)


def missing_output(path: Path | str) -> DataError:
    """The error for a file of a stage that is not there."""
    return DataError(f"{path}: no such file; run the stage that writes it (dvc repro)")


def damaged_output(path: Path | str, error: object) -> DataError:
    """The error for a file of a stage that is there and cannot be read."""
    return DataError(
        f"{path}: damaged ({' '.join(str(error).split())}); `dvc checkout` brings it back as it was written, "
        "else delete it and run the stage that writes it again (dvc repro)"
    )


def read_json(path: Path | str) -> Any:
    """Read JSON that a stage wrote.

    Raises:
        DataError: no such file, or one that is damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing_output(path) from None
    except (ValueError, RecursionError) as error:  # cut off, or bytes that are no text
        raise damaged_output(path, error) from None
