"""Files of a model folder that a disk or a copy has damaged: which one, and how it comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open

from rlhf.data.errors import DataError
from rlhf.data.files import damaged_output
from rlhf.data.model_folder import WEIGHTS


@contextmanager
def damage_said(*folders: Path | str) -> Iterator[None]:
    """Say which file is damaged, where the block fails because one of these model folders is not whole.

    Libraries raise a dozen kinds of errors for such files, and name few of them. An error that no file
    explains is raised as it is, so that nothing else is taken for damage.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        yield
    except Exception as error:
        for folder in folders:
            if damaged := damage(Path(folder)):
                raise damaged from error
        raise


def damage(folder: Path, *patterns: str) -> DataError | None:
    """The error for the first file of a model folder that cannot be read; None where all can.

    Args:
        patterns: the files to look at; all that can be damaged by default.
    """
    for file in sorted(file for pattern in patterns or ("*.json", WEIGHTS) for file in folder.glob(pattern)):
        try:
            if file.suffix == ".json":
                if not isinstance(json.loads(file.read_text()), dict):
                    return damaged_output(file, "no JSON object")
            else:
                with safe_open(file, "pt"):  # reads the header, and whether the file is as long as it says
                    pass
        except Exception as error:
            return damaged_output(file, error)
    return None
