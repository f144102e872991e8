"""A tokenizer from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of a folder, with the ids of the folder's own tokenizer.json; it pads on the left."""
    return AutoTokenizer.from_pretrained(folder, padding_side="left")
