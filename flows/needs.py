"""What a recipe needs and this machine lacks, said before anything is fetched or read.

`needs.yaml` in the folder of a recipe may name `gpu_memory_gb`, `disk_gb`, `set` (parameters that the user
has to give, each with the reason) and `licences` (what is used, under which licence, and where that is
written).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import yaml

from flows.params import RECIPES
from rlhf.data.errors import DataError
from rlhf.settings import Settings

GB = 1e9


def check_needs(recipe: str, settings: Settings) -> list[str]:
    """The licences of what a recipe uses, a line each.

    Args:
        recipe: its name.
        settings: the parameters of the run.

    Raises:
        DataError: what the machine or the parameters lack, all of it in one line.
    """
    path = RECIPES / recipe / "needs.yaml"
    if not path.is_file():
        return []
    needs = yaml.safe_load(path.read_text())
    lacks = [
        *_memory(needs.get("gpu_memory_gb", 0)),
        *_disk(needs.get("disk_gb", 0)),
        *_parameters(needs.get("set", {}), settings),
    ]
    if lacks:
        raise DataError(
            f"recipe {recipe} cannot run here: {'; '.join(lacks)}; `make run RECIPE={recipe} SMOKE=1` "
            "tries it small on any machine"
        )
    return [f"uses {told['what']}, {told['licence']} ({told['url']})" for told in needs.get("licences", [])]


def _memory(needed: float) -> list[str]:
    if not needed:
        return []
    import torch  # here, since it takes seconds to load

    if not torch.cuda.is_available():
        return [f"it needs a GPU with {needed:g} GB of memory and there is none"]
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    if max(sizes) >= needed * GB:
        return []
    return [f"it needs a GPU with {needed:g} GB of memory, the largest has {max(sizes) / GB:.0f}"]


def _disk(needed: float) -> list[str]:
    free = psutil.disk_usage(str(Path.cwd())).free
    return [] if free >= needed * GB else [f"it needs {needed:g} GB of disk, {free / GB:.0f} are free"]


def _parameters(wanted: dict[str, str], settings: Settings) -> list[str]:
    lacks = []
    for key, reason in wanted.items():
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part, None)
        if value in (None, [], {}):
            lacks.append(f"{key} is not set: {reason}")
    return lacks
