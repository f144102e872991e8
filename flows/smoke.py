"""A recipe tried whole in about a minute on any machine: `make run RECIPE=<name> SMOKE=1`.

The folder `smoke` of a recipe has made-up rows in the schema of its data (`data/`), the parameters that
are smaller here (`params.yaml`) and, where the recipe brings a pretrained base, the architecture of a tiny
one with random weights (`model.yaml`). Nothing is fetched. What comes out says that the recipe runs, and
nothing about its quality, so it goes to a registry name of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.params import RECIPES
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside
from rlhf.settings import read_params
from tasks.runtime.places import state_folder

VOCABULARY, WIDTH, CONTEXT = 600, 32, 512


@dataclass(frozen=True)
class Smoke:
    """What makes a recipe small.

    Attributes:
        changes: dotted keys and values, laid over the recipe's parameters.
        data: the made-up rows; None where the recipe reads none.
    """

    changes: dict[str, Any]
    data: str | None


def smoke(recipe: str) -> Smoke:
    """The smaller parameters, data and base of a recipe; the base is made here, in the state folder.

    Raises:
        DataError: the recipe has no folder `smoke`.
    """
    folder = RECIPES / recipe / "smoke"
    if not (folder / "params.yaml").is_file():
        raise DataError(f"--smoke: there is no {folder}/params.yaml; the recipe has no smoke test")
    changes = dict(_dotted(read_params(folder / "params.yaml")))
    changes["register.model_name"] = f"smoke-{recipe}"
    rows = folder / "data"
    model = folder / "model.yaml"
    if model.is_file():
        told = yaml.safe_load(model.read_text())
        place = state_folder("smoke") / recipe
        _tiny_base(told["architecture"], bool(told.get("chat")), list(_texts(rows)), place)
        changes |= {"base.path": str(place), "base.revision": None}
    if not rows.is_dir():
        return Smoke(changes, None)
    files = list(rows.iterdir())
    return Smoke(changes, str(files[0] if len(files) == 1 else rows))


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _texts(rows: Path) -> Iterator[str]:
    """Every text of the rows, for the tokenizer."""
    for file in sorted(rows.rglob("*.jsonl")):
        for line in file.read_text().splitlines():
            yield from _strings(json.loads(line))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _tiny_base(architecture: str, chat: bool, texts: list[str], place: Path) -> None:
    """Write a model of two small layers with random weights and a byte-level tokenizer of the texts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlhf.models.scratch import train_tokenizer

    tokenizer = train_tokenizer(texts, "bpe", VOCABULARY, chat)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=WIDTH // 4,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with written_beside(place) as beside:
        AutoModelForCausalLM.from_config(config).save_pretrained(beside)
        tokenizer.save_pretrained(beside)
