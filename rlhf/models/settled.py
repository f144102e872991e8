"""A folder with a model of ours: what is settled of the model, and the base that its adapters sit on.

`policy.json` beside the weights says what was settled: context, template, arithmetic. In a folder of adapters
it also names the folder of their base, by the path from there and by the hash of the weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rlhf.compute import this_device
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.data.model_folder import weights_hash
from rlhf.models.adapters import Adapters, load_adapters
from rlhf.models.damage import damage, damage_said

SETTLED = "policy.json"


@dataclass(frozen=True)
class Settled:
    """What is settled of a model once, when it becomes the base of a run, and is the same for all that learn
    from it.

    Attributes:
        context: the most tokens of a sequence; None for as many as the model's positions reach.
        template: `auto`, `plain` or `chat`, see `rlhf.models.template.template_of`.
        arguments: what the chat template is rendered with besides the messages.
        dtype: of the weights in memory, `float32` or `bfloat16`; weights that learn are always in float32.
        attention: the implementation in transformers; None for its default.
        quantization: `none`, or `4bit` for weights that do not learn and lie in memory in 4 bits.
    """

    context: int | None = None
    template: str = "auto"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    attention: str | None = None
    quantization: str = "none"


UNSETTLED = Settled()


def open_folder(path: Path | str, dtype: str | None = None) -> tuple[Path, Settled, Adapters | None]:
    """The folder that a model's weights come from, what is settled of it, and its adapters if it has some.

    Raises:
        DataError: no such folder, other weights than it was saved with, or the base of the adapters is
            missing or another one.
    """
    path = Path(path)
    with damage_said(path):
        adapters = load_adapters(path)
    settled = read_settled(path)
    if dtype is not None:
        settled = replace(settled, dtype=dtype)
    folder = base_of(path) if adapters else path
    if not (folder / "config.json").exists():
        raise DataError(f"{folder}: no model here; run the stage that writes it (dvc repro)")
    checked_hash(path)  # `base_of` has checked what adapters sit on
    return folder, settled, adapters


def base_of(path: Path) -> Path:
    """The model folder that the adapters in a folder sit on.

    Raises:
        DataError: it is not there, or has other weights than those that the adapters learnt on.
    """
    base = read_json(path / SETTLED).get("base") if (path / SETTLED).exists() else None
    if not base:
        raise DataError(f"{path}: adapters without {SETTLED}, which names their base; merge them into it")
    folder = Path(os.path.normpath(path / base["path"]))
    if not (folder / "config.json").exists():
        raise DataError(
            f"{path}: the model that these adapters sit on is missing: {folder}; copy it there, too "
            f"(hash {base['hash'][:12]})"
        )
    if (hash_there := checked_hash(folder)) != base["hash"]:
        raise DataError(
            f"{path}: these adapters sit on a model of hash {base['hash'][:12]}, and {folder} has "
            f"{hash_there[:12]}; bring that one back, or train them again"
        )
    return folder


def hash_of(folder: Path) -> str:
    """The hash of a model folder's weights: the one that it was saved with, else of the files."""
    recorded = read_json(folder / SETTLED).get("hash") if (folder / SETTLED).exists() else None
    return str(recorded or weights_hash(folder))


def checked_hash(folder: Path) -> str:
    """The hash of a model folder's weights, which are those that it was saved with.

    Raises:
        DataError: other weights, whose context, template and arithmetic nobody has settled.
    """
    there, said = weights_hash(folder), hash_of(folder)
    if there != said:
        raise damage(folder) or DataError(
            f"{folder}: its weights have the hash {there[:12]}, and {SETTLED} is of those with {said[:12]}; "
            f"bring these back (`dvc checkout {folder}`), or run the stage that writes the folder (dvc repro)"
        )
    return there


def read_settled(folder: Path | str) -> Settled:
    """What was settled of the model in a folder; the defaults where nothing was, as of a user's own model."""
    path = Path(folder, SETTLED)
    if not path.exists():
        return Settled()
    known = read_json(path)
    return Settled(**{name: known[name] for name in asdict(UNSETTLED) if name in known})


def how_to_load(settled: Settled) -> dict[str, Any]:
    """The keywords of `from_pretrained`: safetensors only, no code of the folder, the settled arithmetic."""
    more: dict[str, Any] = {"attn_implementation": settled.attention} if settled.attention else {}
    if settled.quantization == "4bit":
        more["quantization_config"] = four_bits()
    device = this_device()
    if device.type != "cpu" or settled.quantization != "none":
        more["device_map"] = {"": device}
    return {"use_safetensors": True, "dtype": getattr(torch, settled.dtype), **more}


def four_bits() -> Any:
    """Weights as 4-bit NormalFloats, computed with in bfloat16 (QLoRA, Dettmers et al. 2023).

    Raises:
        DataError: no GPU, or bitsandbytes is not installed.
    """
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise DataError("base.quantization is 4bit, which needs a GPU, and there is none; set it to none")
    if find_spec("bitsandbytes") is None:
        raise DataError("base.quantization is 4bit, which needs bitsandbytes: pip install -e '.[4bit]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
